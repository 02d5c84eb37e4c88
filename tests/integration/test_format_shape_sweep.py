"""Shape inference on swept layer configurations against stock ncnn.

Only configurations that inference accepts are run: ncnn does not check what the others would do to memory.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from param_tools.graph import Layer, Model
from param_tools.param_text import format_param
from param_tools.schema import ONE_BLOB_TYPES
from param_tools.shapes import BlobShape, infer_shapes
from param_tools.shapes.infer import RULES
from tests.examples import examples
from tests.integration.format_cases import make_layer
from tests.integration.stock_shapes import stock_shapes

SWEEP = settings(
    max_examples=examples(150),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
AXES = {"w": ("left", "right"), "h": ("top", "bottom"), "d": ("front", "behind")}


def agrees(layer: Layer, *shapes: tuple[int, ...]) -> None:
    """Compares every output shape that inference knows with stock ncnn's; it must know one."""
    feeds = [Layer("Input", blob, (), (blob,)) for blob in layer.inputs]
    model = Model((*feeds, layer))
    given_shapes = {blob: BlobShape.from_numpy(shape) for blob, shape in zip(layer.inputs, shapes, strict=True)}
    report = infer_shapes(model, given_shapes)
    known = {blob: shape.numpy_shape for blob in layer.outputs if (shape := report[blob]) is not None}
    if not known:
        raise _UnknownError(report.reasons)
    values = {blob: np.ones(shape, np.float32) for blob, shape in zip(layer.inputs, shapes, strict=True)}
    assert stock_shapes(format_param(model), values, known) == known


class _UnknownError(AssertionError):
    pass


def agrees_where_known(layer: Layer, *shapes: tuple[int, ...]) -> None:
    """Like `agrees`, for configurations that may make no blob at all."""
    try:
        agrees(layer, *shapes)
    except _UnknownError:
        reject()


def extents(rank: int, top: int = 9) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(1, top)] * rank)


def blob_shapes(top: int = 6) -> st.SearchStrategy[tuple[int, ...]]:
    return st.integers(1, 4).flatmap(lambda rank: extents(rank, top))


def pads(draw: st.DrawFn, axes: str, *, same: bool = True) -> dict[str, int]:
    sides = [f"pad_{side}" for axis in axes for side in AXES[axis]]
    if same and draw(st.integers(0, 3)) == 0:
        return dict.fromkeys(sides, draw(st.sampled_from((-233, -234))))
    return {side: draw(st.integers(0, 2)) for side in sides}


def windows(draw: st.DrawFn, axes: str, *, dilated: bool = True) -> dict[str, int]:
    found = {}
    for axis in axes:
        found[f"kernel_{axis}"] = draw(st.integers(1, 3))
        found[f"stride_{axis}"] = draw(st.integers(1, 3))
        if dilated:
            found[f"dilation_{axis}"] = draw(st.integers(1, 2))
    return found


