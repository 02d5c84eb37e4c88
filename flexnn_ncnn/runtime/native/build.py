"""How the installed ncnn was built, and what it uses of this CPU."""

from __future__ import annotations

import ncnn

__all__ = ["has_fp16_arithmetic", "has_threads"]


def has_threads() -> bool:
    """Whether it computes on several threads: without OpenMP a switch of OpenMP's does not stay as it is set."""
    before = ncnn.get_omp_dynamic()
    try:
        ncnn.set_omp_dynamic(1)
        return bool(ncnn.get_omp_dynamic())
    finally:
        ncnn.set_omp_dynamic(before)


def has_fp16_arithmetic() -> bool:
    """Whether it can compute in half precision on this CPU."""
    return bool(ncnn.cpu_support_arm_asimdhp())
