"""Control groups of Linux, both versions: a process with so much memory and a disk so fast as a small device has."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["ControlGroup", "control_group", "disk_of", "why_unavailable"]

_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 2**62
_REMOVE_SECONDS = 5.0


class ControlGroup:
    """A group that exists; from `control_group`.

    Args:
        memory: its folder of the memory controller.
        storage: its folder of the storage controller; of version 2 the same.
        cpus: its folder of the cpuset controller; of version 2 the same.
        version: 1 or 2.
    """

    def __init__(self, memory: Path, storage: Path, cpus: Path, version: int) -> None:
        self._memory, self._storage, self._cpus, self._version = memory, storage, cpus, version

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the kernel shows it."""
        return (self._memory,) if self._version == 2 else (self._memory, self._storage, self._cpus)

    def add(self, process_id: int) -> None:
        """Put a process in, with all its threads. What it holds already stays counted where it was."""
        for folder in self.folders:
            _write(folder / "cgroup.procs", str(process_id))

    def enter(self) -> None:
        """Put this process in: for `subprocess.Popen(preexec_fn=group.enter)`, so that all it does is counted."""
        self.add(os.getpid())

    def limit_cpus(self, count: int) -> None:
        """Run on the first CPUs of those it may have from now on, `count` of them or all there are."""
        name = "cpuset.cpus.effective" if self._version == 2 else "cpuset.cpus"
        known = _cpu_list((self._cpus / name).read_text())
        _write(self._cpus / "cpuset.cpus", ",".join(map(str, known[:count])))

    def limit_memory(self, size_bytes: int | None) -> None:
        """Hold no more than this from now on, page cache included and nothing in swap; None for no limit."""
        size = _UNLIMITED_BYTES if size_bytes is None else size_bytes
        if self._version == 2:
            _write(self._memory / "memory.max", "max" if size_bytes is None else str(size))
            with suppress(OSError):  # a kernel without swap
                _write(self._memory / "memory.swap.max", "0")
            return
        with suppress(OSError):  # it may not be below the limit of memory alone, or there is no swap to count
            _write(self._memory / "memory.memsw.limit_in_bytes", str(_UNLIMITED_BYTES))
        _write(self._memory / "memory.limit_in_bytes", str(size))
        with suppress(OSError):
            _write(self._memory / "memory.memsw.limit_in_bytes", str(size))

    def limit_reads(self, disk: str, bytes_per_second: int | None) -> None:
        """Read no faster than this from now on.

        Args:
            disk: "major:minor" of the whole disk, see `disk_of`.
            bytes_per_second: None for no limit.
        """
        if self._version == 2:
            rate = "max" if bytes_per_second is None else str(bytes_per_second)
            _write(self._storage / "io.max", f"{disk} rbps={rate}")
        else:
            _write(self._storage / "blkio.throttle.read_bps_device", f"{disk} {bytes_per_second or 0}")

    @property
    def memory_bytes(self) -> int:
        """What it holds, page cache included."""
        name = "memory.current" if self._version == 2 else "memory.usage_in_bytes"
        return int((self._memory / name).read_text())

    @property
    def memory_peak_bytes(self) -> int | None:
        """Most it held; None with version 2 before Linux 5.19, which does not tell."""
        name = "memory.peak" if self._version == 2 else "memory.max_usage_in_bytes"
        path = self._memory / name
        return int(path.read_text()) if path.exists() else None

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        rows = (line.split() for line in (self._memory / name).read_text().splitlines())
        return next((int(row[1]) for row in rows if row[0] == "oom_kill"), 0)

    @property
    def read_bytes(self) -> int:
        """What it has read from disks."""
        if self._version == 2:
            fields = (self._storage / "io.stat").read_text().split()
            return sum(int(field[len("rbytes=") :]) for field in fields if field.startswith("rbytes="))
        rows = (line.split() for line in (self._storage / "blkio.throttle.io_service_bytes").read_text().splitlines())
        return sum(int(row[2]) for row in rows if row[1:2] == ["Read"])


@contextmanager
def control_group(name: str = "flexnn") -> Iterator[ControlGroup]:
    """A group of its own, without limits yet, that is gone afterwards.

    Its processes are to have ended by then; those that have not are moved to the group above.

    Args:
        name: what its folder's name begins with.

    Raises:
        OSError: it cannot be made; see `why_unavailable`.
    """
    unique = f"{name}-{os.getpid()}-{time.monotonic_ns()}"
    memory_root, storage_root, cpus_root, version = _roots()
    group = ControlGroup(memory_root / unique, storage_root / unique, cpus_root / unique, version)
    try:
        for folder in group.folders:
            folder.mkdir()
        if version == 1:  # a new cpuset has nothing, and takes no process then
            for what in ("cpuset.cpus", "cpuset.mems"):
                _write(cpus_root / unique / what, (cpus_root / what).read_text().strip())
        yield group
    finally:
        for folder in group.folders:
            _remove(folder)


def why_unavailable() -> str:
    """Why there are no control groups for us here, or "": for tests to skip with."""
    try:
        with control_group("flexnn-probe") as group:
            group.limit_memory(2**30)
    except OSError as error:
        return f"no control group can be made: {error.strerror or error}"
    return ""


def disk_of(path: str | os.PathLike[str]) -> str:
    """The "major:minor" of the whole disk that a file lies on, as throttles want it."""
    device = os.stat(path).st_dev
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve(strict=True)
    if (folder / "partition").exists():
        folder = folder.parent
    return (folder / "dev").read_text().strip()


def _roots() -> tuple[Path, Path, Path, int]:
    """Folders of the controllers of memory, storage and CPUs, and the version."""
    if (_ROOT / "cgroup.controllers").exists():
        _write(_ROOT / "cgroup.subtree_control", "+memory +io +cpuset")
        return _ROOT, _ROOT, _ROOT, 2
    return _ROOT / "memory", _ROOT / "blkio", _ROOT / "cpuset", 1


def _cpu_list(text: str) -> list[int]:
    """The CPUs of a list such as 0-3,6."""
    pairs = [part.partition("-") for part in text.strip().split(",") if part]
    return [cpu for first, _, last in pairs for cpu in range(int(first), int(last or first) + 1)]


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:  # the kernel answers at the write
        file.write(text)


def _remove(folder: Path) -> None:
    """Remove a group; a process that was killed may take a moment to leave it."""
    if not folder.exists():
        return
    end = time.monotonic() + _REMOVE_SECONDS
    while True:
        try:
            folder.rmdir()
            return
        except OSError:
            if time.monotonic() > end:
                raise
        for process_id in (folder / "cgroup.procs").read_text().split():
            with suppress(OSError):
                _write(folder.parent / "cgroup.procs", process_id)
        time.sleep(0.02)
