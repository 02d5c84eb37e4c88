"""The invariants of a `Model`, checked before and after each rewrite."""

from __future__ import annotations

from os import PathLike

from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model, describe_cycle
from param_tools.schema import ONE_BLOB_TYPES

__all__ = ["check_model", "check_names"]

_MAX_NAME_BYTES = 255


def check_model(model: Model, *, path: str | PathLike[str] | None = None) -> None:
    """Proves that blobs and layers are joined as stock ncnn needs it.

    Args:
        model: the model.
        path: the file it came from, named in errors.

    Raises:
        ModelFormatError: a blob that is unknown, produced twice or read by two layers; a cycle (its blobs are
            named); a layer above the producer of its input, or with more inputs or outputs than ncnn allows.
    """
    produced: set[str] = set()
    readers: dict[str, Layer] = {}
    for layer in model.layers:
        problem = _blob_counts(layer) or _inputs(model, layer, produced, readers) or _outputs(layer, produced)
        if problem:
            raise ModelFormatError(f"layer {layer.name!r} {problem}", path=path, line=layer.line or None)


def _blob_counts(layer: Layer) -> str:
    inputs, outputs = len(layer.inputs), len(layer.outputs)
    if layer.type not in ONE_BLOB_TYPES or inputs == outputs == 1:
        return ""
    return f"({layer.type}) has {inputs} inputs and {outputs} outputs, not one of each"


def _inputs(model: Model, layer: Layer, produced: set[str], readers: dict[str, Layer]) -> str:
    for blob in layer.inputs:
        if blob not in produced:
            return _why_missing(model, blob)
        reader = readers.setdefault(blob, layer)
        if reader is not layer:
            # ncnn frees a blob after its reader: a second one finds garbage, or crashes
            return f"reads blob {blob!r}, which layer {reader.name!r} reads too: they need a Split layer before them"
    return ""


def _outputs(layer: Layer, produced: set[str]) -> str:
    for blob in layer.outputs:
        if blob in produced:
            return f"produces blob {blob!r} a second time"
        produced.add(blob)
    return ""


def _why_missing(model: Model, blob: str) -> str:
    if blob not in model.producers:
        return f"reads blob {blob!r}, which no layer produces"
    cycle = model.find_cycle()
    if cycle:
        return f"reads blob {blob!r} too early: {describe_cycle(cycle)}"
    return f"reads blob {blob!r} before layer {model.layers[model.producers[blob]].name!r} produces it"


def check_names(layer: Layer) -> None:
    """Proves that a .param can hold `layer`'s names.

    Raises:
        ModelFormatError: a name that is empty, too long, or contains white space or a NUL.
    """
    for name in (layer.type, layer.name, *layer.inputs, *layer.outputs):
        raw = name.encode("utf-8", "surrogateescape")
        if raw.split() != [raw] or len(raw) > _MAX_NAME_BYTES or b"\0" in raw:
            raise ModelFormatError(f"layer {layer.name!r}: a .param cannot hold the name {name!r}")
