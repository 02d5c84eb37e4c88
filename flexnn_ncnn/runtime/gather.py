"""Embed over the rows in use: a vocabulary of 50,000 rows need not be loaded to look up 64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.plan import Part
from flexnn_ncnn.runtime.weights.weight_source import WeightSource

__all__ = ["gathered_rows"]

# ids of ncnn's Embed parameters (src/layer/embed.cpp)
_NUM_OUTPUT, _INPUT_DIM, _WEIGHT_DATA_SIZE = 0, 1, 3


def gathered_rows(
    source: WeightSource, part: Part, ids: npt.NDArray[Any]
) -> tuple[list[npt.NDArray[Any]], Sequence[tuple[int, Any]], npt.NDArray[np.int32]]:
    """The Embed layer that has only the rows `ids` names.

    Args:
        source: the .bin.
        part: the whole layer.
        ids: row numbers as int32 bits in any dtype of 4 bytes, one-dimensional; ncnn clamps those out of range.

    Returns:
        Its weight arrays, its parameters, and `ids` renumbered.
    """
    params = dict(part.params)
    rows, width = int(params[_INPUT_DIM]), int(params[_NUM_OUTPUT])  # type: ignore[arg-type]
    wanted = np.clip(np.ascontiguousarray(ids).view(np.int32).reshape(-1), 0, rows - 1)
    used, renumbered = np.unique(wanted, return_inverse=True)
    arrays = [source.rows(part.pieces[0], rows, used), *source.load(part.pieces[1:])]
    params.update({_INPUT_DIM: len(used), _WEIGHT_DATA_SIZE: len(used) * width})
    return arrays, tuple(params.items()), np.ascontiguousarray(renumbered.reshape(-1), np.int32)
