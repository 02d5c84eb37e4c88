"""The record of what was sliced: a JSON file beside the sliced model, described in docs/formats/slices.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from param_tools.errors import FormatVersionError, ModelFormatError
from param_tools.model_io import atomic_write

__all__ = [
    "FORMAT",
    "VERSION",
    "LargeLayer",
    "Slice",
    "SliceManifest",
    "SlicedLayer",
    "default_manifest_path",
    "read_manifest",
    "write_manifest",
]

FORMAT = "flexnn-ncnn slices"
VERSION = 1
_MAX_FILE_BYTES = 64 * 1024 * 1024
_Record = TypeVar("_Record")


@dataclass(frozen=True)
class Slice:
    """One slice.

    Attributes:
        name: the layer's name in the sliced .param.
        layer_index: its index there.
        begin: first unit of the axis.
        end: unit after the last.
        offset_bytes: where its weights begin in the sliced .bin; they are contiguous.
        size_bytes: bytes of its weights there, tags and padding included.
    """

    name: str
    layer_index: int
    begin: int
    end: int
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class SlicedLayer:
    """A layer of the original that became slices.

    Attributes:
        name: its name.
        layer_index: its index in the original .param.
        type: its type.
        axis: what was cut: "outputs", "channels", "columns", "heads", "m" or "rows".
        exact: whether the slices give the bits of the whole.
        slices: the slices in order.
    """

    name: str
    layer_index: int
    type: str
    axis: str
    exact: bool
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class LargeLayer:
    """A layer or slice that is still larger than asked for.

    Attributes:
        name: its name in the sliced .param.
        layer_index: its index there.
        weights_bytes: bytes of its weights in memory.
        limit_bytes: what was asked for.
    """

    name: str
    layer_index: int
    weights_bytes: int
    limit_bytes: int


@dataclass(frozen=True)
class SliceManifest:
    """What `slice_model` did.

    Attributes:
        source_param: file name of the original .param.
        source_bin: file name of the original .bin.
        source_bin_bytes: its length.
        layers: the layers that were cut, in the original's order.
        too_large: what no rule could bring under the limits.
    """

    source_param: str
    source_bin: str
    source_bin_bytes: int
    layers: tuple[SlicedLayer, ...]
    too_large: tuple[LargeLayer, ...]


def default_manifest_path(param_path: str | PathLike[str]) -> Path:
    """Where the manifest of a sliced .param lies: beside it, .param replaced by .slices.json."""
    path = Path(param_path)
    return path.with_name(path.name.removesuffix(".param") + ".slices.json")


def write_manifest(manifest: SliceManifest, path: str | PathLike[str]) -> None:
    """Writes a manifest, replacing it as a whole."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(manifest)}, indent=2)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape") + b"\n")


def read_manifest(path: str | PathLike[str]) -> SliceManifest:
    """Reads a manifest.

    Raises:
        FormatVersionError: it was written by another version.
        ModelFormatError: it cannot be read, is no manifest, or lacks or has a field too many.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ModelFormatError(f"cannot be read: {error.strerror}", path=path) from error
    try:
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        document = json.loads(data.decode("utf-8", "surrogateescape"))
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        version = document.pop("version", None)
        if version != VERSION:
            raise FormatVersionError("the manifest", found=version, supported=(VERSION,), path=str(path))
        return _record(SliceManifest, document)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"not a manifest of slices: {error}", path=path) from error


def _record(kind: type[_Record], found: Any) -> _Record:
    """`found` as a record, every field of it of the stated type."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # only dataclasses come here
    if not isinstance(found, Mapping) or sorted(found) != sorted(names):
        raise ValueError(f"a {kind.__name__} has the fields {', '.join(names)}")
    return kind(**{name: _value(hints[name], found[name], f"{kind.__name__}.{name}") for name in names})


def _value(hint: Any, found: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(found, list):
            raise ValueError(f"{where} is not a list")
        return tuple(_record(get_args(hint)[0], one) for one in found)
    if type(found) is not hint or (hint is int and not 0 <= found < 2**63):
        raise ValueError(f"{where} is not a valid {hint.__name__}: {found!r}")
    return found
