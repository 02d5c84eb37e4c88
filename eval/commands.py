"""`flexnn` in child processes, with what it costs."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.cgroups import ControlGroup
from param_tools.errors import FlexnnError

__all__ = ["CommandError", "Cost", "Done", "flexnn"]

_ROOT = Path(__file__).resolve().parents[1]
_POWERCAP = Path("/sys/class/powercap")
_BLOCK_BYTES = 512


class CommandError(FlexnnError):
    """A command that failed.

    Attributes:
        status: how it ended; negative for a signal.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took, with all its child processes.

    Attributes:
        wall_seconds: from start to end.
        cpu_seconds: of all processors together.
        read_bytes: from storage, what the page cache gave not counted.
        joules: of all processor packages, other programs' included; None where the machine does not tell.
    """

    wall_seconds: float
    cpu_seconds: float
    read_bytes: int
    joules: float | None


@dataclass(frozen=True, slots=True)
class Done:
    """A command that worked.

    Attributes:
        found: the JSON it wrote.
        cost: what it took.
    """

    found: Any
    cost: Cost


def flexnn(
    *arguments: object,
    cache: Path | None = None,
    accepted: Collection[int] = (0,),
    group: ControlGroup | None = None,
) -> Done:
    """Runs `flexnn ARGUMENTS --json`, with this checkout first on its import path.

    Args:
        arguments: of the command.
        cache: the cache folder; None for the user's.
        accepted: exit statuses with which there is something to read.
        group: what to run it in.

    Raises:
        CommandError: it failed; its own sentence.
    """
    environment = {**os.environ, "PYTHONPATH": _python_path()}
    if cache is not None:
        environment["FLEXNN_CACHE_DIR"] = str(cache)
    before, begin = _spent(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "flexnn_ncnn", *map(str, arguments), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=None if group is None else group.enter,
    )
    seconds, after = time.perf_counter() - begin, _spent()
    if done.returncode not in accepted:
        lines = done.stderr.strip().splitlines() or [f"flexnn {arguments[0]} ended with status {done.returncode}"]
        raise CommandError(lines[-1].removeprefix("flexnn: error: "), done.returncode)
    return Done(json.loads(done.stdout), _cost(seconds, before, after))


@dataclass(frozen=True, slots=True)
class _Spent:
    """Running totals."""

    cpu_seconds: float
    blocks_read: int
    joules: Mapping[str, tuple[float, float]]


def _spent() -> _Spent:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return _Spent(usage.ru_utime + usage.ru_stime, usage.ru_inblock, _energy(_POWERCAP))


def _cost(seconds: float, before: _Spent, after: _Spent) -> Cost:
    joules = None
    if before.joules and before.joules.keys() == after.joules.keys():
        joules = sum(
            now - before.joules[zone][0] + (wrap if now < before.joules[zone][0] else 0)
            for zone, (now, wrap) in after.joules.items()
        )
    read_bytes = (after.blocks_read - before.blocks_read) * _BLOCK_BYTES
    return Cost(seconds, after.cpu_seconds - before.cpu_seconds, read_bytes, joules)


def _energy(root: Path) -> dict[str, tuple[float, float]]:
    """Per processor package: joules so far, and where the counter starts again; none where they cannot be read."""
    found = {}
    for zone in sorted(root.glob("intel-rapl:*")):
        if zone.name.count(":") == 1:  # deeper ones are parts of these
            try:
                now, wrap = (int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
            except (OSError, ValueError):
                continue
            found[zone.name] = (now / 1e6, wrap / 1e6)
    return found


def _python_path() -> str:
    known = os.environ.get("PYTHONPATH")
    return f"{_ROOT}{os.pathsep}{known}" if known else str(_ROOT)
