"""One contestant at a time in a process and a control group of its own: cold, then warm, with what it held and read."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.cgroups import ControlGroup
from eval.devices import imitated
from flexnn_ncnn.children import Worker
from param_tools.errors import FlexnnError

__all__ = ["Entry", "LimitError", "Run", "evict", "run_once"]

_OURS = "flexnn_ncnn.runtime.worker"


class LimitError(FlexnnError):
    """A contestant that needed more memory or time than it may have."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a contestant's process is to open.

    Attributes:
        config: the contestant's name.
        opens: what its worker is told.
        files: what it reads, to be evicted from the page cache before it begins.
        module: the worker, which serves as `flexnn_ncnn.runtime.worker` does.
        note: what is to be known about it.
        missing: why it cannot be measured here, or "".
    """

    config: str
    opens: Mapping[str, Any]
    files: tuple[Path, ...]
    module: str = _OURS
    note: str = ""
    missing: str = ""


@dataclass(slots=True)
class Run:
    """What one process took.

    Attributes:
        load_seconds: opening the model, its files not cached.
        cold_seconds: the first inference after that.
        cold_read_bytes: read from storage until its end.
        warm_seconds: the inferences that count.
        warm_read_bytes: read from storage in each of these, on average; None where the system does not tell.
        peak_bytes: growth of the resident set's peak over the idle process.
        group_peak_bytes: what its control group held at most, page cache included and the idle process not; None
            without one.
        streamed_bytes, resident_bytes: weights read in each inference, and kept; None where it does not tell.
        outputs: of the last inference.
        exact: whether `peak_bytes` is exact.
    """

    load_seconds: float = 0.0
    cold_seconds: float = 0.0
    cold_read_bytes: int | None = None
    warm_seconds: list[float] = field(default_factory=list)
    warm_read_bytes: int | None = None
    peak_bytes: int = 0
    group_peak_bytes: int | None = None
    streamed_bytes: int | None = None
    resident_bytes: int | None = None
    outputs: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    exact: bool = True


def evict(files: Sequence[Path]) -> None:
    """Drop what the page cache holds of files, as far as no process has it mapped."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not written yet stays
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def run_once(
    entry: Entry,
    inputs: Mapping[str, str],
    *,
    device: str,
    threads: int,
    loops: int,
    warmups: int = 0,
    memory_bytes: int | None = None,
    patience_seconds: float = 600.0,
    save_to: Mapping[str, str] | None = None,
) -> Run:
    """Runs a contestant: its files evicted, opened, one cold inference, warm-ups, and the inferences that count.

    Args:
        entry: the contestant.
        inputs: blob -> .npy file.
        device: in `eval.devices.DEVICES`.
        threads: compute threads.
        loops: inferences that count.
        warmups: inferences between the cold one and those.
        memory_bytes: the limit of its control group; None for the device's.
        patience_seconds: when it is ended.
        save_to: output blob -> .npy file to write.

    Raises:
        LimitError: it was killed for want of memory, or took too long.
        FlexnnError: it cannot be run.
    """
    evict(entry.files)
    with (
        imitated(device, entry.files[-1], memory_bytes) as group,
        Worker(entry.module, entry.config, threads=threads) as worker,
        _patience(worker.process_id, patience_seconds) as patience,
    ):
        try:
            worker.ask("idle", **entry.opens)  # answered when all is imported: from here on it counts
            if group is not None:
                group.add(worker.process_id)
            return _measured(entry, inputs, worker, group, loops, warmups, save_to or {})
        except FlexnnError as error:
            if patience.expired:
                raise LimitError(f"{entry.config} was ended after {patience_seconds:g} s") from error
            if group is not None and group.kills:
                raise LimitError(f"{entry.config} was killed for want of memory") from error
            raise


def _measured(
    entry: Entry,
    inputs: Mapping[str, str],
    worker: Worker,
    group: ControlGroup | None,
    loops: int,
    warmups: int,
    save_to: Mapping[str, str],
) -> Run:
    before = _read_bytes(worker.process_id)
    opened = worker.ask("open", inputs=dict(inputs), **entry.opens)
    cold = worker.ask("run")
    after_cold = _read_bytes(worker.process_id)
    for _ in range(warmups):
        worker.ask("run")
    warm_begin = _read_bytes(worker.process_id)
    runs = [worker.ask("run") for _ in range(loops)]
    warm_end = _read_bytes(worker.process_id)
    worker.ask("save", outputs=dict(save_to))
    last = (runs or [cold])[-1]
    return Run(
        load_seconds=opened["load_seconds"],
        cold_seconds=cold["seconds"],
        cold_read_bytes=None if before is None or after_cold is None else after_cold - before,
        warm_seconds=[run["seconds"] for run in runs],
        warm_read_bytes=None if warm_begin is None or warm_end is None else (warm_end - warm_begin) // max(1, loops),
        peak_bytes=max(report["peak_bytes"] for report in (opened, cold, *runs)),
        group_peak_bytes=group.memory_peak_bytes if group is not None else None,
        streamed_bytes=last.get("streamed_bytes"),
        resident_bytes=last.get("resident_bytes"),
        outputs={blob: np.load(path) for blob, path in save_to.items()},
        exact=bool(opened["exact"]),
    )


class _Patience:
    """Whether time was up."""

    expired = False


@contextmanager
def _patience(process_id: int, seconds: float) -> Iterator[_Patience]:
    """Ends a process when time is up."""
    patience = _Patience()

    def end() -> None:
        patience.expired = True
        with suppress(ProcessLookupError):
            os.killpg(process_id, signal.SIGKILL)  # a session of its own, with what it has forked

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield patience
    finally:
        timer.cancel()


def _read_bytes(process_id: int) -> int | None:
    """What a process has read from storage so far, page faults included."""
    try:
        lines = Path(f"/proc/{process_id}/io").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))
    except (OSError, StopIteration, ValueError):
        return None
