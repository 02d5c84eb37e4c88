"""Groups of CPUs that are alike: the big and the little ones (Linux)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flexnn_ncnn.records.machine import core_name

__all__ = ["CpuGroup", "cpu_groups"]


@dataclass(frozen=True, slots=True)
class CpuGroup:
    """CPUs of one kind.

    Attributes:
        core: what it is called, "" where nobody tells.
        cpus: their numbers.
        most_hertz: how fast they get, 0 where nobody tells.
        l2_bytes: level-2 cache as the first of them sees it, 0 where nobody tells.
    """

    core: str
    cpus: tuple[int, ...]
    most_hertz: int
    l2_bytes: int


def cpu_groups(root: Path = Path("/")) -> tuple[CpuGroup, ...]:
    """The groups, fastest first.

    Args:
        root: where /proc and /sys are.
    """
    names = _names(_read(root / "proc/cpuinfo"))
    folder = root / "sys/devices/system/cpu"
    numbers = _numbers(_read(folder / "possible")) or tuple(sorted(names))
    found: dict[tuple[str, int, int], list[int]] = {}
    for number in numbers:
        cpu = folder / f"cpu{number}"
        hertz = _number(cpu / "cpufreq/cpuinfo_max_freq") * 1000
        key = (names.get(number, ""), hertz, _number(cpu / "cpu_capacity"))
        found.setdefault(key, []).append(number)
    ranked = sorted(found.items(), key=lambda item: (-item[0][2], -item[0][1], item[1]))
    return tuple(
        CpuGroup(name, tuple(cpus), hertz, _l2_bytes(folder / f"cpu{cpus[0]}")) for (name, hertz, _), cpus in ranked
    )


def _names(cpuinfo: str) -> dict[int, str]:
    """CPU -> what its core is called."""
    found = {}
    for block in cpuinfo.split("\n\n"):
        fields = dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*?)\s*$", block, re.MULTILINE))
        if not fields.get("processor", "").isdecimal():
            continue
        name = fields.get("model name", "")
        if "CPU part" in fields:
            name = core_name(fields.get("CPU implementer", ""), fields["CPU part"])
        found[int(fields["processor"])] = name
    return found


def _numbers(text: str) -> tuple[int, ...]:
    """The CPUs in a list such as "0-3,8"; none where it is none, or absurd."""
    found: list[int] = []
    for part in text.strip().split(","):
        matched = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        if matched is None:
            return ()
        found.extend(range(int(matched[1]), int(matched[2] or matched[1]) + 1))
    return tuple(found)


def _l2_bytes(cpu: Path) -> int:
    for cache in sorted(cpu.glob("cache/index[0-9]")):
        matched = re.fullmatch(r"([0-9]{1,9})K\s*", _read(cache / "size"))
        if _number(cache / "level") == 2 and matched:
            return int(matched[1]) * 1024
    return 0


def _number(path: Path) -> int:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
