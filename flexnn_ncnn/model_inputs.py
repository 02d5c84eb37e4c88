"""What a network wants to be fed, and arrays made to be that."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import InputError
from flexnn_ncnn.records.input_spec import InputSpec
from param_tools.files import open_regular
from param_tools.graph import Model
from param_tools.shapes import BlobShape, infer_shapes

__all__ = ["as_blob", "as_blobs", "input_specs", "load_array", "sample_arrays"]

# Layers that only move values: ids stay ids behind them.
_MOVES = ("Split", "Noop", "Reshape", "Flatten", "Squeeze", "ExpandDims", "Permute", "Slice", "Crop", "Concat")
_EMBED_INPUT_DIM = 1
_INT32 = np.iinfo(np.int32)


def input_specs(model: Model, shapes: Mapping[str, tuple[int, ...]] | None = None) -> tuple[InputSpec, ...]:
    """The blobs to feed `model`.

    Args:
        model: the graph.
        shapes: shapes of inputs that the graph does not tell, or that shall be others.

    Returns:
        Per input its name, its shape, () where nobody tells, and its dtype: "int32" where it is looked up in an
        Embed layer, else "float32".

    Raises:
        InputError: `shapes` names a blob that is no input, or a shape that no blob has.
    """
    given = dict(shapes or {})
    for blob, shape in given.items():
        _require_input(blob, model.input_blobs)
        if not 1 <= len(shape) <= 4 or min(shape) < 1:
            raise InputError(f"input {blob!r} cannot have the shape {shape}", hint="give 1 to 4 extents of at least 1")
    known = infer_shapes(model, {blob: BlobShape.from_numpy(shape) for blob, shape in given.items()})
    return tuple(_spec(model, blob, known[blob]) for blob in model.input_blobs)


def load_array(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """The array of a .npy file.

    Raises:
        InputError: it cannot be read, is no .npy file, is cut short, or holds Python objects.
    """
    where = os.fspath(path)
    try:
        open_regular(where).close()
        # Mapped, so that a header that lies about the shape is found out before memory is taken for it.
        found = np.load(where, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        raise InputError(f"{where} is no .npy file of numbers", hint="write one with numpy.save") from error
    if not isinstance(found, np.ndarray):
        raise InputError(f"{where} holds several arrays", hint="give each input a .npy file: --input BLOB=x.npy")
    return found


def as_blobs(specs: Sequence[InputSpec], arrays: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Arrays as the network takes them, in the network's order.

    Args:
        specs: from `input_specs`; a shape in there is not checked, as many networks take several.
        arrays: per input an array, or what numpy makes one of.

    Raises:
        InputError: an input is missing, unknown, or cannot be one.
    """
    for blob in arrays:
        _require_input(blob, [spec.blob for spec in specs])
    for spec in specs:
        if spec.blob not in arrays:
            raise InputError(
                f"no input is given for blob {spec.blob!r}",
                hint=f"the network reads {', '.join(one.blob for one in specs)}",
            )
    return {spec.blob: as_blob(spec, arrays[spec.blob]) for spec in specs}


def as_blob(spec: InputSpec, value: Any) -> npt.NDArray[Any]:
    """One array as a blob: contiguous float32, or int32 where it holds ids.

    Raises:
        InputError: it has not 1 to 4 dimensions, is empty, holds no real numbers, or does not fit the type.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:  # a ragged list
        raise InputError(f"input {spec.blob!r} is no array", hint="its rows differ in length") from error
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"input {spec.blob!r} is an array of {array.dtype}, which no network takes", hint=f"give {spec.dtype}"
        )
    if not 1 <= array.ndim <= 4 or array.size == 0:
        raise InputError(
            f"input {spec.blob!r} has the shape {array.shape}",
            hint="give 1 to 4 dimensions of at least 1, outermost first and without a batch: (channels, height, width)",
        )
    return _as_ids(spec, array) if spec.dtype == "int32" else _as_floats(spec, array)


def sample_arrays(specs: Sequence[InputSpec], model: str) -> dict[str, npt.NDArray[Any]]:
    """Noise for every input, the same on every machine; ids within range.

    Raises:
        InputError: a shape is unknown.
    """
    for spec in specs:
        if not spec.shape:
            raise InputError(
                f"{model} does not tell the shape of its input {spec.blob!r}",
                hint=f"give --shape {spec.blob}=CxHxW, or data with --input",
            )
    from flexnn_ncnn.zoo.inputs import sample_blob  # only samples need the zoo

    return {spec.blob: sample_blob(spec, stream) for stream, spec in enumerate(specs)}


def _spec(model: Model, blob: str, shape: BlobShape | None) -> InputSpec:
    ids_below = _ids_below(model, blob)
    return InputSpec(blob, shape.numpy_shape if shape else (), "int32" if ids_below else "float32", ids_below)


def _ids_below(model: Model, blob: str) -> int:
    """Rows of the smallest table that `blob` is looked up in, 0 where it is in none."""
    waiting, seen, found = [blob], {blob}, 0
    while waiting:
        for index in model.consumers[waiting.pop()]:
            layer = model.layers[index]
            if layer.type == "Embed":
                rows = max(1, layer.int_param(_EMBED_INPUT_DIM))
                found = min(found, rows) if found else rows
            elif layer.type in _MOVES:
                waiting.extend(set(layer.outputs) - seen)
                seen.update(layer.outputs)
    return found


def _as_floats(spec: InputSpec, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(array, np.float32)
    if array.dtype.itemsize > 4 and (np.isinf(floats) & np.isfinite(array)).any():
        raise InputError(f"input {spec.blob!r} has values that float32 cannot hold", hint="scale it")
    return floats


def _as_ids(spec: InputSpec, array: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    if array.dtype.kind == "f":
        raise InputError(f"input {spec.blob!r} takes ids, not {array.dtype}", hint="give an array of int32")
    if array.min() < _INT32.min or array.max() > _INT32.max:
        raise InputError(f"input {spec.blob!r} has ids that int32 cannot hold", hint=f"ids go to {spec.ids_below - 1}")
    return np.ascontiguousarray(array, np.int32)


def _require_input(blob: str, known: Sequence[str]) -> None:
    if blob not in known:
        raise InputError(f"the network has no input blob {blob!r}", hint=f"it reads {', '.join(known)}")
