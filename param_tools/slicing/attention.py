"""MultiHeadAttention by heads: each slice attends with some heads, and the outputs are summed.

The sum over all heads that ncnn's output projection computes at once is so computed in parts: equal up to the
rounding of float32 sums, not bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from param_tools.graph import Layer
from param_tools.schema import ArraySpec, array_specs, int_params, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rule import ArrayTake, Axis, BlobTake, LayerSlice, find_axis

__all__ = ["axes", "take"]


def axes(layer: Layer, inputs: Sequence[BlobShape] = ()) -> tuple[Axis, ...]:
    """`heads`, unless it quantises (the scales of partial projections would differ) or keeps a cache of keys.

    A mask has to be known to be one for all heads, or one per head: without shapes a layer with a mask has no axes.
    """
    params = int_params(layer)
    if params["quantize_term"] or params["kv_cache"] or len(layer.outputs) != 1 or params["num_heads"] < 2:
        return ()
    if params["embed_dim"] < 1 or params["embed_dim"] % params["num_heads"]:
        return ()
    if params["attn_mask"] and not inputs:
        return ()
    return (Axis("heads", params["num_heads"], 1, exact=False, blob_axis="sum"),)


def take(layer: Layer, axis: str, begin: int, end: int, inputs: Sequence[BlobShape] = ()) -> LayerSlice:
    """The attention of heads [begin, end), without the output bias in all but the first slice."""
    find_axis(layer, axes(layer, inputs), axis, begin, end)
    params, specs = int_params(layer), array_specs(layer)
    width = params["embed_dim"] // params["num_heads"]
    part = with_named_params(
        layer,
        embed_dim=(end - begin) * width,
        num_heads=end - begin,
        weight_data_size=params["weight_data_size"] // params["embed_dim"] * (end - begin) * width,
        kdim=params["kdim"],
        vdim=params["vdim"],
    )
    arrays = tuple(_takes(specs, begin, end, width))
    return LayerSlice(part, arrays, axis, begin, end, tuple(_mask(params, inputs, begin, end)))


def _takes(specs: tuple[ArraySpec, ...], begin: int, end: int, width: int) -> Iterator[ArrayTake]:
    for i, spec in enumerate(specs):
        if spec.name == "out_weight":
            yield ArrayTake(i, 1, begin * width, end * width)
        elif spec.name == "out_bias":
            yield ArrayTake(i, 0, 0, spec.dims[0] if begin == 0 else 0)
        else:
            yield ArrayTake(i, 0, begin * width, end * width)


def _mask(params: Mapping[str, int], inputs: Sequence[BlobShape], begin: int, end: int) -> Iterator[BlobTake]:
    if params["attn_mask"] and inputs[-1].dims == 3 and inputs[-1].c > 1:
        yield BlobTake(len(inputs) - 1, "c", begin, end)
