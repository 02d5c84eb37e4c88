"""The facts about a machine that ncnn's choice of kernels and sizes depends on, and their digest."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from flexnn_ncnn.records.sha256 import sha256

__all__ = ["FORMAT_VERSION", "Device", "Machine", "core_name", "this_machine"]

FORMAT_VERSION = 2

_UNITS = {"": 1, "K": 1024, "M": 1024 * 1024}
# part numbers of cores designed by Arm (implementer 0x41), as the kernel shows them
_ARM_CORES = {
    0xB76: "ARM1176",
    0xC07: "Cortex-A7",
    0xC0F: "Cortex-A15",
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0D: "Cortex-A77",
    0xD41: "Cortex-A78",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
    0xD82: "Cortex-X4",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What profiles and plans belong to.

    Attributes:
        system: the kernel, such as "Linux".
        architecture: such as "aarch64".
        cores: each kind of core once, such as "Cortex-A76".
        features: what the first CPU can do, as the kernel lists it.
        cpus: how many there are.
        l2_bytes: level-2 cache of the first CPU, 0 where nobody tells.
        page_bytes: a page of memory.
        ncnn_version: of the installed ncnn.
    """

    system: str
    architecture: str
    cores: tuple[str, ...]
    features: tuple[str, ...]
    cpus: int
    l2_bytes: int
    page_bytes: int
    ncnn_version: str

    @property
    def fingerprint(self) -> str:
        """A short digest of all of it."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def summary(self) -> str:
        """The machine in a few words for people."""
        cores = " and ".join(self.cores) or "unknown cores"
        return f"{self.architecture}, {self.cpus} x {cores}, {self.page_bytes // 1024} KiB pages"


@dataclass(frozen=True, slots=True)
class Device:
    """A machine as `flexnn fingerprint` tells it to others.

    Attributes:
        machine: what profiles and plans belong to.
        ram_bytes: its memory, 0 where nobody tells.
        has_threads: whether its ncnn computes on several threads.
    """

    machine: Machine
    ram_bytes: int
    has_threads: bool


def this_machine(ncnn_version: str, root: Path = Path("/")) -> Machine:
    """The machine this runs on.

    Args:
        ncnn_version: of the ncnn it would use.
        root: where /proc and /sys are.
    """
    cpuinfo = _read(root / "proc/cpuinfo")
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        cores=_cores(cpuinfo) or tuple(filter(None, [platform.processor()])),
        features=tuple(sorted(set(_first(cpuinfo, ("flags", "Features")).split()))),
        cpus=os.cpu_count() or 1,
        l2_bytes=_size(_read(root / "sys/devices/system/cpu/cpu0/cache/index2/size")),
        page_bytes=os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0,
        ncnn_version=ncnn_version,
    )


def core_name(implementer: str, part: str) -> str:
    """What a core is called, from the numbers that /proc/cpuinfo gives it, such as "0x41" and "0xd0b"."""
    known = _ARM_CORES.get(_hexadecimal(part), "") if _hexadecimal(implementer) == 0x41 else ""
    return known or f"core {implementer}/{part}"


def _cores(cpuinfo: str) -> tuple[str, ...]:
    """Each kind of core in /proc/cpuinfo once, in order."""
    found = re.findall(r"^model name\s*:\s*(\S.*?)\s*$", cpuinfo, re.MULTILINE)
    implementers = re.findall(r"^CPU implementer\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    parts = re.findall(r"^CPU part\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    if parts and len(parts) == len(implementers):  # Arm's "model name", where it is there at all, says less
        found = [core_name(*core) for core in zip(implementers, parts, strict=True)]
    return tuple(dict.fromkeys(found))


def _first(cpuinfo: str, names: tuple[str, ...]) -> str:
    found = re.search(rf"^(?:{'|'.join(names)})\s*:(.*)$", cpuinfo, re.MULTILINE)
    return found.group(1) if found else ""


def _size(text: str) -> int:
    """The bytes in what sysfs says, such as "1024K"."""
    found = re.fullmatch(r"([0-9]{1,9})([KM]?)\s*", text)
    return int(found.group(1)) * _UNITS[found.group(2)] if found else 0


def _hexadecimal(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return -1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
