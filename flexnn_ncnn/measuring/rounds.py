"""Several ways to run a model timed against each other: each in a process of its own, round by round in turn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.children import Worker, saved_arrays
from flexnn_ncnn.measuring.machine_load import LoadMeter

__all__ = ["Contestant", "Entrant", "entrants", "take_turns"]

# Threads of OpenMP spin for a while after they have computed, and would be taken for others.
_SETTLE_SECONDS = 0.005

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to run the model.

    Attributes:
        name: for people.
        opens: what `flexnn_ncnn.runtime.worker` is to open.
    """

    name: str
    opens: Mapping[str, Any]


@dataclass(slots=True)
class Entrant:
    """A contestant's process.

    Attributes:
        name: the contestant's.
        opened: what the worker reported of opening the model.
        runs: what it reported of every run that counts.
        warmups: what it reported of the runs before those.
    """

    name: str
    _worker: Worker
    opened: Mapping[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)
    warmups: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """The runs that count."""
        return [float(run["seconds"]) for run in self.runs]

    @property
    def peak_bytes(self) -> int:
        """Growth of the resident set's peak, opening and warm-ups included."""
        return max(int(report["peak_bytes"]) for report in (self.opened, *self.warmups, *self.runs))

    def outputs(self, blobs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """What the last run gave."""
        with tempfile.TemporaryDirectory(prefix="flexnn-") as folder:
            paths = {blob: str(Path(folder) / f"{i}.npy") for i, blob in enumerate(blobs)}
            self._worker.ask("save", outputs=paths)
            return {blob: np.load(path) for blob, path in paths.items()}

    def run(self, *, counts: bool) -> None:
        """One inference."""
        (self.runs if counts else self.warmups).append(self._worker.ask("run"))


@contextmanager
def entrants(
    contestants: Sequence[Contestant], inputs: Mapping[str, npt.NDArray[Any]], threads: int
) -> Iterator[list[Entrant]]:
    """The contestants with the model open, until the block ends.

    Args:
        contestants: in the order in which they are to run.
        inputs: what to feed.
        threads: how many they compute on.

    Raises:
        FlexnnError: one cannot open the model.
    """
    with saved_arrays(inputs) as saved, ExitStack() as stack:
        found = []
        for contestant in contestants:
            worker = stack.enter_context(Worker(task=contestant.name, threads=threads))
            found.append(Entrant(contestant.name, worker, worker.ask("open", inputs=saved, **contestant.opens)))
        yield found


def take_turns(
    entered: Sequence[Entrant],
    meter: LoadMeter,
    *,
    rounds: int,
    warmups: int = 1,
    cooling_seconds: float = 0.0,
    progress: Progress | None = None,
    what: str = "comparing",
) -> None:
    """Let each run once in every round.

    Args:
        entered: from `entrants`.
        meter: looks at the machine before every round.
        rounds: that count, at least 1.
        warmups: rounds before those.
        cooling_seconds: to wait before every round.
        progress: called with (what, done, of).
        what: what it is called with.
    """
    for done in range(warmups + rounds):
        if progress is not None:
            progress(what, done, warmups + rounds)
        time.sleep(max(cooling_seconds, _SETTLE_SECONDS))
        meter.look()
        for entrant in entered:
            entrant.run(counts=done >= warmups)
    if progress is not None:
        progress(what, warmups + rounds, warmups + rounds)
