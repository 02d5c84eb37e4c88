"""From the series of patches to a wheel that is kept."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flexnn_ncnn.building.process import Progress, reason, run_logged, steps_done
from flexnn_ncnn.building.recipe import Recipe, cmake_arguments, cpu_features, default_jobs, recipe_key
from flexnn_ncnn.building.series import Series, read_series
from flexnn_ncnn.building.source import prepare_source
from flexnn_ncnn.paths import cache_dir
from param_tools.errors import FlexnnError
from param_tools.files import atomic_write

__all__ = ["BuiltWheel", "build_wheel", "built_wheels"]

_NEEDED_DISK_BYTES = 500_000_000


@dataclass(frozen=True)
class BuiltWheel:
    """A wheel in the cache.

    Attributes:
        path: the wheel.
        version: of ncnn, with what marks it as patched.
        patches: the names of what was applied.
        native: whether it has the kernels of one CPU only.
        vulkan: whether it has GPU support.
        is_current: whether it is what this package would build now.
    """

    path: Path
    version: str
    patches: tuple[str, ...]
    native: bool
    vulkan: bool
    is_current: bool


def built_wheels() -> list[BuiltWheel]:
    """The wheels in the cache that this Python can install, the newest first."""
    series, found = read_series(), []
    for record in sorted(_root().glob("*/built.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            fields = json.loads(record.read_text(encoding="utf-8"))
            path = record.parent / Path(str(fields["wheel"])).name
            if fields["python_tag"] != _python_tag() or not path.is_file():
                continue
            recipe = Recipe(native=bool(fields["native"]), vulkan=bool(fields["vulkan"]))
            current = record.parent.name == _key(series, recipe)
            patches = tuple(map(str, fields["patches"]))
            found.append(BuiltWheel(path, str(fields["version"]), patches, recipe.native, recipe.vulkan, current))
        except (OSError, KeyError, TypeError, ValueError):
            continue  # half-written, or of another release
    return found


def build_wheel(recipe: Recipe, progress: Progress, *, jobs: int | None = None, force: bool = False) -> BuiltWheel:
    """Builds the patched ncnn, unless that is done already.

    An interrupted build goes on where it was.

    Args:
        recipe: what to build.
        progress: told how many of the files are compiled.
        jobs: files to compile at a time; what CPUs and memory allow when None.
        force: begin anew.

    Raises:
        FlexnnError: something needed is missing, the source cannot be had, or the compiler fails.
        OSError: the disk is full.
    """
    series = read_series()
    folder = _root() / _key(series, recipe)
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    done = next((wheel for wheel in built_wheels() if wheel.path.parent == folder), None)
    if done is not None:
        return done
    _check_tools()
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        _check_disk(folder)
        progress("fetch ncnn", 0, 1)
        log_path = folder / "build.log"
        log_path.unlink(missing_ok=True)
        source = prepare_source(series, folder, log_path)
        wheel = _compile(series, recipe, source, jobs or _default_jobs(), progress)
        final = folder / wheel.name
        os.replace(wheel, final)
        made = {"wheel": final.name, "version": series.version, "patches": [patch.name for patch in series.patches]}
        with atomic_write(folder / "built.json", "w") as file:
            json.dump({**made, **asdict(recipe), "python_tag": _python_tag()}, file, indent=2)
        shutil.rmtree(source, ignore_errors=True)
    return BuiltWheel(final, series.version, tuple(made["patches"]), recipe.native, recipe.vulkan, True)


def _root() -> Path:
    return cache_dir() / "runtime"


def _python_tag() -> str:
    return f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"


def _arguments(series: Series, recipe: Recipe) -> list[str]:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace") if recipe.native else ""
    except OSError as error:
        raise FlexnnError(
            "the CPU's features cannot be read from /proc/cpuinfo", hint="build without --native"
        ) from error
    return cmake_arguments(recipe, series, platform.machine(), cpu_features(cpuinfo))


def _key(series: Series, recipe: Recipe) -> str:
    return recipe_key(series, _arguments(series, recipe), _python_tag(), platform.machine())


def _default_jobs() -> int:
    free_bytes = 0
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        (available,) = (line for line in meminfo.splitlines() if line.startswith("MemAvailable"))
        free_bytes = int(available.split()[1]) * 1024
    except (OSError, ValueError):
        pass  # one at a time
    return default_jobs(os.cpu_count() or 1, free_bytes)


def _check_tools() -> None:
    compiler = os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++"]
    if not any(shutil.which(name) for name in compiler):
        raise FlexnnError(
            f"no C++ compiler is installed: {' or '.join(compiler)}",
            hint="on Debian and Raspberry Pi OS 'apt install g++', in Termux 'pkg install clang'",
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise FlexnnError(
            f"Python's headers are not installed: there is no {header}", hint="on Debian 'apt install python3-dev'"
        )


def _check_disk(folder: Path) -> None:
    if shutil.disk_usage(folder).free < _NEEDED_DISK_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which goes with the process however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FlexnnError(f"another build is at work in {folder}", hint="wait until it is done") from error
        yield


def _compile(series: Series, recipe: Recipe, source: Path, jobs: int, progress: Progress) -> Path:
    """Has pip build the wheel; returns where it lies."""
    arguments = _arguments(series, recipe)
    if shutil.which("ccache"):
        arguments += [f"-DCMAKE_{language}_COMPILER_LAUNCHER=ccache" for language in ("C", "CXX")]
    environment = {
        "EXTRA_CMAKE_ARGS": " ".join(arguments),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
        "NCNN_PYTHON_VERSION": series.version,
    }
    # What an earlier, interrupted run compiled is kept; where it found its tools is not: pip's own come and go.
    for stale in source.glob("build/temp*/CMakeCache.txt"):
        stale.unlink()

    def watch(line: str) -> None:
        if (steps := steps_done(line)) is not None:
            progress("build ncnn", *steps)

    out, log_path = source / "wheel", source.parent / "build.log"
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(out), str(source)]
    status, lines = run_logged(command, log_path, environment=environment, on_line=watch)
    wheels = list(out.glob("*.whl"))
    if status == 0 and wheels:
        return wheels[0]
    why = reason(lines)
    if "No space left on device" in why:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
    hint = f"{log_path} has it all"
    if "Killed signal" in why:
        hint = f"the compiler ran out of memory: try --jobs {max(1, jobs // 2)}; {hint}"
    raise FlexnnError(f"ncnn could not be built: {why}", hint=hint)
