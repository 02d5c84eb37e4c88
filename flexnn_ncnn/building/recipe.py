"""How ncnn is built: pure functions from choices and CPU features to CMake's arguments and a name for the result."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from flexnn_ncnn.building.series import Series

__all__ = ["Recipe", "cmake_arguments", "cpu_features", "default_jobs", "recipe_key"]

JOB_BYTES = 600_000_000
"""Memory that the compiler takes at most for one of ncnn's files."""

_AVX512 = ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")
# CMake option -> the CPU feature, as Linux names it, without which its kernels are never called
_AVX512_KERNELS = {"AVX512VNNI": "avx512_vnni", "AVX512BF16": "avx512_bf16", "AVX512FP16": "avx512_fp16"}
_AVX2_KERNELS = {"AVXVNNI": "avx_vnni", "AVXVNNIINT8": "avx_vnni_int8", "AVXVNNIINT16": "avx_vnni_int16"}
_AVX2_KERNELS |= {"AVXNECONVERT": "avx_ne_convert"}
_AVX_KERNELS = {"FMA": "fma", "F16C": "f16c", "AVX2": "avx2", "FMA4": "fma4", "XOP": "xop"}
_ARM64_KERNELS = {
    "ARM82": "asimdhp",
    "ARM82DOT": "asimddp",
    "ARM82FP16FML": "asimdfhm",
    "ARM84BF16": "bf16",
    "ARM84I8MM": "i8mm",
    "ARM86SVE": "sve",
    "ARM86SVE2": "sve2",
    "ARM86SVEBF16": "svebf16",
    "ARM86SVEI8MM": "svei8mm",
    "ARM86SVEF32MM": "svef32mm",
}


@dataclass(frozen=True)
class Recipe:
    """What to build.

    Attributes:
        native: only the kernels this CPU runs; the wheel works on others of its kind, slowly.
        vulkan: with GPU support, which this package makes no use of.
    """

    native: bool = False
    vulkan: bool = False


def cpu_features(cpuinfo: str) -> frozenset[str]:
    """The features of the first CPU in the text of Linux' /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(values.split())
    return frozenset()


def cmake_arguments(recipe: Recipe, series: Series, machine: str, features: Collection[str]) -> list[str]:
    """Arguments for CMake beside those ncnn's setup.py gives; none has a space in it.

    Args:
        recipe: what to build.
        series: the patches that are in it.
        machine: as `platform.machine` has it.
        features: from `cpu_features`.
    """
    names = ",".join(patch.name for patch in series.patches)
    options: dict[str, bool] = {"VULKAN": recipe.vulkan, "BUILD_TESTS": False}
    if recipe.native:
        options |= _native_options(machine, frozenset(features))
    return [
        f"-DNCNN_VERSION={series.ncnn_version.rpartition('.')[2]}",
        f"-DNCNN_PYTHON_VERSION={series.version}",
        f"-DNCNN_PYTHON_PATCHES={names}",
        *(f"-DNCNN_{name}={'ON' if value else 'OFF'}" for name, value in options.items()),
    ]


def _native_options(machine: str, features: frozenset[str]) -> dict[str, bool]:
    """ncnn's ISA options: the dispatch stays, as what the wheel computes must not depend on where it was built."""
    if machine in ("aarch64", "arm64"):
        return _present(_ARM64_KERNELS, features)
    if machine not in ("x86_64", "AMD64") or "avx" not in features:
        return {}
    if features.issuperset(_AVX512):
        # F16C also decides whether InnerProduct stores half-precision weights.
        return {"AVX": False, "F16C": True, "AVX512": True, **_present(_AVX512_KERNELS, features)}
    return {"AVX512": False, **_present(_AVX_KERNELS, features), **_present(_AVX2_KERNELS, features)}


def _present(kernels: Mapping[str, str], features: frozenset[str]) -> dict[str, bool]:
    return {option: feature in features for option, feature in kernels.items()}


def default_jobs(num_cpus: int, free_bytes: int) -> int:
    """How many files to compile at a time: as many as there are CPUs and memory for."""
    return max(1, min(num_cpus, free_bytes // JOB_BYTES))


def recipe_key(series: Series, arguments: Collection[str], python_tag: str, platform_tag: str) -> str:
    """Names a build by everything it is made of: source, patches, arguments, and what it is built for."""
    parts = [series.archive_sha256, *(patch.sha256 for patch in series.patches), *arguments, python_tag, platform_tag]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
