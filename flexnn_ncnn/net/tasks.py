"""Which blobs are computed together: what one plan is for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexnn_ncnn.net.graph import Graph
from param_tools.excerpt import excerpt
from param_tools.model_io import read_param

__all__ = ["Task", "Tasks"]


@dataclass(frozen=True, slots=True)
class Task:
    """What one plan is for.

    Attributes:
        feeds: blobs to be fed; none for the network's inputs.
        outputs: blobs computed; none for the network's outputs.
    """

    feeds: tuple[str, ...]
    outputs: tuple[str, ...]


class Tasks:
    """Finds tasks, and remembers what was asked for together.

    The network's outputs are computed together, as most callers want all. Another blob is computed alone when it is
    the first that is asked for; what is asked for after it, of the same data, is computed along from then on.

    Args:
        param_path: the layers; read when a task is new, not held: they take more memory than the names.
        graph: their blobs.
    """

    def __init__(self, param_path: Path, graph: Graph) -> None:
        self._param_path, self._own = param_path, graph.output_names
        # by the first blob that is asked for, and what is fed
        self._known: dict[tuple[str, frozenset[str]], Task] = {}

    def find(self, fed: Collection[str], blobs: Sequence[str], before: Collection[str]) -> Task | None:
        """The task for some blobs.

        Args:
            fed: blobs that are given.
            blobs: blobs that are asked for.
            before: blobs that were asked for before, of the same data, in their order.

        Returns:
            None where not all of `blobs` can be computed from what is fed.
        """
        key = (next(iter(before), blobs[0]), frozenset(fed))
        known = self._known.get(key)
        if known is not None and not before:
            return known
        together = {*before, *blobs, *(known.outputs if known else ())}
        if together.intersection(self._own):
            together.update(self._own)
        return self._remember(key, self._new(key[1], blobs, together))

    def narrow(self, fed: Collection[str], blobs: Sequence[str], before: Collection[str]) -> Task | None:
        """The task for just these blobs, from now on instead of the one that `find` found."""
        key = (next(iter(before), blobs[0]), frozenset(fed))
        return self._remember(key, self._new(key[1], blobs, blobs))

    def _remember(self, key: tuple[str, frozenset[str]], task: Task | None) -> Task | None:
        if task is not None:
            self._known[key] = task
        return task

    def _new(self, fed: frozenset[str], blobs: Sequence[str], together: Collection[str]) -> Task | None:
        """The task for those of `together` that can be computed."""
        model = read_param(self._param_path)
        known = excerpt(model, feeds=fed).model.producers
        outputs = tuple(name for name in model.producers if name in known and name in together and name not in fed)
        if not set(blobs) <= set(outputs):
            return None
        reads = excerpt(model, feeds=fed, outputs=outputs).model.input_blobs
        if reads == model.input_blobs and outputs == model.output_blobs:
            return Task((), ())
        return Task(reads, outputs)
