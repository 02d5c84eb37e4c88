"""The layer types of `param_tools.schema` that keep weights in the .bin: parameters and ordered arrays.

An array row is (name, shape, load type, when, count, int8): see `schema.ArraySchema`. Source: the `load_param` and
`load_model` of each layer; `tests/integration/test_format_schema.py` proves every row on the installed wheel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

__all__ = ["WEIGHTED"]

ArrayRow = tuple[str, ...]
_ACTIVATION = "9 activation_type, 10 activation_params=[]"
_CONV_1D = "0 num_output, 1 kernel_w, 2 dilation_w=1, 3 stride_w=1, 4 pad_left, 5 bias_term, 6 weight_data_size"
_CONV_2D = (
    f"{_CONV_1D}, 11 kernel_h=kernel_w, 12 dilation_h=dilation_w, 13 stride_h=stride_w, "
    "14 pad_top=pad_left, 15 pad_right=pad_left, 16 pad_bottom=pad_top"
)
_CONV_3D = (
    f"{_CONV_2D}, 21 kernel_d=kernel_w, 22 dilation_d=dilation_w, 23 stride_d=stride_w, "
    "24 pad_front=pad_left, 17 pad_behind=pad_front"
)
_GROUP = "7 group=1"
_PAD_VALUE = "18 pad_value=0."
_DYNAMIC = "19 dynamic_weight"
_OUT_1D = "18 output_pad_right, 20 output_w, 28 dynamic_weight"
_OUT_2D = (
    "18 output_pad_right, 19 output_pad_bottom=output_pad_right, 20 output_w, 21 output_h=output_w, 28 dynamic_weight"
)
_OUT_3D = (
    "18 output_pad_right, 19 output_pad_bottom=output_pad_right, 20 output_pad_behind=output_pad_right, "
    "25 output_w, 26 output_h=output_w, 27 output_d=output_w"
)
_RECURRENT = "0 num_output, 1 weight_data_size, 2 direction"


def _conv(
    kernel: str, dynamic: bool = True, scales: tuple[ArrayRow, ...] = (), int8: str = "False"
) -> tuple[ArrayRow, ...]:
    static = "not dynamic_weight" if dynamic else ""
    bias_when = "bias_term and not dynamic_weight" if dynamic else "bias_term"
    return (
        ("weight", f"num_output, ?, {kernel}", "0", static, "weight_data_size", int8),
        ("bias", "num_output", "1", bias_when),
        *scales,
    )


_1D, _2D, _3D = "kernel_w", "kernel_h, kernel_w", "kernel_d, kernel_h, kernel_w"
_STATIC_INT8 = "int8_scale_term and not dynamic_weight"
_CONV_SCALES = (
    ("weight_scales", "num_output", "1", _STATIC_INT8),
    ("bottom_scale", "1", "1", _STATIC_INT8),
    ("top_scale", "1", "1", "int8_scale_term > 100 and not dynamic_weight"),
)
_DEPTHWISE_SCALES = (
    ("weight_scales", "group", "1", "int8_scale_term in (1, 101) and not dynamic_weight"),
    ("weight_scales", "1", "1", "int8_scale_term in (2, 102) and not dynamic_weight"),
    ("bottom_scale", "1", "1", "int8_scale_term in (1, 2, 101, 102) and not dynamic_weight"),
    ("top_scale", "1", "1", "int8_scale_term > 100 and not dynamic_weight"),
)


def _affine(size: str, *names: str) -> tuple[ArrayRow, ...]:
    return tuple((name, size, "1", "affine") for name in names)


def _recurrent(gates: int, bias_rows: int, hidden: str, projection: tuple[ArrayRow, ...] = ()) -> tuple[ArrayRow, ...]:
    directions = "2 if direction == 2 else 1"
    rows = f"{gates} * {hidden}" if gates > 1 else hidden
    return (
        ("weight_xc", f"{directions}, {rows}, ?", "0", "", "weight_data_size", "int8_scale_term"),
        ("bias_c", f"{directions}, {bias_rows}, {hidden}", "0"),
        ("weight_hc", f"{directions}, {rows}, num_output", "0", "", "", "int8_scale_term"),
        *projection,
        ("weight_xc_scales", f"{directions}, {rows}", "1", "int8_scale_term"),
        ("weight_hc_scales", f"{directions}, {rows}", "1", "int8_scale_term"),
    )


# quantize_term of 400 and over: weights of 4, 6 or 8 bits in blocks of 32, 64 or 128 along the inputs
_BLOCKED = "quantize_term >= 400"
_INT8_TERM = "quantize_term and quantize_term < 400"


def _packed(inputs: str) -> str:
    return f"({inputs} * (quantize_term // 100) + 7) // 8"


def _blocks(inputs: str) -> str:
    return f"-(-{inputs} // (32 << quantize_term % 10))"


_GEMM = (
    (
        "a",
        "constantK if transA else constantM, constantM if transA else constantK",
        "0",
        "constantA == 1",
        "",
        _INT8_TERM,
    ),
    ("b", f"constantN, {_packed('constantK')}", "quantize_term // 100", f"constantB == 1 and {_BLOCKED}"),
    (
        "b",
        "constantN if transB else constantK, constantK if transB else constantN",
        "0",
        f"constantB == 1 and not {_BLOCKED}",
        "",
        _INT8_TERM,
    ),
    *(
        ("c", shape, "0", f"constantC == 1 and constant_broadcast_type_C == {kind}")
        for kind, shape in enumerate(("1", "constantM", "constantM, 1", "constantM, constantN", "1, constantN"))
    ),
    ("b_block_scales", f"constantN, {_blocks('constantK')}", "1", _BLOCKED),
    ("b_input_scales", "constantK", "1", f"{_BLOCKED} and quantize_term % 100 // 10 == 1"),
    ("a_scales", "constantM", "1", f"constantA == 1 and {_INT8_TERM}"),
    ("b_scale", "1", "1", f"constantB == 1 and {_INT8_TERM}"),
)


def _attention() -> Iterator[ArrayRow]:
    sides = (
        ("q", "embed_dim", "weight_data_size // embed_dim"),
        ("k", "embed_dim", "kdim"),
        ("v", "embed_dim", "vdim"),
        ("out", "weight_data_size // embed_dim", "embed_dim"),
    )
    for side, rows, inputs in sides:
        yield f"{side}_weight", f"{rows}, {inputs}", "0", f"not {_BLOCKED}", "", _INT8_TERM
        yield f"{side}_weight", f"{rows}, {_packed(f'({inputs})')}", "quantize_term // 100", _BLOCKED
        yield f"{side}_bias", rows, "1"
    for side, rows, inputs in sides:
        yield f"{side}_block_scales", f"{rows}, {_blocks(f'({inputs})')}", "1", _BLOCKED
    for side, _, inputs in sides:
        yield f"{side}_input_scales", inputs, "1", f"{_BLOCKED} and quantize_term % 100 // 10 == 1"
    for side in "qkv":
        yield f"{side}_scales", "embed_dim", "1", _INT8_TERM
    yield "out_scale", "1", "1", _INT8_TERM


_MEMORY = (
    ("data", "c, d, h, w", "load_type", "d != 0", "", "True"),
    ("data", "c, h, w", "load_type", "d == 0 and c != 0", "", "True"),
    ("data", "h, w", "load_type", "d == 0 and c == 0 and h != 0", "", "True"),
    ("data", "w", "load_type", "d == 0 and c == 0 and h == 0 and w != 0", "", "True"),
)

WEIGHTED: Mapping[str, tuple[str, tuple[ArrayRow, ...]]] = {
    "BatchNorm": (
        "0 channels, 1 eps=0.",
        (("slope", "channels"), ("mean", "channels"), ("variance", "channels"), ("bias", "channels")),
    ),
    "Bias": ("0 bias_data_size", (("bias", "bias_data_size"),)),
    "Convolution": (
        f"{_CONV_2D}, 8 int8_scale_term, {_ACTIVATION}, {_PAD_VALUE}, {_DYNAMIC}",
        _conv(_2D, scales=_CONV_SCALES, int8="int8_scale_term"),
    ),
    "Deconvolution": (f"{_CONV_2D}, {_ACTIVATION}, {_OUT_2D}", _conv(_2D)),
    "Embed": (
        "0 num_output, 1 input_dim, 2 bias_term, 3 weight_data_size, 18 int8_scale_term",
        (
            ("weight", "?, num_output", "0", "", "weight_data_size", "int8_scale_term"),
            ("bias", "num_output", "1", "bias_term"),
            ("weight_scale", "1", "1", "int8_scale_term"),
        ),
    ),
    "InnerProduct": (
        f"0 num_output, 1 bias_term, 2 weight_data_size, 8 int8_scale_term, {_ACTIVATION}",
        (
            ("weight", "num_output, ?", "0", "", "weight_data_size", "int8_scale_term"),
            ("bias", "num_output", "1", "bias_term"),
            ("weight_scales", "num_output", "1", "int8_scale_term"),
            ("bottom_scale", "1", "1", "int8_scale_term"),
        ),
    ),
    "MemoryData": ("0 w, 1 h, 11 d, 2 c, 21 load_type=1", _MEMORY),
    "PReLU": ("0 num_slope", (("slope", "num_slope"),)),
    "Scale": (
        "0 scale_data_size, 1 bias_term",
        (
            ("scale", "scale_data_size", "1", "scale_data_size != -233"),
            ("bias", "scale_data_size", "1", "bias_term and scale_data_size != -233"),
        ),
    ),
    "RNN": (f"{_RECURRENT}, 8 int8_scale_term", _recurrent(1, 1, "num_output")),
    "LSTM": (
        f"{_RECURRENT}, 3 hidden_size=num_output, 8 int8_scale_term",
        _recurrent(
            4,
            4,
            "hidden_size",
            (
                (
                    "weight_hr",
                    "2 if direction == 2 else 1, num_output, hidden_size",
                    "0",
                    "num_output != hidden_size",
                ),
            ),
        ),
    ),
    "ConvolutionDepthWise": (
        f"{_CONV_2D}, {_GROUP}, 8 int8_scale_term, {_ACTIVATION}, {_PAD_VALUE}, {_DYNAMIC}",
        _conv(_2D, scales=_DEPTHWISE_SCALES, int8="int8_scale_term"),
    ),
    "Padding": (
        "0 top, 1 bottom, 2 left, 3 right, 4 type, 5 value=0., 6 per_channel_pad_data_size, 7 front, 8 behind",
        (("per_channel_pad", "per_channel_pad_data_size", "1", "per_channel_pad_data_size"),),
    ),
    "Normalize": (
        "0 across_spatial, 1 channel_shared, 2 eps=0.0001, 3 scale_data_size, 4 across_channel=1, 9 eps_mode",
        (("scale", "scale_data_size"),),
    ),
    "DeconvolutionDepthWise": (f"{_CONV_2D}, {_GROUP}, {_ACTIVATION}, {_OUT_2D}", _conv(_2D)),
    "InstanceNorm": ("0 channels, 1 eps=0.001, 2 affine=1", _affine("channels", "gamma", "beta")),
    "Quantize": ("0 scale_data_size=1", (("scale", "scale_data_size"),)),
    "Dequantize": (
        "0 scale_data_size=1, 1 bias_data_size",
        (("scale", "scale_data_size"), ("bias", "bias_data_size", "1", "bias_data_size")),
    ),
    "Requantize": (
        "0 scale_in_data_size=1, 1 scale_out_data_size=1, 2 bias_data_size, 3 activation_type, 4 activation_params=[]",
        (
            ("scale_in", "scale_in_data_size"),
            ("scale_out", "scale_out_data_size"),
            ("bias", "bias_data_size", "1", "bias_data_size"),
        ),
    ),
    "Gemm": (
        "0 alpha=1., 1 beta=1., 2 transA, 3 transB, 4 constantA, 5 constantB, 6 constantC, 7 constantM, 8 constantN, "
        "9 constantK, 10 constant_broadcast_type_C, 11 output_N1M, 12 output_elempack, 13 output_elemtype, "
        "14 output_transpose, 18 quantize_term, 20 constant_TILE_M, 21 constant_TILE_N, 22 constant_TILE_K",
        _GEMM,
    ),
    "GroupNorm": ("0 group=1, 1 channels, 2 eps=0.001, 3 affine=1", _affine("channels", "gamma", "beta")),
    "LayerNorm": ("0 affine_size, 1 eps=0.001, 2 affine=1", _affine("affine_size", "gamma", "beta")),
    "GRU": (f"{_RECURRENT}, 8 int8_scale_term", _recurrent(3, 4, "num_output")),
    "MultiHeadAttention": (
        "0 embed_dim, 1 num_heads=1, 2 weight_data_size, 3 kdim=embed_dim, 4 vdim=embed_dim, 5 attn_mask, "
        "6 scale=(embed_dim // num_heads) ** -0.5, 7 kv_cache, 18 quantize_term",
        tuple(_attention()),
    ),
    "Convolution1D": (f"{_CONV_1D}, 15 pad_right=pad_left, {_ACTIVATION}, {_PAD_VALUE}, {_DYNAMIC}", _conv(_1D)),
    "ConvolutionDepthWise1D": (
        f"{_CONV_1D}, 15 pad_right=pad_left, {_GROUP}, {_ACTIVATION}, {_PAD_VALUE}, {_DYNAMIC}",
        _conv(_1D),
    ),
    "Convolution3D": (f"{_CONV_3D}, {_ACTIVATION}, {_PAD_VALUE}", _conv(_3D, dynamic=False)),
    "ConvolutionDepthWise3D": (f"{_CONV_3D}, {_GROUP}, {_ACTIVATION}, {_PAD_VALUE}", _conv(_3D, dynamic=False)),
    "Deconvolution1D": (f"{_CONV_1D}, 15 pad_right=pad_left, {_ACTIVATION}, {_OUT_1D}", _conv(_1D)),
    "DeconvolutionDepthWise1D": (f"{_CONV_1D}, 15 pad_right=pad_left, {_GROUP}, {_ACTIVATION}, {_OUT_1D}", _conv(_1D)),
    "Deconvolution3D": (f"{_CONV_3D}, {_ACTIVATION}, {_OUT_3D}", _conv(_3D, dynamic=False)),
    "DeconvolutionDepthWise3D": (f"{_CONV_3D}, {_GROUP}, {_ACTIVATION}, {_OUT_3D}", _conv(_3D, dynamic=False)),
    "DeformableConv2D": (f"{_CONV_2D}, {_ACTIVATION}", _conv(_2D, dynamic=False)),
    "RMSNorm": ("0 affine_size, 1 eps=0.001, 2 affine=1", _affine("affine_size", "gamma")),
}
