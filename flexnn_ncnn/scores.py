"""What an output says, in few words: its best scores, or its range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["OutputSummary", "Score", "summarise"]


@dataclass(frozen=True)
class Score:
    """One of the best.

    Attributes:
        index: its place in the row.
        label: what it stands for, or "".
        score: the network's own value.
        probability: the score where the row is a distribution already, the softmax of a classifier's scores where it
            is not, None for other networks.
    """

    index: int
    label: str
    score: float
    probability: float | None


@dataclass(frozen=True)
class OutputSummary:
    """One output.

    Attributes:
        blob: its name.
        shape: outermost axis first.
        minimum, maximum, mean: of its values.
        row: which row of a matrix `top` is about, the last one; 0 for a vector.
        top: the best scores, the best first; empty for maps and pictures.
    """

    blob: str
    shape: tuple[int, ...]
    minimum: float
    maximum: float
    mean: float
    row: int
    top: tuple[Score, ...]


def summarise(
    outputs: Mapping[str, npt.NDArray[Any]], count: int, labels: Sequence[str] | None = None
) -> tuple[OutputSummary, ...]:
    """Each output with its `count` best scores.

    Args:
        outputs: by blob name.
        count: scores wanted.
        labels: names of a classifier's classes; used for rows of as many scores.
    """
    return tuple(_summary(blob, array, count, labels) for blob, array in outputs.items())


def _summary(blob: str, array: npt.NDArray[Any], count: int, labels: Sequence[str] | None) -> OutputSummary:
    rows = np.squeeze(array)
    if rows.ndim == 1:
        row, top = 0, _best(rows, count, labels)
    elif rows.ndim == 2:
        row, top = len(rows) - 1, _best(rows[-1], count, labels)
    else:
        row, top = 0, ()
    low, high, mean = (float(value) for value in (array.min(), array.max(), array.mean(dtype=np.float64)))
    return OutputSummary(blob, array.shape, low, high, mean, row, top)


def _best(row: npt.NDArray[Any], count: int, labels: Sequence[str] | None) -> tuple[Score, ...]:
    names = labels if labels is not None and len(labels) == len(row) else None
    order = np.argsort(-row.astype(np.float64), kind="stable")  # NaN last
    probabilities = _probabilities(row, is_classifier=names is not None)
    return tuple(
        Score(
            int(i),
            names[i] if names else "",
            float(row[i]),
            None if probabilities is None else float(probabilities[i]),
        )
        for i in order[:count]
    )


def _probabilities(row: npt.NDArray[Any], *, is_classifier: bool) -> npt.NDArray[np.float64] | None:
    scores = row.astype(np.float64)
    if not np.isfinite(scores).all():
        return None
    if scores.min() >= 0 and abs(scores.sum() - 1) < 1e-3:
        return scores
    if not is_classifier:
        return None
    powers: npt.NDArray[np.float64] = np.exp(scores - scores.max())
    powers /= powers.sum()
    return powers
