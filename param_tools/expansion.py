"""A MultiHeadAttention layer as the layers that it does the work of: projections, attention by heads, a projection.

ncnn loads all four matrices of the layer at once. As layers of their own they can be loaded one after the other, and
cut, from where they lie in the .bin. The sums are those of the layer in another order: equal up to the rounding of
float32, not bit by bit.
"""

from __future__ import annotations

from dataclasses import replace

from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model, Scalar
from param_tools.model_io import NcnnModel
from param_tools.schema import array_specs, float_param, int_params, with_named_params
from param_tools.weights import WeightArray

__all__ = ["can_expand", "expansion"]

_ROWS_OF_HEADS = 2  # order_type of Permute: rows by heads to heads by rows, and back
_BROADCAST_ROW = 4  # constant_broadcast_type_C: a value per output


def can_expand(layer: Layer) -> bool:
    """Whether a layer is attention that neither quantises nor keeps a cache of keys and values."""
    if layer.type != "MultiHeadAttention" or len(layer.outputs) != 1:
        return False
    params = int_params(layer)
    if params["quantize_term"] or params["kv_cache"]:
        return False
    if params["num_heads"] < 1 or params["embed_dim"] < 1 or params["embed_dim"] % params["num_heads"]:
        return False
    blobs = len(layer.inputs) - bool(params["attn_mask"])
    return 1 <= blobs <= 3 and float_param(layer, "scale") != 0  # by 0 SDPA means its own choice


def expansion(model: NcnnModel, index: int) -> NcnnModel:
    """One attention layer as a model of its own: an Input for each blob it reads, then what the layer does inside.

    The weights are the layer's, where they lie; the .bin is not opened again, and nothing is to be closed.

    Args:
        model: the files.
        index: of a layer that `can_expand`.

    Raises:
        ModelFormatError: the weights are not those of such a layer.
    """
    layer = model.model.layers[index]
    arrays = {array.name: array for array in model.weights.arrays[index]}
    blobs = tuple(dict.fromkeys(layer.inputs))
    layers = [*(Layer("Input", blob, (), (blob,)) for blob in blobs), *_inner_layers(layer)]
    return replace(
        model,
        model=Model(tuple(layers)),
        weights=model.weights.seen_as(tuple(_arrays(layer, i, inner, arrays) for i, inner in enumerate(layers))),
    )


def _inner_layers(layer: Layer) -> list[Layer]:
    params = int_params(layer)
    width, heads = params["embed_dim"], params["num_heads"]
    rows = params["weight_data_size"] // width
    has_mask = bool(params["attn_mask"])
    blobs = layer.inputs[: len(layer.inputs) - has_mask]
    query, key, value = blobs if len(blobs) == 3 else (blobs[0], blobs[-1], blobs[-1])
    made: list[Layer] = []

    def add(type_: str, name: str, inputs: tuple[str, ...], output: str = "", **named: Scalar) -> str:
        blob = output or f"{layer.outputs[0]} {name}"  # no blob of a file has a space in its name
        made.append(with_named_params(Layer(type_, f"{layer.name} {name}", inputs, (blob,)), **named))
        return blob

    def project(name: str, blob: str, inputs: int, outputs: int, output: str = "") -> str:
        sizes = {"constantN": outputs, "constantK": inputs, "constant_broadcast_type_C": _BROADCAST_ROW}
        return add("Gemm", name, (blob,), output, transB=1, constantB=1, constantC=1, **sizes)

    def by_heads(name: str, blob: str, inputs: int) -> str:
        projected = project(name, blob, inputs, width)
        split = add("Reshape", f"{name} split", (projected,), w=width // heads, h=heads, c=-1)
        return add("Permute", f"{name} heads", (split,), order_type=_ROWS_OF_HEADS)

    sides = (
        by_heads("q", query, rows),
        by_heads("k", key, params["kdim"]),
        by_heads("v", value, params["vdim"]),
    )
    scale = float_param(layer, "scale")
    attended = add("SDPA", "attention", (*sides, *layer.inputs[len(blobs) :]), attn_mask=int(has_mask), scale=scale)
    turned = add("Permute", "rows", (attended,), order_type=_ROWS_OF_HEADS)
    joined = add("Reshape", "joined", (turned,), w=width, h=-1)
    project("out", joined, width, rows, layer.outputs[0])
    return made


def _arrays(layer: Layer, index: int, inner: Layer, arrays: dict[str, WeightArray]) -> tuple[WeightArray, ...]:
    """The layer's arrays that are those of an inner layer; only its projections have any."""
    side = inner.name.rpartition(" ")[2]
    found = []
    for spec in array_specs(inner):
        array = arrays.get(f"{side}_{'weight' if spec.name == 'b' else 'bias'}")
        if array is None or array.count != spec.count:
            raise ModelFormatError(f"layer {layer.name!r}: the .bin has no {side} projection for it")
        found.append(replace(array, layer_index=index, name=spec.name, shape=spec.dims))
    return tuple(found)
