"""The invariants of a `Model`, checked before and after each rewrite."""

from __future__ import annotations

from os import PathLike

from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model, describe_cycle
from param_tools.schema import ONE_BLOB_TYPES

__all__ = ["check_model", "check_names"]

_MAX_NAME_BYTES = 255


def check_model(model: Model, *, path: str | PathLike[str] | None = None) -> None:
    """Proves that every blob has one producer and is read only after it, and that layers have blobs as they need.

    Args:
        model: the model.
        path: the file it came from, named in errors.

    Raises:
        ModelFormatError: an unknown blob, one produced twice, a cycle (its blobs are named), a layer that
            stands before the producer of its input, or one with more inputs or outputs than ncnn allows.
    """
    seen: set[str] = set()
    for layer in model.layers:
        if layer.type in ONE_BLOB_TYPES and not len(layer.inputs) == len(layer.outputs) == 1:
            raise ModelFormatError(
                f"layer {layer.name!r} ({layer.type}) has {len(layer.inputs)} inputs and {len(layer.outputs)} outputs, "
                "not one of each",
                path=path,
                line=layer.line or None,
            )
        for blob in layer.inputs:
            if blob not in seen:
                raise ModelFormatError(_why_missing(model, layer, blob), path=path, line=layer.line or None)
        for blob in layer.outputs:
            if blob in seen:
                raise ModelFormatError(
                    f"layer {layer.name!r} produces blob {blob!r} a second time", path=path, line=layer.line or None
                )
            seen.add(blob)


def _why_missing(model: Model, layer: Layer, blob: str) -> str:
    if blob not in model.producers:
        return f"layer {layer.name!r} reads blob {blob!r}, which no layer produces"
    cycle = model.find_cycle()
    if cycle:
        return describe_cycle(cycle)
    producer = model.layers[model.producers[blob]]
    return f"layer {layer.name!r} reads blob {blob!r} before layer {producer.name!r} produces it"


def check_names(layer: Layer) -> None:
    """Proves that a .param can hold `layer`'s names.

    Raises:
        ModelFormatError: a name that is empty, too long, or contains white space or a NUL.
    """
    for name in (layer.type, layer.name, *layer.inputs, *layer.outputs):
        raw = name.encode("utf-8", "surrogateescape")
        if raw.split() != [raw] or len(raw) > _MAX_NAME_BYTES or b"\0" in raw:
            raise ModelFormatError(f"layer {layer.name!r}: a .param cannot hold the name {name!r}")
