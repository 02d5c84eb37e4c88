"""Whether `native.unlocked` works with the ncnn in use: tried once in a process of its own, which may crash."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.paths import cache_dir, python_path
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.sha256 import sha256
from flexnn_ncnn.runtime.native.allocators import ScratchAllocator
from flexnn_ncnn.runtime.native.layers import LoadedLayer, make_option, make_params
from flexnn_ncnn.runtime.native.mats import empty_mat, mat_from_array, mat_to_array
from param_tools.errors import FlexnnError
from param_tools.files import atomic_write

__all__ = ["UNLOCKED_VARIABLE", "is_proven", "main"]

UNLOCKED_VARIABLE = "FLEXNN_UNLOCKED_CALLS"
"""0 does without."""

_WORKS, _DIFFERS = 0, 3
_PATIENCE_SECONDS, _POLL_SECONDS = 60, 0.01
_CHANNELS, _EXTENT = 16, 12
_SHAPE = (_CHANNELS, _EXTENT, _EXTENT)
_SCRATCH_BYTES = 1024 * 1024

_Layer = tuple[str, list[tuple[int, int]], int]
_LAYERS: tuple[_Layer, ...] = (
    ("Convolution", [(0, _CHANNELS), (1, 3), (4, 1), (6, _CHANNELS**2 * 9)], _CHANNELS**2 * 9),
    ("TanH", [], 0),
)


@cache
def is_proven() -> bool:
    """Whether the calls of `native.unlocked` do what the bindings' own do.

    The first time takes as long as starting Python; what was found is noted in the cache folder, for the file of the
    bindings as it is now and for this Python.
    """
    if os.environ.get(UNLOCKED_VARIABLE) == "0" or not _can_try():
        return False
    try:
        note = cache_dir() / "unlocked" / _key()
        noted = _noted(note)
        return _tried(note) if noted is None else noted
    except (FlexnnError, OSError):  # nowhere to note it, or no process to be had
        return False


def _can_try() -> bool:
    return platform.python_implementation() == "CPython" and hasattr(os, "posix_spawn")


def _key() -> str:
    """Of the file of the bindings and of the Python that loads it."""
    path = os.path.realpath(str(sys.modules["ncnn.ncnn"].__file__))
    found = os.stat(path)
    facts = (path, found.st_size, found.st_mtime_ns, sys.version, platform.machine())
    return sha256(repr(facts).encode()).hexdigest()[:24]


def _noted(note: Path) -> bool | None:
    try:
        return {b"yes\n": True, b"no\n": False}.get(note.read_bytes())
    except FileNotFoundError:
        return None


def _tried(note: Path) -> bool:
    ended = _exit_code([sys.executable, "-c", f"from {__name__} import main; raise SystemExit(main())"])
    if ended not in (_WORKS, _DIFFERS) and ended >= 0:
        return False  # it did not come to trying
    note.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(note) as file:
        file.write(b"yes\n" if ended == _WORKS else b"no\n")
    return ended == _WORKS


def _exit_code(command: list[str]) -> int:
    """Of a process that sees and says nothing; that it differs where it takes too long.

    Not by way of `subprocess`: importing that takes half a megabyte, of this process's budget.
    """
    nothing = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in range(3)]
    environment = dict(os.environ, PYTHONPATH=python_path())
    process_id = os.posix_spawn(command[0], command, environment, file_actions=nothing)
    status: int | None = None
    try:
        end = time.monotonic() + _PATIENCE_SECONDS
        while status is None and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
            status = _status(process_id, os.WNOHANG)
    finally:
        if status is None:
            os.kill(process_id, signal.SIGKILL)
            _status(process_id)
    return _DIFFERS if status is None else os.waitstatus_to_exitcode(status)


def _status(process_id: int, how: int = 0) -> int | None:
    ended, status = os.waitpid(process_id, how)
    return status if ended else None


def main() -> int:
    """What that process does: compare a convolution and an activation called both ways, with an allocator in Python.

    Returns:
        0 if they are the same to the bit.
    """
    same = [np.array_equal(_computed(layer, False), _computed(layer, True)) for layer in _LAYERS]
    return _WORKS if all(same) else _DIFFERS


def _computed(layer: _Layer, others_run: bool) -> npt.NDArray[Any]:
    layer_type, params, weight_count = layer
    scratch = ScratchAllocator(np.empty(_SCRATCH_BYTES, np.uint8))
    scratch.use(0, _SCRATCH_BYTES)
    option = make_option(RunOptions(num_threads=1))
    weights = np.linspace(-1, 1, weight_count, dtype=np.float32)
    arrays = [weights] if weight_count else []
    run_option = scratch.attach(make_option(RunOptions(num_threads=1)))
    loaded = LoadedLayer(layer_type, make_params(params), arrays, option, "", run_option, lets_others_run=others_run)
    values = np.linspace(-1, 1, _CHANNELS * _EXTENT**2, dtype=np.float32).reshape(_SHAPE)
    blob = mat_from_array(values).clone()
    if loaded.works_in_place:
        loaded.forward_inplace(blob)
        top = blob
    else:
        top = empty_mat()
        loaded.forward(blob, top)
    result = mat_to_array(top)
    del top  # before what it was made with
    loaded.close()
    return result
