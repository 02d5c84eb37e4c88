"""Any record as JSON: its fields under their own names, so that machines read what the library returns."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from enum import Enum
from numbers import Integral, Real
from typing import Any, TextIO

__all__ = ["to_json", "write_json"]


def to_json(record: Any) -> str:
    """`record` as JSON text.

    Args:
        record: a dataclass, or a mapping, sequence or plain value, of such at any depth. Paths become strings, and
            numbers that are not finite become null, because JSON has none.

    Raises:
        TypeError: a value of another type.
    """
    return json.dumps(_plain(record), indent=2, allow_nan=False)


def write_json(record: Any, stream: TextIO) -> None:
    """Writes `record` as one JSON document and a line end."""
    stream.write(to_json(record) + "\n")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    raise TypeError(f"a {type(value).__name__} has no JSON form")
