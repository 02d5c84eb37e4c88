"""Small devices imitated on the machine at hand: so much memory, storage so fast, so many cores, by control groups.

Processors are not imitated: computing is as fast as here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eval.cgroups import ControlGroup, control_group, disk_of, why_unavailable
from flexnn_ncnn.errors import UsageError

__all__ = ["DEVICES", "Device", "check_device", "imitated"]

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Device:
    """What is imitated.

    Attributes:
        title: for people.
        memory_bytes: what one process may hold, page cache included: the system's own share is left out; None for no
            limit.
        read_bytes_per_second: of its storage, read from begin to end; None for no limit.
        cores: at most, where the machine has as many; None for all.
    """

    title: str
    memory_bytes: int | None = None
    read_bytes_per_second: int | None = None
    cores: int | None = None


DEVICES: dict[str, Device] = {
    "host": Device("this machine as it is"),
    "pi4-sd": Device("Raspberry Pi 4B with 2 GB, SD card", 1600 * _MB, 43 * _MB, 4),
    "pi5-nvme": Device("Raspberry Pi 5 with 8 GB, NVMe at PCIe 2.0 x1", 7200 * _MB, 430 * _MB, 4),
    "pi-zero2w": Device("Raspberry Pi Zero 2 W, 512 MB, SD card", 350 * _MB, 22 * _MB, 4),
    "phone-ufs": Device("phone that lets an app have 512 MB, UFS 3.1", 512 * _MB, 1500 * _MB, 8),
}


def check_device(name: str) -> str:
    """Why a device cannot be imitated here, or "": of "host" why its page cache cannot be counted.

    Raises:
        UsageError: it is to be imitated and that cannot be done.
    """
    missing = why_unavailable()
    if missing and name != "host":
        raise UsageError(
            f"{name} cannot be imitated: {missing}", hint="run it as root where Linux has them, or measure the host"
        )
    return missing


@contextmanager
def imitated(name: str, on_disk: Path, memory_bytes: int | None = None) -> Iterator[ControlGroup | None]:
    """A group for processes that are to run as on a device; None where there are none and the device is the host.

    Args:
        name: in `DEVICES`.
        on_disk: a file on the disk whose reads are slowed down.
        memory_bytes: a limit other than the device's.

    Raises:
        UsageError: as `check_device`.
    """
    if check_device(name):
        yield None
        return
    device = DEVICES[name]
    with control_group("flexnn-eval") as group:
        limit_bytes = min(filter(None, (memory_bytes, device.memory_bytes)), default=None)
        if limit_bytes is not None:
            group.limit_memory(limit_bytes)
        if device.read_bytes_per_second is not None:
            group.limit_reads(disk_of(on_disk), device.read_bytes_per_second)
        if device.cores is not None:
            group.limit_cpus(device.cores)
        yield group