@pytest.mark.parametrize("axes", ["w", "hw", "dhw"])
@pytest.mark.parametrize("kind", ["Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise"])
@SWEEP
@given(data=st.data())
def test_convolutions(kind: str, axes: str, data: st.DataObject) -> None:
    suffix = {"w": "1D", "hw": "", "dhw": "3D"}[axes]
    channels, spatial = 4, data.draw(extents(len(axes)))
    params = data.draw(st.composite(lambda draw: {**windows(draw, axes), **pads(draw, axes)})())
    if kind.startswith("Deconvolution"):
        names = {"w": "output_pad_right", "h": "output_pad_bottom", "d": "output_pad_behind"}
        params |= {names[axis]: data.draw(st.integers(0, 1)) for axis in axes}
        if data.draw(st.booleans()):
            params |= {f"output_{axis}": data.draw(st.integers(0, 12)) for axis in axes}
    group = data.draw(st.sampled_from((1, 2, 4))) if kind.endswith("DepthWise") else 1
    if group > 1 or kind.endswith("DepthWise"):
        params["group"] = group
    kernel = int(np.prod([params[f"kernel_{axis}"] for axis in axes]))
    layer = make_layer(f"{kind}{suffix}", num_output=8, weight_data_size=8 * channels // group * kernel, **params)
    agrees_where_known(layer, (channels, *spatial))


@pytest.mark.parametrize("axes", ["w", "hw", "dhw"])
@SWEEP
@given(data=st.data())
def test_poolings(axes: str, data: st.DataObject) -> None:
    kind = {"w": "Pooling1D", "hw": "Pooling", "dhw": "Pooling3D"}[axes]
    params = data.draw(
        st.composite(lambda draw: {**windows(draw, axes, dilated=False), **pads(draw, axes, same=False)})()
    )
    # ncnn reads outside a window that lies in the padding altogether
    assume(all(params[f"pad_{side}"] < params[f"kernel_{axis}"] for axis in axes for side in AXES[axis]))
    params["pooling_type"] = data.draw(st.integers(0, 1))
    params["pad_mode"] = data.draw(st.integers(0, 3))
    mode = data.draw(st.sampled_from(("windows", "windows", "global_pooling", "adaptive_pooling")))
    if mode != "windows":
        params[mode] = 1
    if mode == "adaptive_pooling":
        params |= {f"out_{axis}": data.draw(st.sampled_from((-233, 1, 2, 3))) for axis in axes}
    agrees_where_known(make_layer(kind, **params), (3, *data.draw(extents(len(axes)))))


@SWEEP
@given(data=st.data())
def test_unfold_and_fold(data: st.DataObject) -> None:
    params = data.draw(st.composite(lambda draw: {**windows(draw, "hw"), **pads(draw, "hw", same=False)})())
    image = data.draw(extents(3, 7))
    unfold = make_layer("Unfold", **params)
    agrees_where_known(unfold, image)
    columns = infer_shapes(Model((Layer("Input", "in0", (), ("in0",)), unfold)), {"in0": BlobShape.from_numpy(image)})[
        "out0"
    ]
    assert columns is not None
    agrees_where_known(make_layer("Fold", **params, output_h=image[1], output_w=image[2]), columns.numpy_shape)


@SWEEP
@given(data=st.data())
def test_deformable_convolution(data: st.DataObject) -> None:
    params = data.draw(st.composite(lambda draw: {**windows(draw, "hw"), **pads(draw, "hw", same=False)})())
    h, w = data.draw(extents(2))
    kernel = params["kernel_h"] * params["kernel_w"]
    layer = make_layer("DeformableConv2D", 2, num_output=3, weight_data_size=3 * 2 * kernel, **params)
    plain = make_layer("Convolution", num_output=3, weight_data_size=3 * 2 * kernel, **params)
    made = infer_shapes(Model((Layer("Input", "in0", (), ("in0",)), plain)), {"in0": BlobShape(3, w, h, 1, 2)})["out0"]
    assume(made is not None)
    assert made is not None
    agrees_where_known(layer, (2, h, w), (2 * kernel, made.h, made.w))


@SWEEP
@given(shape=blob_shapes(), data=st.data())
def test_reshape(shape: tuple[int, ...], data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.sampled_from((-1, 0, 0, 1, 2, 3, 4, 6, 12)), min_size=1, max_size=4))
    assume(sizes.count(-1) <= 1)
    names = {1: "w", 2: "wh", 3: "whc", 4: "whdc"}[len(sizes)]
    agrees_where_known(make_layer("Reshape", **dict(zip(names, sizes, strict=True))), shape)


@SWEEP
@given(
    shape=blob_shapes(),
    sizes=st.lists(
        st.sampled_from(("0w", "0h", "0d", "0c", "-1", "2", "*(0w,2)", "//(0w,2)", "+(0h,0c)")), min_size=1, max_size=4
    ),
)
def test_reshape_by_expression(shape: tuple[int, ...], sizes: list[str]) -> None:
    agrees_where_known(make_layer("Reshape", shape_expr=",".join(sizes)), shape)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_permute(rank: int) -> None:
    for order in range({1: 1, 2: 2, 3: 6, 4: 24}[rank]):
        agrees(make_layer("Permute", order_type=order), (2, 3, 4, 5)[:rank])


