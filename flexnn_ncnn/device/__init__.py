"""What this device is and can do."""

from __future__ import annotations

from flexnn_ncnn.machine import Machine, this_machine

__all__ = ["here"]


def here() -> Machine:
    """This machine, with the ncnn that is installed."""
    from flexnn_ncnn.runtime import native

    return this_machine(native.ncnn_version())
