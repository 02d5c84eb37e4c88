"""The rows of `param_tools.schema`: (layer type, parameters, weight arrays) in ncnn's registry order.

An array row is (name, shape, tagged, when, count): see `schema.ArraySchema`. Source: the `load_param` and
`load_model` of each layer; `tests/integration/test_format_schema.py` proves every row on the installed wheel.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["TABLE"]

_ArrayRow = tuple[str, ...]
_Row = tuple[str, str, tuple[_ArrayRow, ...]]

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
_POOL_1D = (
    "0 pooling_type, 1 kernel_w, 2 stride_w=1, 3 pad_left, 4 global_pooling, 5 pad_mode, 6 avgpool_count_include_pad, "
    "7 adaptive_pooling, 8 out_w, 14 pad_right=pad_left"
)
_POOL_2D = f"{_POOL_1D}, 11 kernel_h=kernel_w, 12 stride_h=stride_w, 13 pad_top=pad_left, 15 pad_bottom=pad_top, 18 out_h=out_w"
_POOL_3D = f"{_POOL_2D}, 21 kernel_d=kernel_w, 22 stride_d=stride_w, 23 pad_front=pad_left, 16 pad_behind=pad_front, 28 out_d=out_w"
_CROP_OFFSETS = "0 woffset, 1 hoffset, 13 doffset, 2 coffset"


def _conv(kernel: str, dynamic: bool = True, scales: tuple[_ArrayRow, ...] = ()) -> tuple[_ArrayRow, ...]:
    static = "not dynamic_weight" if dynamic else ""
    bias_when = "bias_term and not dynamic_weight" if dynamic else "bias_term"
    return (
        ("weight", f"num_output, ?, {kernel}", "True", static, "weight_data_size"),
        ("bias", "num_output", "False", bias_when),
        *scales,
    )


_1D, _2D, _3D = "kernel_w", "kernel_h, kernel_w", "kernel_d, kernel_h, kernel_w"
_STATIC_INT8 = "int8_scale_term and not dynamic_weight"
_CONV_SCALES = (
    ("weight_scales", "num_output", "False", _STATIC_INT8),
    ("bottom_scale", "1", "False", _STATIC_INT8),
    ("top_scale", "1", "False", "int8_scale_term > 100 and not dynamic_weight"),
)
_DEPTHWISE_SCALES = (
    ("weight_scales", "group", "False", "int8_scale_term in (1, 101) and not dynamic_weight"),
    ("weight_scales", "1", "False", "int8_scale_term in (2, 102) and not dynamic_weight"),
    ("bottom_scale", "1", "False", "int8_scale_term in (1, 2, 101, 102) and not dynamic_weight"),
    ("top_scale", "1", "False", "int8_scale_term > 100 and not dynamic_weight"),
)


def _affine(size: str, *names: str) -> tuple[_ArrayRow, ...]:
    return tuple((name, size, "False", "affine") for name in names)


def _recurrent(
    gates: int, bias_rows: int, hidden: str, projection: tuple[_ArrayRow, ...] = ()
) -> tuple[_ArrayRow, ...]:
    directions = "2 if direction == 2 else 1"
    rows = f"{gates} * {hidden}" if gates > 1 else hidden
    return (
        ("weight_xc", f"{directions}, {rows}, ?", "True", "", "weight_data_size"),
        ("bias_c", f"{directions}, {bias_rows}, {hidden}", "True"),
        ("weight_hc", f"{directions}, {rows}, num_output", "True"),
        *projection,
        ("weight_xc_scales", f"{directions}, {rows}", "False", "int8_scale_term"),
        ("weight_hc_scales", f"{directions}, {rows}", "False", "int8_scale_term"),
    )


# quantize_term of 400 and over: weights of 4, 6 or 8 bits in blocks of 32, 64 or 128 along the inputs
_BLOCKED = "quantize_term >= 400"
_INT8_TERM = "quantize_term and quantize_term < 400"


def _packed(inputs: str) -> str:
    return f"({inputs} * (quantize_term // 100) + 7) // 8"


def _blocks(inputs: str) -> str:
    return f"-(-{inputs} // (32 << quantize_term % 10))"


_GEMM = (
    ("a", "constantK if transA else constantM, constantM if transA else constantK", "True", "constantA == 1"),
    ("b", f"constantN, {_packed('constantK')}", "True", f"constantB == 1 and {_BLOCKED}"),
    (
        "b",
        "constantN if transB else constantK, constantK if transB else constantN",
        "True",
        f"constantB == 1 and not {_BLOCKED}",
    ),
    *(
        ("c", shape, "True", f"constantC == 1 and constant_broadcast_type_C == {kind}")
        for kind, shape in enumerate(("1", "constantM", "constantM, 1", "constantM, constantN", "1, constantN"))
    ),
    ("b_block_scales", f"constantN, {_blocks('constantK')}", "False", _BLOCKED),
    ("b_input_scales", "constantK", "False", f"{_BLOCKED} and quantize_term % 100 // 10 == 1"),
    ("a_scales", "constantM", "False", f"constantA == 1 and {_INT8_TERM}"),
    ("b_scale", "1", "False", f"constantB == 1 and {_INT8_TERM}"),
)


def _attention() -> Iterator[_ArrayRow]:
    sides = (
        ("q", "embed_dim", "weight_data_size // embed_dim"),
        ("k", "embed_dim", "kdim"),
        ("v", "embed_dim", "vdim"),
        ("out", "weight_data_size // embed_dim", "embed_dim"),
    )
    for side, rows, inputs in sides:
        yield f"{side}_weight", f"{rows}, {inputs}", "True", f"not {_BLOCKED}"
        yield f"{side}_weight", f"{rows}, {_packed(f'({inputs})')}", "True", _BLOCKED
        yield f"{side}_bias", rows, "False"
    for side, rows, inputs in sides:
        yield f"{side}_block_scales", f"{rows}, {_blocks(f'({inputs})')}", "False", _BLOCKED
    for side, _, inputs in sides:
        yield f"{side}_input_scales", inputs, "False", f"{_BLOCKED} and quantize_term % 100 // 10 == 1"
    for side in "qkv":
        yield f"{side}_scales", "embed_dim", "False", _INT8_TERM
    yield "out_scale", "1", "False", _INT8_TERM


_MEMORY = (
    ("data", "c, d, h, w", "load_type == 0", "d != 0"),
    ("data", "c, h, w", "load_type == 0", "d == 0 and c != 0"),
    ("data", "h, w", "load_type == 0", "d == 0 and c == 0 and h != 0"),
    ("data", "w", "load_type == 0", "d == 0 and c == 0 and h == 0 and w != 0"),
)

TABLE: tuple[_Row, ...] = (
    ("AbsVal", "", ()),
    ("ArgMax", "0 out_max_val, 1 topk=1", ()),
    (
        "BatchNorm",
        "0 channels, 1 eps=0.",
        (("slope", "channels"), ("mean", "channels"), ("variance", "channels"), ("bias", "channels")),
    ),
    ("Bias", "0 bias_data_size", (("bias", "bias_data_size"),)),
    ("BNLL", "", ()),
    ("Concat", "0 axis", ()),
    (
        "Convolution",
        f"{_CONV_2D}, 8 int8_scale_term, {_ACTIVATION}, {_PAD_VALUE}, {_DYNAMIC}",
        _conv(_2D, scales=_CONV_SCALES),
    ),
    (
        "Crop",
        f"{_CROP_OFFSETS}, 3 outw, 4 outh, 14 outd, 5 outc, 6 woffset2, 7 hoffset2, 15 doffset2, 8 coffset2, "
        '9 starts=[], 10 ends=[], 11 axes=[], 19 starts_expr="", 20 ends_expr="", 21 axes_expr=""',
        (),
    ),
    ("Deconvolution", f"{_CONV_2D}, {_ACTIVATION}, {_OUT_2D}", _conv(_2D)),
    ("Dropout", "0 scale=1.", ()),
    ("Eltwise", "0 op_type, 1 coeffs=[]", ()),
    ("ELU", "0 alpha=0.1", ()),
    (
        "Embed",
        "0 num_output, 1 input_dim, 2 bias_term, 3 weight_data_size, 18 int8_scale_term",
        (
            ("weight", "?, num_output", "True", "", "weight_data_size"),
            ("bias", "num_output", "False", "bias_term"),
            ("weight_scale", "1", "False", "int8_scale_term"),
        ),
    ),
    ("Exp", "0 base=-1., 1 scale=1., 2 shift=0.", ()),
    ("Flatten", "", ()),
    (
        "InnerProduct",
        f"0 num_output, 1 bias_term, 2 weight_data_size, 8 int8_scale_term, {_ACTIVATION}",
        (
            ("weight", "num_output, ?", "True", "", "weight_data_size"),
            ("bias", "num_output", "False", "bias_term"),
            ("weight_scales", "num_output", "False", "int8_scale_term"),
            ("bottom_scale", "1", "False", "int8_scale_term"),
        ),
    ),
    ("Input", "0 w, 1 h, 11 d, 2 c", ()),
    ("Log", "0 base=-1., 1 scale=1., 2 shift=0.", ()),
    ("LRN", "0 region_type, 1 local_size=5, 2 alpha=1., 3 beta=0.75, 4 bias=1.", ()),
    ("MemoryData", "0 w, 1 h, 11 d, 2 c, 21 load_type=1", _MEMORY),
    ("MVN", "0 normalize_variance, 1 across_channels, 2 eps=0.0001", ()),
    ("Pooling", _POOL_2D, ()),
    ("Power", "0 power=1., 1 scale=1., 2 shift=0.", ()),
    ("PReLU", "0 num_slope", (("slope", "num_slope"),)),
    (
        "Proposal",
        "0 feat_stride=16, 1 base_size=16, 2 pre_nms_topN=6000, 3 after_nms_topN=300, 4 nms_thresh=0.7, 5 min_size=16",
        (),
    ),
    ("Reduction", "0 operation, 1 reduce_all=1, 2 coeff=1., 3 axes=[], 4 keepdims, 5 fixbug0", ()),
    ("ReLU", "0 slope=0.", ()),
    (
        "Reshape",
        '0 w=-233, 1 h=-233, 11 d=-233, 2 c=-233, 6 shape_expr="", 12 input_batch_axis=233, 13 output_batch_axis=233',
        (),
    ),
    ("ROIPooling", "0 pooled_width, 1 pooled_height, 2 spatial_scale=1.", ()),
    (
        "Scale",
        "0 scale_data_size, 1 bias_term",
        (
            ("scale", "scale_data_size", "False", "scale_data_size != -233"),
            ("bias", "scale_data_size", "False", "bias_term and scale_data_size != -233"),
        ),
    ),
    ("Sigmoid", "", ()),
    ("Slice", "0 slices=[], 1 axis, 2 indices=[]", ()),
    ("Softmax", "0 axis, 1 fixbug0", ()),
    ("Split", "", ()),
    ("SPP", "0 pooling_type, 1 pyramid_height=1", ()),
    ("TanH", "", ()),
    ("Threshold", "0 threshold=0.", ()),
    ("Tile", "0 axis, 1 tiles=1, 2 repeats=[]", ()),
    ("RNN", f"{_RECURRENT}, 8 int8_scale_term", _recurrent(1, 1, "num_output")),
    (
        "LSTM",
        f"{_RECURRENT}, 3 hidden_size=num_output, 8 int8_scale_term",
        _recurrent(
            4,
            4,
            "hidden_size",
            (
                (
                    "weight_hr",
                    "2 if direction == 2 else 1, num_output, hidden_size",
                    "True",
                    "num_output != hidden_size",
                ),
            ),
        ),
    ),
    ("BinaryOp", "0 op_type, 1 with_scalar, 2 b=0.", ()),
    ("UnaryOp", "0 op_type", ()),
    (
        "ConvolutionDepthWise",
        f"{_CONV_2D}, {_GROUP}, 8 int8_scale_term, {_ACTIVATION}, {_PAD_VALUE}, {_DYNAMIC}",
        _conv(_2D, scales=_DEPTHWISE_SCALES),
    ),
    (
        "Padding",
        "0 top, 1 bottom, 2 left, 3 right, 4 type, 5 value=0., 6 per_channel_pad_data_size, 7 front, 8 behind",
        (("per_channel_pad", "per_channel_pad_data_size", "False", "per_channel_pad_data_size"),),
    ),
    ("Squeeze", "0 squeeze_w, 1 squeeze_h, 11 squeeze_d, 2 squeeze_c, 3 axes=[]", ()),
    ("ExpandDims", "3 axes=[]", ()),
    (
        "Normalize",
        "0 across_spatial, 1 channel_shared, 2 eps=0.0001, 3 scale_data_size, 4 across_channel=1, 9 eps_mode",
        (("scale", "scale_data_size"),),
    ),
    ("Permute", "0 order_type", ()),
    (
        "PriorBox",
        "0 min_sizes=[], 1 max_sizes=[], 2 aspect_ratios=[], 3 variance_0=0.1, 4 variance_1=0.1, 5 variance_2=0.2, "
        "6 variance_3=0.2, 7 flip=1, 8 clip, 9 image_width, 10 image_height, 11 step_width=-233., 12 step_height=-233., "
        "13 offset=0., 14 step_mmdetection, 15 center_mmdetection",
        (),
    ),
    (
        "DetectionOutput",
        "0 num_class, 1 nms_threshold=0.05, 2 nms_top_k=300, 3 keep_top_k=100, 4 confidence_threshold=0.5, "
        "5 variance_0=0.1, 6 variance_1=0.1, 7 variance_2=0.2, 8 variance_3=0.2",
        (),
    ),
    (
        "Interp",
        "0 resize_type, 1 height_scale=1., 2 width_scale=1., 3 output_height, 4 output_width, 5 dynamic_target_size, "
        '6 align_corner, 9 size_expr=""',
        (),
    ),
    ("DeconvolutionDepthWise", f"{_CONV_2D}, {_GROUP}, {_ACTIVATION}, {_OUT_2D}", _conv(_2D)),
    ("ShuffleChannel", "0 group=1, 1 reverse", ()),
    ("InstanceNorm", "0 channels, 1 eps=0.001, 2 affine=1", _affine("channels", "gamma", "beta")),
    ("Clip", "0 min=-3.402823466e38, 1 max=3.402823466e38", ()),
    ("Reorg", "0 stride=1, 1 mode", ()),
    (
        "YoloDetectionOutput",
        "0 num_class=20, 1 num_box=5, 2 confidence_threshold=0.01, 3 nms_threshold=0.45, 4 biases=[]",
        (),
    ),
    ("Quantize", "0 scale_data_size=1", (("scale", "scale_data_size"),)),
    (
        "Dequantize",
        "0 scale_data_size=1, 1 bias_data_size",
        (("scale", "scale_data_size"), ("bias", "bias_data_size", "False", "bias_data_size")),
    ),
    (
        "Yolov3DetectionOutput",
        "0 num_class=20, 1 num_box=5, 2 confidence_threshold=0.01, 3 nms_threshold=0.45, 4 biases=[], 5 mask=[], "
        "6 anchors_scale=[]",
        (),
    ),
    ("PSROIPooling", "0 pooled_width=7, 1 pooled_height=7, 2 spatial_scale=0.0625, 3 output_dim", ()),
    ("ROIAlign", "0 pooled_width, 1 pooled_height, 2 spatial_scale=1., 3 sampling_ratio, 4 aligned, 5 version", ()),
    ("Packing", "0 out_elempack=1, 1 use_padding, 2 cast_type_from, 3 cast_type_to", ()),
    (
        "Requantize",
        "0 scale_in_data_size=1, 1 scale_out_data_size=1, 2 bias_data_size, 3 activation_type, 4 activation_params=[]",
        (
            ("scale_in", "scale_in_data_size"),
            ("scale_out", "scale_out_data_size"),
            ("bias", "bias_data_size", "False", "bias_data_size"),
        ),
    ),
    ("Cast", "0 type_from, 1 type_to", ()),
    ("HardSigmoid", "0 alpha=0.2, 1 beta=0.5", ()),
    ("SELU", "0 alpha=1.67326324, 1 lambda=1.050700987", ()),
    ("HardSwish", "0 alpha=0.2, 1 beta=0.5", ()),
    ("Noop", "", ()),
    ("PixelShuffle", "0 upscale_factor=1, 1 mode", ()),
    ("DeepCopy", "", ()),
    ("Mish", "", ()),
    ("StatisticsPooling", "0 include_stddev", ()),
    ("Swish", "", ()),
    (
        "Gemm",
        "0 alpha=1., 1 beta=1., 2 transA, 3 transB, 4 constantA, 5 constantB, 6 constantC, 7 constantM, 8 constantN, "
        "9 constantK, 10 constant_broadcast_type_C, 11 output_N1M, 12 output_elempack, 13 output_elemtype, "
        "14 output_transpose, 18 quantize_term, 20 constant_TILE_M, 21 constant_TILE_N, 22 constant_TILE_K",
        _GEMM,
    ),
    ("GroupNorm", "0 group=1, 1 channels, 2 eps=0.001, 3 affine=1", _affine("channels", "gamma", "beta")),
    ("LayerNorm", "0 affine_size, 1 eps=0.001, 2 affine=1", _affine("affine_size", "gamma", "beta")),
    ("Softplus", "", ()),
    ("GRU", f"{_RECURRENT}, 8 int8_scale_term", _recurrent(3, 4, "num_output")),
    (
        "MultiHeadAttention",
        "0 embed_dim, 1 num_heads=1, 2 weight_data_size, 3 kdim=embed_dim, 4 vdim=embed_dim, 5 attn_mask, "
        "6 scale=(embed_dim // num_heads) ** -0.5, 7 kv_cache, 18 quantize_term",
        tuple(_attention()),
    ),
    ("GELU", "0 fast_gelu", ()),
    ("Convolution1D", f"{_CONV_1D}, 15 pad_right=pad_left, {_ACTIVATION}, {_PAD_VALUE}, {_DYNAMIC}", _conv(_1D)),
    ("Pooling1D", _POOL_1D, ()),
    (
        "ConvolutionDepthWise1D",
        f"{_CONV_1D}, 15 pad_right=pad_left, {_GROUP}, {_ACTIVATION}, {_PAD_VALUE}, {_DYNAMIC}",
        _conv(_1D),
    ),
    ("Convolution3D", f"{_CONV_3D}, {_ACTIVATION}, {_PAD_VALUE}", _conv(_3D, dynamic=False)),
    ("ConvolutionDepthWise3D", f"{_CONV_3D}, {_GROUP}, {_ACTIVATION}, {_PAD_VALUE}", _conv(_3D, dynamic=False)),
    ("Pooling3D", _POOL_3D, ()),
    ("MatMul", "0 transB", ()),
    ("Deconvolution1D", f"{_CONV_1D}, 15 pad_right=pad_left, {_ACTIVATION}, {_OUT_1D}", _conv(_1D)),
    ("DeconvolutionDepthWise1D", f"{_CONV_1D}, 15 pad_right=pad_left, {_GROUP}, {_ACTIVATION}, {_OUT_1D}", _conv(_1D)),
    ("Deconvolution3D", f"{_CONV_3D}, {_ACTIVATION}, {_OUT_3D}", _conv(_3D, dynamic=False)),
    ("DeconvolutionDepthWise3D", f"{_CONV_3D}, {_GROUP}, {_ACTIVATION}, {_OUT_3D}", _conv(_3D, dynamic=False)),
    ("Einsum", "0 equation=[]", ()),
    ("DeformableConv2D", f"{_CONV_2D}, {_ACTIVATION}", _conv(_2D, dynamic=False)),
    ("GLU", "0 axis", ()),
    (
        "Fold",
        "1 kernel_w, 11 kernel_h=kernel_w, 2 dilation_w=1, 12 dilation_h=dilation_w, 3 stride_w=1, 13 stride_h=stride_w, "
        "4 pad_left, 15 pad_right=pad_left, 14 pad_top=pad_left, 16 pad_bottom=pad_top, 20 output_w, 21 output_h=output_w",
        (),
    ),
    (
        "Unfold",
        "1 kernel_w, 11 kernel_h=kernel_w, 2 dilation_w=1, 12 dilation_h=dilation_w, 3 stride_w=1, 13 stride_h=stride_w, "
        "4 pad_left, 15 pad_right=pad_left, 14 pad_top=pad_left, 16 pad_bottom=pad_top, 18 pad_value=0.",
        (),
    ),
    ("GridSample", "0 sample_type=1, 1 padding_mode=1, 2 align_corner, 3 permute_fusion", ()),
    ("CumulativeSum", "0 axis", ()),
    ("CopyTo", f"{_CROP_OFFSETS}, 9 starts=[], 11 axes=[]", ()),
    ("Erf", "", ()),
    ("Diag", "0 diagonal", ()),
    ("CELU", "0 alpha=1.", ()),
    ("Shrink", "0 bias=0., 1 lambd=0.5", ()),
    ("RMSNorm", "0 affine_size, 1 eps=0.001, 2 affine=1", _affine("affine_size", "gamma")),
    (
        "Spectrogram",
        "0 n_fft, 1 power, 2 hoplen=n_fft // 4, 3 winlen=n_fft, 4 window_type, 5 center=1, 6 pad_type=2, 7 normalized, "
        "8 onesided=1",
        (),
    ),
    (
        "InverseSpectrogram",
        "0 n_fft, 1 returns, 2 hoplen=n_fft // 4, 3 winlen=n_fft, 4 window_type, 5 center=1, 7 normalized",
        (),
    ),
    ("Flip", "0 axes=[]", ()),
    ("SDPA", "5 attn_mask, 6 scale=0., 7 kv_cache, 18 int8_scale_term", ()),
    ("RotaryEmbed", "0 interleaved", ()),
)