@SWEEP
@given(shape=st.lists(st.sampled_from((1, 1, 2, 3)), min_size=1, max_size=4).map(tuple), data=st.data())
def test_squeeze_and_expand_dims(shape: tuple[int, ...], data: st.DataObject) -> None:
    rank = len(shape)
    axes = tuple(
        data.draw(st.lists(st.integers(-rank, rank - 1), min_size=1, max_size=rank, unique_by=lambda a: a % rank))
    )
    agrees(make_layer("Squeeze", axes=axes), shape)
    flags = {f"squeeze_{axis}": data.draw(st.integers(0, 1)) for axis in "whdc"}
    agrees(make_layer("Squeeze", **flags), shape)
    grown = data.draw(st.integers(rank, 4))
    if grown > rank:
        added = data.draw(
            st.lists(st.integers(0, grown - 1), min_size=grown - rank, max_size=grown - rank, unique=True)
        )
        signed = tuple(axis - grown if data.draw(st.booleans()) else axis for axis in added)
        agrees(make_layer("ExpandDims", axes=signed), shape)


@SWEEP
@given(shape=blob_shapes(), count=st.integers(1, 4), data=st.data())
def test_concat(shape: tuple[int, ...], count: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    shapes = [
        (*shape[: axis % len(shape)], data.draw(st.integers(1, 4)), *shape[axis % len(shape) + 1 :])
        for _ in range(count)
    ]
    agrees(make_layer("Concat", count, axis=axis), *shapes)


@SWEEP
@given(shape=blob_shapes(9), count=st.integers(1, 4), data=st.data())
def test_slice(shape: tuple[int, ...], count: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    if data.draw(st.booleans()):
        slices = tuple(data.draw(st.lists(st.sampled_from((-233, 1, 2, 3)), min_size=count, max_size=count)))
        agrees_where_known(make_layer("Slice", 1, count, slices=slices, axis=axis), shape)
    else:
        assume(count > 1)
        indices = tuple(data.draw(st.lists(st.integers(-5, 8), min_size=count - 1, max_size=count - 1)))
        agrees_where_known(make_layer("Slice", 1, count, indices=indices, axis=axis), shape)


@SWEEP
@given(shape=blob_shapes(9), data=st.data())
def test_crop(shape: tuple[int, ...], data: st.DataObject) -> None:
    rank = len(shape)
    names = {1: "w", 2: "hw", 3: "chw", 4: "cdhw"}[rank]
    params = {f"{axis}offset": data.draw(st.integers(0, 2)) for axis in names}
    params |= {f"{axis}offset2": data.draw(st.integers(0, 2)) for axis in names}
    params |= {f"out{axis}": data.draw(st.sampled_from((-233, 1, 2, 9))) for axis in "whdc"}
    agrees_where_known(make_layer("Crop", **params), shape)
    axes = tuple(
        data.draw(st.lists(st.integers(-rank, rank - 1), min_size=1, max_size=rank, unique_by=lambda a: a % rank))
    )
    starts = tuple(data.draw(st.sampled_from((-233, 0, 1, -2))) for _ in axes)
    ends = tuple(data.draw(st.sampled_from((-233, 2, 5, -1))) for _ in axes)
    agrees_where_known(make_layer("Crop", starts=starts, ends=ends, axes=axes), shape)


@SWEEP
@given(rank=st.integers(1, 4), smaller=st.booleans(), data=st.data())
def test_crop_to_a_reference(rank: int, smaller: bool, data: st.DataObject) -> None:
    reference_rank = max(1, rank - 1) if smaller else rank
    reference = data.draw(extents(reference_rank, 3))
    agrees_where_known(make_layer("Crop", 2), (5,) * rank, reference)


@SWEEP
@given(shape=blob_shapes(), data=st.data())
def test_padding(shape: tuple[int, ...], data: st.DataObject) -> None:
    sides = {side: data.draw(st.integers(0, 2)) for side in ("top", "bottom", "left", "right", "front", "behind")}
    agrees(make_layer("Padding", **sides), shape)


@SWEEP
@given(shape=blob_shapes(4), repeats=st.lists(st.integers(1, 3), max_size=4).map(tuple), data=st.data())
def test_tile(shape: tuple[int, ...], repeats: tuple[int, ...], data: st.DataObject) -> None:
    if repeats:
        agrees(make_layer("Tile", repeats=repeats), shape)
    else:
        axis = data.draw(st.integers(0, len(shape) - 1))
        agrees(make_layer("Tile", axis=axis, tiles=data.draw(st.integers(1, 3))), shape)


@SWEEP
@given(shape=blob_shapes(4), everything=st.integers(0, 1), keepdims=st.integers(0, 1), data=st.data())
def test_reduction(shape: tuple[int, ...], everything: int, keepdims: int, data: st.DataObject) -> None:
    rank = len(shape)
    axes = tuple(
        data.draw(st.lists(st.integers(-rank, rank - 1), min_size=1, max_size=rank, unique_by=lambda a: a % rank))
    )
    layer = make_layer("Reduction", reduce_all=everything, axes=axes, keepdims=keepdims, fixbug0=1)
    agrees(layer, shape)


@SWEEP
@given(shape=st.integers(1, 3).flatmap(lambda rank: extents(rank, 8)), data=st.data())
def test_interp(shape: tuple[int, ...], data: st.DataObject) -> None:
    params: dict[str, float | int] = {"resize_type": data.draw(st.integers(1, 2))}
    if data.draw(st.booleans()):
        params |= {"output_height": data.draw(st.integers(0, 9)), "output_width": data.draw(st.integers(0, 9))}
    scales = st.sampled_from((0.5, 0.7, 1.0, 1.5, 2.0, 3.3, 4.0))
    params |= {"height_scale": data.draw(scales), "width_scale": data.draw(scales)}
    agrees_where_known(make_layer("Interp", **params), shape)


@SWEEP
@given(shape=extents(3, 6), reference=extents(3, 6))
def test_interp_to_a_reference(shape: tuple[int, ...], reference: tuple[int, ...]) -> None:
    agrees(make_layer("Interp", 2, resize_type=2, dynamic_target_size=1), shape, reference)


@SWEEP
@given(shape=extents(3, 4), factor=st.integers(1, 3))
def test_pixel_shuffle_and_reorg(shape: tuple[int, ...], factor: int) -> None:
    channels, h, w = shape
    agrees(make_layer("PixelShuffle", upscale_factor=factor), (channels * factor * factor, h, w))
    agrees(make_layer("Reorg", stride=factor), (channels, h * factor, w * factor))


@SWEEP
@given(shape=blob_shapes(4), data=st.data())
def test_glu(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    even = tuple(size * 2 if i == axis % len(shape) else size for i, size in enumerate(shape))
    agrees(make_layer("GLU", axis=axis), even)


@SWEEP
@given(rank=st.integers(3, 4), fused=st.integers(0, 1), data=st.data())
def test_grid_sample(rank: int, fused: int, data: st.DataObject) -> None:
    image, places = data.draw(extents(rank, 4)), data.draw(extents(rank - 1, 4))
    grid = (rank - 1, *places) if fused else (*places, rank - 1)
    agrees(make_layer("GridSample", 2, permute_fusion=fused), image, grid)


@SWEEP
@given(a=blob_shapes(3), b=blob_shapes(3))
def test_binary_op(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    agrees_where_known(make_layer("BinaryOp", 2), a, b)


@SWEEP
@given(a=blob_shapes(3), b=blob_shapes(3), transposed=st.integers(0, 1))
def test_mat_mul(a: tuple[int, ...], b: tuple[int, ...], transposed: int) -> None:
    inner = a[-1]
    matrix = (*b[:-1], inner) if transposed else (*b[:-2], inner, b[-1])
    agrees_where_known(make_layer("MatMul", 2, transB=transposed), a, matrix if len(b) > 1 else (inner,))


@SWEEP
@given(sizes=extents(3, 5), data=st.data())
def test_gemm(sizes: tuple[int, ...], data: st.DataObject) -> None:
    m, n, k = sizes
    switches = ("transA", "transB", "output_N1M", "output_transpose")
    params = {name: data.draw(st.integers(0, 1)) for name in switches}
    shapes = [(k, m) if params["transA"] else (m, k), (n, k) if params["transB"] else (k, n)]
    constant = data.draw(st.sampled_from(("", "A", "B")))
    if constant:
        params |= {f"constant{constant}": 1, "constantM": m, "constantN": n, "constantK": k}
        del shapes["AB".index(constant)]
    if data.draw(st.booleans()):
        shapes.append((n,))
    else:
        params |= {"constantC": 1, "constant_broadcast_type_C": -1}
    agrees(make_layer("Gemm", len(shapes), **params), *shapes)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("direction", [0, 1, 2])
@pytest.mark.parametrize("states", [False, True])
def test_recurrent_layers_with_states(kind: str, direction: int, states: bool) -> None:
    directions, gates = (2 if direction == 2 else 1), {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    hidden = [(directions, 5)] * (2 if kind == "LSTM" else 1) if states else []
    layer = make_layer(
        kind,
        1 + len(hidden),
        1 + len(hidden),
        num_output=5,
        weight_data_size=gates * 5 * 7 * directions,
        direction=direction,
    )
    agrees(layer, (6, 7), *hidden)


@SWEEP
@given(heads=st.integers(1, 3), queries=st.integers(1, 4), keys=st.integers(1, 4), masked=st.integers(0, 1))
def test_attention(heads: int, queries: int, keys: int, masked: int) -> None:
    mask = [(queries, keys)] * masked
    agrees(
        make_layer("SDPA", 3 + masked, attn_mask=masked), (heads, queries, 4), (heads, keys, 4), (heads, keys, 6), *mask
    )
    width = heads * 4
    params = {"embed_dim": width, "num_heads": heads, "weight_data_size": width * 8, "kdim": 5, "vdim": 6}
    layer = make_layer("MultiHeadAttention", 3 + masked, **params, attn_mask=masked)
    agrees(layer, (queries, 8), (keys, 5), (keys, 6), *mask)


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_inner_product_takes_rows_or_flattens(fold: int) -> None:
    for shape in ((12,), (3, 12), (3, 4), (3, 2, 2)):
        agrees(make_layer("InnerProduct", num_output=fold, weight_data_size=12 * fold), shape)


_PARAMS = {
    "BatchNorm": {"channels": 4},
    "Bias": {"bias_data_size": 4},
    "Cast": {"type_from": 1, "type_to": 1},
    "GroupNorm": {"group": 2, "channels": 4},
    "InstanceNorm": {"channels": 4},
    "LayerNorm": {"affine_size": 4},
    "Normalize": {"scale_data_size": 1, "channel_shared": 1},
    "PReLU": {"num_slope": 4},
    "RMSNorm": {"affine_size": 4},
    "ShuffleChannel": {"group": 2},
    "Flip": {"axes": (0,)},
}
_ONE_INPUT = [name for name, rule in RULES.items() if rule is RULES["ReLU"] and name in ONE_BLOB_TYPES]
_INT8_INPUT = ("Dequantize", "Requantize")  # fed by an int8 blob, which no input of ours is


@pytest.mark.parametrize("layer_type", [name for name in _ONE_INPUT if name not in _INT8_INPUT])
def test_layers_that_keep_the_shape(layer_type: str) -> None:
    agrees(make_layer(layer_type, **_PARAMS.get(layer_type, {})), (4, 4, 4))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 2, 3, 4)])
@pytest.mark.parametrize(
    "layer_type", ["ReLU", "GELU", "Sigmoid", "UnaryOp", "Softmax", "Dropout", "CumulativeSum", "Swish"]
)
def test_pointwise_layers_of_every_rank(layer_type: str, shape: tuple[int, ...]) -> None:
    agrees(make_layer(layer_type), shape)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 2, 3, 4)])
def test_layers_that_pass_blobs_on(shape: tuple[int, ...]) -> None:
    agrees(make_layer("Split", 1, 3), shape)
    agrees(make_layer("Flatten"), shape)
    agrees(make_layer("BinaryOp", with_scalar=1, b=2.0), shape)
    agrees(make_layer("Eltwise", 2, op_type=1), shape, shape)


def test_layers_with_helpers_keep_the_shape_of_the_first_input() -> None:
    agrees(make_layer("RotaryEmbed", 3), (2, 5, 8), (5, 4), (5, 4))
    agrees(make_layer("Scale", 2, scale_data_size=-233), (4, 3, 2), (4,))
    agrees(make_layer("CopyTo", 2), (4, 5, 6), (2, 3, 4))


def test_dynamic_weights_shape_the_convolution() -> None:
    agrees(make_layer("Convolution", 2, dynamic_weight=1, num_output=9, kernel_w=7), (3, 8, 9), (5, 3, 3, 2))
    agrees(make_layer("Convolution1D", 2, dynamic_weight=1), (3, 9), (5, 3, 2))
