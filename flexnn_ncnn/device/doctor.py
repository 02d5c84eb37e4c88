"""What this device can do, and what to install where it cannot: what `flexnn doctor` shows."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flexnn_ncnn.device.cpus import CpuGroup, cpu_groups
from flexnn_ncnn.device.ram import memory_sizes
from flexnn_ncnn.device.storage import StorageSpeed, measure_storage
from flexnn_ncnn.paths import cache_dir
from flexnn_ncnn.records.capabilities import CAPABILITY_EFFECTS
from flexnn_ncnn.records.machine import this_machine
from flexnn_ncnn.runtime.memory import heap, process_memory
from flexnn_ncnn.runtime.memory.memory_limits import MemoryLimits

__all__ = ["DeviceReport", "Memory", "NcnnFacts", "Part", "examine"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory as the system tells it, 0 or "" where it does not.

    Attributes:
        ram_bytes: all of it.
        swap_bytes: swap space, compressed memory included.
        available_bytes: what this process may still take under the tightest limit.
        limit_bytes: size of that limit.
        limited_by: the folder of its control group, or "MemAvailable".
        pressure_percent: share of the last ten seconds in which a task waited for memory.
    """

    ram_bytes: int
    swap_bytes: int
    available_bytes: int
    limit_bytes: int
    limited_by: str
    pressure_percent: float


@dataclass(frozen=True, slots=True)
class NcnnFacts:
    """The ncnn that is installed.

    Attributes:
        version: "" where it cannot be imported.
        problem: why it cannot, else "".
        has_threads: whether it was built to compute on several threads.
        lanes: channels that lie side by side in its widest fp32 blobs.
        has_fp16_arithmetic: whether it computes in half precision on this CPU.
        capabilities: what it can do beyond the stock package.
    """

    version: str
    problem: str = ""
    has_threads: bool = False
    lanes: int = 1
    has_fp16_arithmetic: bool = False
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that the package does.

    Attributes:
        name: in a few words.
        works: whether it does here.
        detail: how, or why not.
        install: what to do where it does not, "" where nothing helps.
    """

    name: str
    works: bool
    detail: str
    install: str = ""


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What this device is and can do.

    Attributes:
        board: as its maker calls it, "" where nobody tells.
        system: kernel and architecture.
        python: version, and the C library it runs on.
        is_emulated: whether another processor plays this one.
        cpus: in groups, fastest first.
        usable_cpus: how many this process may use.
        memory: of the machine and of this process.
        page_bytes: a page of memory.
        cache_folder: where profiles, plans and models are kept.
        storage: the speed of that folder, None where it cannot be written to.
        ncnn: the ncnn that is installed.
        fingerprint: what profiles and plans of this machine belong to; "" without ncnn.
        parts: what works.
    """

    board: str
    system: str
    python: str
    is_emulated: bool
    cpus: tuple[CpuGroup, ...]
    usable_cpus: int
    memory: Memory
    page_bytes: int
    cache_folder: Path
    storage: StorageSpeed | None
    ncnn: NcnnFacts
    fingerprint: str
    parts: tuple[Part, ...]


def examine(root: Path = Path("/")) -> DeviceReport:
    """Looks at everything; takes a second, most of it to write and read a file of 32 MB.

    Args:
        root: where /proc and /sys are.
    """
    folder = cache_dir()
    ncnn, (storage, storage_problem) = _ncnn(), _storage(folder)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return DeviceReport(
        board=_text(root / "proc/device-tree/model").strip("\0\n "),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        python=f"Python {platform.python_version()}, {_c_library()}",
        is_emulated=process_memory.is_emulated(),
        cpus=cpu_groups(root),
        usable_cpus=usable,
        memory=_memory(root),
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        cache_folder=folder,
        storage=storage,
        ncnn=ncnn,
        fingerprint=this_machine(ncnn.version).fingerprint if ncnn.version else "",
        parts=tuple(_parts(root, ncnn, storage_problem)),
    )


def _parts(root: Path, ncnn: NcnnFacts, storage_problem: str) -> Iterator[Part]:
    yield Part("models within a budget", not ncnn.problem, ncnn.problem or f"ncnn {ncnn.version}", _ncnn_advice())
    yield Part(
        "plans kept for later runs", not storage_problem, storage_problem or "cache folder", "set FLEXNN_CACHE_DIR"
    )
    exact = process_memory.peak_is_exact()
    how = "told by the kernel" if exact else "the kernel does not tell: budgets are planned for, not measured"
    if process_memory.is_emulated():
        how = "an emulator's memory counts along: budgets are planned for, not measured"
    yield Part("peaks of memory", exact, how)
    allocator = heap.allocator_name()
    yield Part("freed memory used again", bool(allocator), allocator or "not by this C library: streaming is slower")
    yield Part("several threads", ncnn.has_threads, "OpenMP" if ncnn.has_threads else "ncnn is built without OpenMP")
    limits = [name for name in ("proc/pressure/memory", "proc/self/cgroup") if _text(root / name)]
    yield Part(
        "automatic budgets",
        bool(_text(root / "proc/meminfo")),
        ", ".join(["MemAvailable", *("pressure" if "pressure" in name else "control groups" for name in limits)]),
    )
    effects = ", ".join(CAPABILITY_EFFECTS[name] for name in ncnn.capabilities)
    yield Part(
        "ncnn beyond the stock one", bool(effects), effects or "the stock package", "see 'flexnn runtime' and patches/"
    )
    for name, module, package, extra in (
        ("pictures", "PIL", "Pillow", "models"),
        ("plots", "matplotlib", "matplotlib", "plot"),
    ):
        found = importlib.util.find_spec(module) is not None
        yield Part(name, found, package if found else f"no {package}", f"pip install 'flexnn-ncnn[{extra}]'")
    for name, program in (("deploy over ssh", "ssh"), ("deploy over adb", "adb")):
        where = shutil.which(program)
        yield Part(name, where is not None, where or f"no program {program}", f"install {program}")


def _ncnn() -> NcnnFacts:
    try:
        from flexnn_ncnn.runtime import native
    except (ImportError, OSError) as error:
        return NcnnFacts("", problem=f"{error}")
    found = native.capabilities()
    return NcnnFacts(
        native.ncnn_version(),
        has_threads=native.has_threads(),
        lanes=native.LANES[0] if native.LANES else 1,
        has_fp16_arithmetic=native.has_fp16_arithmetic(),
        capabilities=tuple(name for name in CAPABILITY_EFFECTS if getattr(found, name)),
    )


def _ncnn_advice() -> str:
    if sys.platform == "android":
        return "pkg install python-numpy, then pip install ncnn"
    return "pip install ncnn numpy"


def _memory(root: Path) -> Memory:
    sizes = memory_sizes(root)
    state = MemoryLimits(root).read()
    ram, swap = sizes.get("MemTotal", 0), sizes.get("SwapTotal", 0)
    if state is None:
        return Memory(ram, swap, 0, 0, "", 0.0)
    return Memory(ram, swap, state.available_bytes, state.limit_bytes, state.source, state.pressure_percent)


def _storage(folder: Path) -> tuple[StorageSpeed | None, str]:
    """The speed, or why there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return measure_storage(folder), ""
    except OSError as error:
        return None, f"{folder}: {error.strerror or error}"


def _c_library() -> str:
    if sys.platform == "android":
        return "bionic"
    name, version = platform.libc_ver()
    return f"{name} {version}".strip() or "a C library that is not glibc"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
