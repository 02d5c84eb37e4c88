"""Weights read to memory that somebody else has no use for while they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.plan import WeightPiece
from flexnn_ncnn.records.staging import positions_in_scratch
from flexnn_ncnn.runtime.weights.weight_source import WeightSource, decoded, own_memory

__all__ = ["StagedLoad"]

Bytes = npt.NDArray[np.uint8]


@dataclass(slots=True)
class _Run:
    """Neighbours in a file, read in one call.

    Attributes:
        file: which.
        begin, end: where in it, half-open.
        targets: what is read to, or how many bytes need memory of their own.
    """

    file: WeightSource
    begin: int
    end: int
    targets: list[Bytes | int] = field(default_factory=list)


class StagedLoad:
    """One part of a layer.

    Read anew for each inference: what was there is overwritten while the layer computes. Small arrays get memory of
    their own, which is whoever's has them.

    Args:
        source: the weights; closed after this.
        pieces: of the part.
        memory: to read to, as much as `positions_in_scratch` says.

    Raises:
        ModelFormatError: the file ends before them.
    """

    __slots__ = ("_pieces", "_runs", "_source")

    def __init__(self, source: WeightSource, pieces: Sequence[WeightPiece], memory: Bytes) -> None:
        self._source, self._pieces = source, pieces
        self._runs: list[_Run] = []
        positions, _ = positions_in_scratch(pieces)
        for piece, at in zip(pieces, positions, strict=True):
            source.check(piece)
            file, begin = source.file_of(piece.offset_bytes)
            if not self._runs or (self._runs[-1].file, self._runs[-1].end) != (file, begin):
                self._runs.append(_Run(file, begin, begin))
            self._runs[-1].end += piece.stored_bytes
            target = piece.stored_bytes if at < 0 else memory[at : at + piece.stored_bytes]
            self._runs[-1].targets.append(target)

    def fetch(self) -> list[npt.NDArray[Any]]:
        """The part's arrays as ncnn takes them; large ones are valid until the memory is used otherwise.

        Raises:
            ModelFormatError: the file is shorter than it was, or cannot be read.
        """
        read: list[Bytes] = []
        for run in self._runs:
            buffers = [own_memory(to) if isinstance(to, int) else to for to in run.targets]
            run.file.read_to(buffers, run.begin, run.end - run.begin)
            read += buffers
        return [self._decoded(piece, stored) for piece, stored in zip(self._pieces, read, strict=True)]

    def _decoded(self, piece: WeightPiece, stored: Bytes) -> npt.NDArray[Any]:
        def found(offset_bytes: int, size_bytes: int) -> Bytes:
            return stored if offset_bytes == piece.offset_bytes else self._source.stored(offset_bytes, size_bytes)

        return decoded(piece, found)
