"""What this device is and can do."""

from __future__ import annotations

from flexnn_ncnn.device.ram import ram_bytes
from flexnn_ncnn.records.machine import Device, Machine, this_machine

__all__ = ["here", "this_device"]


def here() -> Machine:
    """This machine, with the ncnn that is installed."""
    from flexnn_ncnn.runtime import native

    return this_machine(native.ncnn_version())


def this_device() -> Device:
    """This machine with what others should know of it."""
    from flexnn_ncnn.runtime import native

    return Device(here(), ram_bytes(), native.has_threads())
