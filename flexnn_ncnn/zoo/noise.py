"""Random weights that are the same bytes on every machine.

Only integers are drawn: a Philox stream, which numpy promises never to change,
keyed by the model's seed and the array's number. Four 16-bit lanes of each
draw are added up, which is near enough to a Gaussian, and the 18-bit sum times
a power of two is exact in fp32. No function whose last bit depends on the
machine (log, cos, sqrt) takes part.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["CHUNK_VALUES", "UNIT_DEVIATION", "noise", "noise_chunks", "raw_stream"]

CHUNK_VALUES = 1 << 18
"""Values made at a time: 2 MiB of draws, small enough for a processor's cache."""

_LANES = 4
_CENTRE = _LANES * 0xFFFF // 2
_UNIT_EXPONENT = -15

UNIT_DEVIATION = (_LANES * ((1 << 32) - 1) / 12) ** 0.5 * 2.0**_UNIT_EXPONENT
"""Standard deviation of the noise at exponent 0, about 1.155."""


def raw_stream(seed: int, stream: int) -> np.random.Philox:
    """The generator of random 64-bit integers for one array of one model."""
    return np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))


def noise_chunks(seed: int, stream: int, count: int, exponent: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yields `count` little-endian fp32 values in pieces of at most `CHUNK_VALUES`.

    Args:
        seed: the model's seed.
        stream: number of the array within the model.
        count: how many values in all.
        exponent: the values' deviation is `UNIT_DEVIATION * 2**exponent`.
    """
    generator = raw_stream(seed, stream)
    scale = np.float32(2.0 ** (_UNIT_EXPONENT + exponent))
    for begin in range(0, count, CHUNK_VALUES):
        draws: npt.NDArray[np.uint64] = generator.random_raw(min(CHUNK_VALUES, count - begin))
        # Addition commutes, so the byte order of the machine does not matter.
        lanes = draws.view(np.uint16)
        sums = lanes[0::_LANES].astype(np.int32)
        for lane in range(1, _LANES):
            sums += lanes[lane::_LANES]
        sums -= _CENTRE
        values = sums.astype("<f4")
        values *= scale
        yield values


def noise(seed: int, stream: int, count: int, exponent: int = 0) -> npt.NDArray[np.float32]:
    """The same values as `noise_chunks` in one array; for small counts."""
    chunks = list(noise_chunks(seed, stream, count, exponent))
    return np.concatenate(chunks) if chunks else np.empty(0, dtype="<f4")
