"""How much memory this process may still take, as the system says it: free memory, control groups, pressure (Linux)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["MemoryLimits", "MemoryState"]

# Page cache that is in use, such as the code of Python and ncnn: taking it away costs more than it gives.
_CODE_BYTES = 16_000_000
# Version 1 of control groups says "no limit" by the largest multiple of a page that 63 bits hold.
_NO_LIMIT_BYTES = 2**62
# memory.stat by version: page cache not used lately, used lately, and what of it must be written first
_PAGE_CACHE = {
    1: ("total_inactive_file", "total_active_file", "total_dirty", "total_writeback"),
    2: ("inactive_file", "active_file", "file_dirty", "file_writeback"),
}
_ESCAPED = re.compile(r"\\([0-7]{3})")
_PRESSURE = re.compile(r"^some avg10=([0-9]+(?:\.[0-9]+)?)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class MemoryState:
    """What the tightest limit leaves.

    Attributes:
        available_bytes: what the process may take beside what it holds; negative where it is above a limit already.
        limit_bytes: size of that limit.
        source: the folder of its control group, or "MemAvailable" for the whole machine.
        pressure_percent: share of the last ten seconds in which some task, of the machine or of the group, waited for
            memory; 0 where the kernel does not tell.
    """

    available_bytes: int
    limit_bytes: int
    source: str
    pressure_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class _Mount:
    """Where control groups are to be seen: group `root` is the folder `point`."""

    version: int
    root: PurePosixPath
    point: Path


class MemoryLimits:
    """Reads limits; what a system does not have is left out.

    Args:
        root: folder that stands for "/", for tests.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc, self._root = root / "proc", root
        self._mounts = tuple(self._find_mounts())

    def read(self) -> MemoryState | None:
        """The state of the tightest limit, or None where the system says nothing."""
        folders = list(self._folders())
        found = [state for state in (self._machine(), *(_group(*folder) for folder in folders)) if state is not None]
        if not found:
            return None
        tightest = min(found, key=lambda state: state.available_bytes)
        pressures = [_pressure(self._proc / "pressure" / "memory")]
        pressures += [_pressure(folder / "memory.pressure") for version, folder in folders if version == 2]
        return MemoryState(tightest.available_bytes, tightest.limit_bytes, tightest.source, max(pressures))

    def _machine(self) -> MemoryState | None:
        facts = _table(self._proc / "meminfo")
        if "MemAvailable:" not in facts:
            return None
        available = facts["MemAvailable:"] * 1024
        return MemoryState(available, facts.get("MemTotal:", 0) * 1024 or available, "MemAvailable")

    def _folders(self) -> Iterator[tuple[int, Path]]:
        """Version and folder of every group the process is in, from the innermost outwards."""
        for line in _text(self._proc / "self" / "cgroup").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, group = rest.partition(":")
            version = 2 if (number, controllers) == ("0", "") else 1
            if version == 1 and "memory" not in controllers.split(","):
                continue
            for mount in self._mounts:
                if mount.version == version:
                    yield from ((version, folder) for folder in _upwards(mount, PurePosixPath(group)))

    def _find_mounts(self) -> Iterator[_Mount]:
        for line in _text(self._proc / "self" / "mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            fields, (kind, *options) = before.split(" "), (after.split(" ") or [""])
            is_v1 = kind == "cgroup" and "memory" in options[-1].split(",")
            if len(fields) < 5 or not (kind == "cgroup2" or is_v1):
                continue
            root, point = (_ESCAPED.sub(lambda code: chr(int(code[1], 8)), field) for field in fields[3:5])
            yield _Mount(1 if is_v1 else 2, PurePosixPath(root), self._root / point.lstrip("/"))


def _upwards(mount: _Mount, group: PurePosixPath) -> Iterator[Path]:
    """Folders of a group and of those it is in; of the mount alone where the group lies outside what is mounted."""
    inside = group.is_relative_to(mount.root) and ".." not in group.parts
    folder = mount.point / group.relative_to(mount.root) if inside else mount.point
    while folder != mount.point:
        yield folder
        folder = folder.parent
    yield mount.point


def _group(version: int, folder: Path) -> MemoryState | None:
    """What a group leaves; None where it has no limit or is not to be seen."""
    if version == 1:
        limit, usage = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    else:
        limit = min(_number(folder / "memory.max"), _number(folder / "memory.high"))
        usage = _number(folder / "memory.current")
    if limit >= _NO_LIMIT_BYTES or usage >= _NO_LIMIT_BYTES:
        return None
    reclaimable = _reclaimable(_table(folder / "memory.stat"), _PAGE_CACHE[version])
    return MemoryState(limit - usage + reclaimable, limit, str(folder))


def _reclaimable(stat: dict[str, int], names: tuple[str, str, str, str]) -> int:
    """Page cache that the kernel can drop at once; it counts as used, but is there for the taking."""
    inactive, active, dirty, writeback = (stat.get(name, 0) for name in names)
    clean = max(0, inactive + active - dirty - writeback)
    return clean - min(clean // 2, _CODE_BYTES)


def _pressure(path: Path) -> float:
    found = _PRESSURE.search(_text(path))
    return float(found[1]) if found else 0.0


def _number(path: Path) -> int:
    """The number in a file; no limit where there is none, such as "max"."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else _NO_LIMIT_BYTES


def _table(path: Path) -> dict[str, int]:
    """The lines of a file that are a name and a number."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2 and row[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
