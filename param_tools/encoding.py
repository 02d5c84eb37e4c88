"""How ncnn stores the elements of a weight array, and the conversions from and to float32."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import numpy.typing as npt

from param_tools.errors import ModelFormatError

__all__ = ["TABLE_ENTRIES", "Encoding", "narrow", "widen"]

TABLE_ENTRIES = 256
_TAG_BYTES = 4
_TABLE_BYTES = TABLE_ENTRIES * 4
_ALIGN_BYTES = 4


class Encoding(enum.Enum):
    """How an array is stored: what the tag before it says, or the load type of an array without a tag."""

    FP32_UNTAGGED = "fp32 without a tag"
    INT8_UNTAGGED = "bytes without a tag"  # block-quantised weights, several to a byte when under 8 bits
    FP32 = "fp32"
    FP32_RAW = "raw fp32"  # same bytes as FP32 under another tag, beside int8 scales
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    TABLE = "table"  # 256 float32 values, then one index byte per element

    @classmethod
    def of_tag(cls, tag: int) -> Encoding:
        """The encoding a tag stands for; like ncnn, any non-zero tag it does not know is a TABLE."""
        return _BY_TAG.get(tag, cls.TABLE)

    @property
    def tag(self) -> int | None:
        """The little-endian uint32 before the payload, None for an untagged array."""
        return _TAGS.get(self)

    @property
    def tag_bytes(self) -> int:
        """Bytes of the tag before the payload."""
        return 0 if self.tag is None else _TAG_BYTES

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored elements: bit patterns (uint16) for BF16, indices (uint8) for TABLE."""
        return _DTYPES[self]

    def payload_bytes(self, count: int) -> int:
        """Bytes of `count` elements, a table included, the tag and the padding to 4 bytes excluded."""
        return count * self.dtype.itemsize + (_TABLE_BYTES if self is Encoding.TABLE else 0)

    @staticmethod
    def padding_bytes(payload_bytes: int) -> int:
        """Bytes between a payload and the next array."""
        return -payload_bytes % _ALIGN_BYTES


_TAGS = {
    Encoding.FP32: 0,
    Encoding.FP32_RAW: 0x0002C056,
    Encoding.FP16: 0x01306B47,
    Encoding.BF16: 0x01348B83,
    Encoding.INT8: 0x000D4B38,
    Encoding.TABLE: 0x00000100,
}
_BY_TAG = {tag: encoding for encoding, tag in _TAGS.items()}
_DTYPES: dict[Encoding, np.dtype[Any]] = {
    Encoding.FP32_UNTAGGED: np.dtype("<f4"),
    Encoding.INT8_UNTAGGED: np.dtype("i1"),
    Encoding.FP32: np.dtype("<f4"),
    Encoding.FP32_RAW: np.dtype("<f4"),
    Encoding.FP16: np.dtype("<f2"),
    Encoding.BF16: np.dtype("<u2"),
    Encoding.INT8: np.dtype("i1"),
    Encoding.TABLE: np.dtype("u1"),
}


def widen(
    stored: npt.NDArray[Any], encoding: Encoding, table: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32]:
    """The values as ncnn widens them when it loads: `stored` itself where that is float32 already.

    int8 values become floats unscaled: their scales are arrays of their own.
    """
    if encoding is Encoding.BF16:
        return (stored.astype("<u4") << 16).view("<f4")
    if encoding is Encoding.TABLE:
        assert table is not None
        values: npt.NDArray[np.float32] = table[stored]
        return values
    return stored.astype(np.float32, copy=False)


def narrow(values: npt.NDArray[Any], encoding: Encoding) -> npt.NDArray[Any]:
    """`values` as contiguous elements of `encoding`.

    Raises:
        ValueError: floats for an encoding of integers (quantising is not this function's business).
        ModelFormatError: a value that is infinite in the narrower float type.
    """
    if values.dtype == encoding.dtype:
        return np.ascontiguousarray(values)
    if encoding is Encoding.BF16 and values.dtype.kind == "f":
        return _to_bf16(values)
    if encoding.dtype.kind != "f":
        raise ValueError(f"{values.dtype} values cannot be stored as {encoding.value}")
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values, encoding.dtype)
    if encoding is Encoding.FP16 and np.count_nonzero(np.isinf(stored)) > np.count_nonzero(np.isinf(values)):
        raise ModelFormatError(
            f"a weight of magnitude {np.abs(values[np.isfinite(values)]).max():g} does not fit fp16",
            hint="keep this array fp32",
        )
    return stored


def _to_bf16(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
    return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype("<u2")
