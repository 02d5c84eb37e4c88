"""The layer types of `param_tools.schema` that keep no weights in the .bin: their parameters."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["WEIGHTLESS"]

_POOL_1D = (
    "0 pooling_type, 1 kernel_w, 2 stride_w=1, 3 pad_left, 4 global_pooling, 5 pad_mode, 6 avgpool_count_include_pad, "
    "7 adaptive_pooling, 8 out_w, 14 pad_right=pad_left"
)
_POOL_2D = (
    f"{_POOL_1D}, 11 kernel_h=kernel_w, 12 stride_h=stride_w, 13 pad_top=pad_left, "
    "15 pad_bottom=pad_top, 18 out_h=out_w"
)
_POOL_3D = (
    f"{_POOL_2D}, 21 kernel_d=kernel_w, 22 stride_d=stride_w, 23 pad_front=pad_left, "
    "16 pad_behind=pad_front, 28 out_d=out_w"
)
_CROP_OFFSETS = "0 woffset, 1 hoffset, 13 doffset, 2 coffset"
_WINDOW = (
    "1 kernel_w, 11 kernel_h=kernel_w, 2 dilation_w=1, 12 dilation_h=dilation_w, 3 stride_w=1, 13 stride_h=stride_w, "
    "4 pad_left, 15 pad_right=pad_left, 14 pad_top=pad_left, 16 pad_bottom=pad_top"
)

WEIGHTLESS: Mapping[str, str] = {
    "AbsVal": "",
    "BNLL": "",
    "Concat": "0 axis",
    "Crop": (
        f"{_CROP_OFFSETS}, 3 outw, 4 outh, 14 outd, 5 outc, 6 woffset2, 7 hoffset2, 15 doffset2, 8 coffset2, "
        '9 starts=[], 10 ends=[], 11 axes=[], 19 starts_expr="", 20 ends_expr="", 21 axes_expr=""'
    ),
    "Dropout": "0 scale=1.",
    "Eltwise": "0 op_type, 1 coeffs=[]",
    "ELU": "0 alpha=0.1",
    "Exp": "0 base=-1., 1 scale=1., 2 shift=0.",
    "Flatten": "",
    "Input": "0 w, 1 h, 11 d, 2 c",
    "Log": "0 base=-1., 1 scale=1., 2 shift=0.",
    "LRN": "0 region_type, 1 local_size=5, 2 alpha=1., 3 beta=0.75, 4 bias=1.",
    "MVN": "0 normalize_variance, 1 across_channels, 2 eps=0.0001",
    "Pooling": _POOL_2D,
    "Power": "0 power=1., 1 scale=1., 2 shift=0.",
    "Proposal": (
        "0 feat_stride=16, 1 base_size=16, 2 pre_nms_topN=6000, 3 after_nms_topN=300, 4 nms_thresh=0.7, 5 min_size=16"
    ),
    "Reduction": "0 operation, 1 reduce_all=1, 2 coeff=1., 3 axes=[], 4 keepdims, 5 fixbug0",
    "ReLU": "0 slope=0.",
    "Reshape": (
        '0 w=-233, 1 h=-233, 11 d=-233, 2 c=-233, 6 shape_expr="", 12 input_batch_axis=233, 13 output_batch_axis=233'
    ),
    "ROIPooling": "0 pooled_width, 1 pooled_height, 2 spatial_scale=1.",
    "Sigmoid": "",
    "Slice": "0 slices=[], 1 axis, 2 indices=[]",
    "Softmax": "0 axis, 1 fixbug0",
    "Split": "",
    "TanH": "",
    "Threshold": "0 threshold=0.",
    "Tile": "0 axis, 1 tiles=1, 2 repeats=[]",
    "BinaryOp": "0 op_type, 1 with_scalar, 2 b=0.",
    "UnaryOp": "0 op_type",
    "Squeeze": "0 squeeze_w, 1 squeeze_h, 11 squeeze_d, 2 squeeze_c, 3 axes=[]",
    "ExpandDims": "3 axes=[]",
    "Permute": "0 order_type",
    "PriorBox": (
        "0 min_sizes=[], 1 max_sizes=[], 2 aspect_ratios=[], 3 variance_0=0.1, 4 variance_1=0.1, 5 variance_2=0.2, "
        "6 variance_3=0.2, 7 flip=1, 8 clip, 9 image_width, 10 image_height, 11 step_width=-233., "
        "12 step_height=-233., 13 offset=0., 14 step_mmdetection, 15 center_mmdetection"
    ),
    "DetectionOutput": (
        "0 num_class, 1 nms_threshold=0.05, 2 nms_top_k=300, 3 keep_top_k=100, 4 confidence_threshold=0.5, "
        "5 variance_0=0.1, 6 variance_1=0.1, 7 variance_2=0.2, 8 variance_3=0.2"
    ),
    "Interp": (
        "0 resize_type, 1 height_scale=1., 2 width_scale=1., 3 output_height, 4 output_width, 5 dynamic_target_size, "
        '6 align_corner, 9 size_expr=""'
    ),
    "ShuffleChannel": "0 group=1, 1 reverse",
    "Clip": "0 min=-3.402823466e38, 1 max=3.402823466e38",
    "Reorg": "0 stride=1, 1 mode",
    "YoloDetectionOutput": (
        "0 num_class=20, 1 num_box=5, 2 confidence_threshold=0.01, 3 nms_threshold=0.45, 4 biases=[]"
    ),
    "Yolov3DetectionOutput": (
        "0 num_class=20, 1 num_box=5, 2 confidence_threshold=0.01, 3 nms_threshold=0.45, 4 biases=[], 5 mask=[], "
        "6 anchors_scale=[]"
    ),
    "PSROIPooling": "0 pooled_width=7, 1 pooled_height=7, 2 spatial_scale=0.0625, 3 output_dim",
    "ROIAlign": "0 pooled_width, 1 pooled_height, 2 spatial_scale=1., 3 sampling_ratio, 4 aligned, 5 version",
    "Packing": "0 out_elempack=1, 1 use_padding, 2 cast_type_from, 3 cast_type_to",
    "Cast": "0 type_from, 1 type_to",
    "HardSigmoid": "0 alpha=0.2, 1 beta=0.5",
    "SELU": "0 alpha=1.67326324, 1 lambda=1.050700987",
    "HardSwish": "0 alpha=0.2, 1 beta=0.5",
    "Noop": "",
    "PixelShuffle": "0 upscale_factor=1, 1 mode",
    "DeepCopy": "",
    "Mish": "",
    "StatisticsPooling": "0 include_stddev",
    "Swish": "",
    "Softplus": "",
    "GELU": "0 fast_gelu",
    "Pooling1D": _POOL_1D,
    "Pooling3D": _POOL_3D,
    "MatMul": "0 transB",
    "Einsum": "0 equation=[]",
    "GLU": "0 axis",
    "Fold": f"{_WINDOW}, 20 output_w, 21 output_h=output_w",
    "Unfold": f"{_WINDOW}, 18 pad_value=0.",
    "GridSample": "0 sample_type=1, 1 padding_mode=1, 2 align_corner, 3 permute_fusion",
    "CumulativeSum": "0 axis",
    "CopyTo": f"{_CROP_OFFSETS}, 9 starts=[], 11 axes=[]",
    "Erf": "",
    "Diag": "0 diagonal",
    "CELU": "0 alpha=1.",
    "Shrink": "0 bias=0., 1 lambd=0.5",
    "Spectrogram": (
        "0 n_fft, 1 power, 2 hoplen=n_fft // 4, 3 winlen=n_fft, 4 window_type, 5 center=1, 6 pad_type=2, 7 normalized, "
        "8 onesided=1"
    ),
    "InverseSpectrogram": (
        "0 n_fft, 1 returns, 2 hoplen=n_fft // 4, 3 winlen=n_fft, 4 window_type, 5 center=1, 7 normalized"
    ),
    "Flip": "0 axes=[]",
    "SDPA": "5 attn_mask, 6 scale=0., 7 kv_cache, 18 int8_scale_term",
    "RotaryEmbed": "0 interleaved",
}
