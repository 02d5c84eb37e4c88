"""One small seeded layer for every weighted layer type and variant, and stock ncnn to run it.

The .bin of a case is packed here from what ncnn itself asks for (a recording ModelBin), so it owes nothing
to the code under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import ncnn
import numpy as np
import numpy.typing as npt

from param_tools.graph import Layer, Model, ParamValue
from param_tools.schema import LAYERS, float_param

FP16_TAG, BF16_TAG, INT8_TAG, RAW_TAG, TABLE_TAG = 0x01306B47, 0x01348B83, 0x000D4B38, 0x0002C056, 0x01000001


@dataclass(frozen=True)
class Case:
    """A layer with its inputs; shapes outermost first; `integers` feeds token ids instead of floats."""

    name: str
    layer: Layer
    inputs: tuple[tuple[int, ...], ...] = ()
    integers: int = 0
    int8: bool = False

    @property
    def has_tags(self) -> bool:
        """Whether ncnn reads a tag before any of its arrays."""
        return any(load == 0 for _, load in ncnn_loads(self.layer) or [])

    @property
    def model(self) -> Model:
        feeds = [Layer("Input", blob, (), (blob,)) for blob in self.layer.inputs]
        return Model((*feeds, self.layer))


def make_layer(layer_type: str, inputs: int = 1, outputs: int = 1, **params: object) -> Layer:
    """A layer with parameters by name."""
    schema = LAYERS[layer_type]
    values = {schema.param(name).id: ParamValue(value) for name, value in params.items()}
    blobs = tuple(f"in{i}" for i in range(inputs)), tuple(f"out{i}" for i in range(outputs))
    return Layer(layer_type, "probe", *blobs, MappingProxyType(dict(sorted(values.items()))))


def case(
    name: str, layer_type: str, *inputs: tuple[int, ...], integers: int = 0, outputs: int = 1, **params: object
) -> Case:
    int8 = any(params.get(term) for term in ("int8_scale_term", "quantize_term"))
    return Case(name, make_layer(layer_type, len(inputs), outputs, **params), inputs, integers, int8)


def _conv(
    name: str, layer_type: str, shape: tuple[int, ...], *, kernel: int = 3, group: int = 1, **params: object
) -> Case:
    outputs, axes = 8, len(shape) - 1
    if "DepthWise" in layer_type:
        group = group if group > 1 else shape[0]
        params["group"] = group
    size = outputs * shape[0] // group * kernel**axes
    return case(
        name, layer_type, shape, num_output=outputs, kernel_w=kernel, bias_term=1, weight_data_size=size, **params
    )


_IMAGE, _ROW, _VOLUME = (8, 9, 10), (8, 11), (8, 5, 6, 7)
_MHA = {"embed_dim": 32, "num_heads": 4, "weight_data_size": 32 * 24, "kdim": 20, "vdim": 12}
_TOKENS = ((6, 24), (7, 20), (7, 12))
_BLOCKED = [bits * 100 + scale * 10 + size for bits in (4, 6, 8) for scale in (0, 1) for size in (0, 1, 2)]

CASES: tuple[Case, ...] = (
    _conv("conv", "Convolution", _IMAGE),
    _conv("conv_rect", "Convolution", _IMAGE, kernel=1, stride_w=2, pad_left=1, activation_type=1),
    _conv("conv_int8", "Convolution", _IMAGE, int8_scale_term=2),
    _conv("conv_int8_requantized", "Convolution", _IMAGE, int8_scale_term=102),
    _conv("convdw", "ConvolutionDepthWise", _IMAGE),
    _conv("conv_group", "ConvolutionDepthWise", _IMAGE, group=2),
    _conv("convdw_int8_per_group", "ConvolutionDepthWise", _IMAGE, int8_scale_term=1),
    _conv("convdw_int8_shared", "ConvolutionDepthWise", _IMAGE, int8_scale_term=2),
    _conv("convdw_int8_requantized", "ConvolutionDepthWise", _IMAGE, int8_scale_term=101),
    _conv("convdw_int8_requantized_shared", "ConvolutionDepthWise", _IMAGE, int8_scale_term=102),
    _conv("conv1d", "Convolution1D", _ROW),
    _conv("convdw1d", "ConvolutionDepthWise1D", _ROW),
    _conv("conv3d", "Convolution3D", _VOLUME),
    _conv("convdw3d", "ConvolutionDepthWise3D", _VOLUME),
    _conv("deconv", "Deconvolution", _IMAGE, stride_w=2),
    _conv("deconvdw", "DeconvolutionDepthWise", _IMAGE, stride_w=2),
    _conv("deconv_group", "DeconvolutionDepthWise", _IMAGE, group=2),
    _conv("deconv1d", "Deconvolution1D", _ROW),
    _conv("deconvdw1d", "DeconvolutionDepthWise1D", _ROW),
    _conv("deconv3d", "Deconvolution3D", _VOLUME),
    _conv("deconvdw3d", "DeconvolutionDepthWise3D", _VOLUME),
    case(
        "deformable",
        "DeformableConv2D",
        _IMAGE,
        (18, 9, 10),
        num_output=8,
        kernel_w=3,
        pad_left=1,
        bias_term=1,
        weight_data_size=8 * 8 * 9,
    ),
    case("fc", "InnerProduct", (24,), num_output=10, bias_term=1, weight_data_size=240),
    case("fc_no_bias", "InnerProduct", (3, 24), num_output=10, weight_data_size=240),
    case("fc_int8", "InnerProduct", (24,), num_output=10, bias_term=1, weight_data_size=240, int8_scale_term=1),
    case(
        "gemm_b",
        "Gemm",
        (5, 12),
        constantB=1,
        constantC=1,
        transB=1,
        constantN=7,
        constantK=12,
        constant_broadcast_type_C=4,
    ),
    case(
        "gemm_b_plain",
        "Gemm",
        (5, 12),
        constantB=1,
        constantN=7,
        constantK=12,
        constantC=1,
        constant_broadcast_type_C=-1,
    ),
    case("gemm_a", "Gemm", (12, 5), constantA=1, constantM=7, constantK=12, constantC=1, constant_broadcast_type_C=1),
    case(
        "gemm_a_transposed",
        "Gemm",
        (12, 5),
        constantA=1,
        transA=1,
        constantM=7,
        constantK=12,
        constantC=1,
        constant_broadcast_type_C=2,
    ),
    case(
        "gemm_abc",
        "Gemm",
        constantA=1,
        constantB=1,
        constantC=1,
        constantM=7,
        constantN=5,
        constantK=12,
        constant_broadcast_type_C=3,
    ),
    case("gemm_scalar_c", "Gemm", (5, 12), constantB=1, constantC=1, constantN=7, constantK=12),
    case(
        "gemm_int8_b",
        "Gemm",
        (5, 12),
        constantB=1,
        constantC=1,
        transB=1,
        constantN=7,
        constantK=12,
        constant_broadcast_type_C=4,
        quantize_term=2,
    ),
    case(
        "gemm_int8_a",
        "Gemm",
        (12, 5),
        constantA=1,
        constantC=1,
        constantM=7,
        constantK=12,
        constant_broadcast_type_C=1,
        quantize_term=2,
    ),
    *(
        case(
            f"gemm_block_{term}",
            "Gemm",
            (5, 70),
            constantB=1,
            constantC=1,
            transB=1,
            constantN=6,
            constantK=70,
            constant_broadcast_type_C=4,
            quantize_term=term,
        )
        for term in _BLOCKED
    ),
    case("mha", "MultiHeadAttention", *_TOKENS, **_MHA),
    case("mha_int8", "MultiHeadAttention", *_TOKENS, **_MHA, quantize_term=2),
    *(case(f"mha_block_{term}", "MultiHeadAttention", *_TOKENS, **_MHA, quantize_term=term) for term in _BLOCKED),
    case("embed", "Embed", (6,), integers=9, num_output=5, input_dim=9, bias_term=1, weight_data_size=45),
    case(
        "embed_int8",
        "Embed",
        (6,),
        integers=9,
        num_output=5,
        input_dim=9,
        bias_term=1,
        weight_data_size=45,
        int8_scale_term=1,
    ),
    *(
        case(
            f"{kind.lower()}_{direction}{'_int8' * bool(int8)}",
            kind,
            (6, 10),
            num_output=8,
            weight_data_size=gates * 8 * 10 * (2 if direction == 2 else 1),
            direction=direction,
            int8_scale_term=int8,
        )
        for kind, gates in (("RNN", 1), ("LSTM", 4), ("GRU", 3))
        for direction in (0, 2)
        for int8 in (0, 2)
    ),
    case("lstm_projected", "LSTM", (6, 10), num_output=8, hidden_size=12, weight_data_size=4 * 12 * 10),
    case(
        "lstm_projected_int8",
        "LSTM",
        (6, 10),
        num_output=8,
        hidden_size=12,
        weight_data_size=4 * 12 * 10,
        int8_scale_term=2,
    ),
    case("layernorm", "LayerNorm", (6, 10), affine_size=10),
    case("layernorm_plain", "LayerNorm", (6, 10), affine_size=10, affine=0),
    case("rmsnorm", "RMSNorm", (6, 10), affine_size=10),
    case("groupnorm", "GroupNorm", _IMAGE, group=2, channels=8),
    case("instancenorm", "InstanceNorm", _IMAGE, channels=8),
    case("batchnorm", "BatchNorm", _IMAGE, channels=8),
    case("scale", "Scale", _IMAGE, scale_data_size=8, bias_term=1),
    case("scale_by_blob", "Scale", _IMAGE, (8,), scale_data_size=-233),
    case("bias", "Bias", _IMAGE, bias_data_size=8),
    case("prelu", "PReLU", _IMAGE, num_slope=8),
    case("prelu_shared", "PReLU", _IMAGE, num_slope=1),
    case("normalize", "Normalize", _IMAGE, scale_data_size=8),
    case("padding_per_channel", "Padding", _IMAGE, top=1, left=2, per_channel_pad_data_size=8),
    case("padding", "Padding", _IMAGE, top=1, left=2),
    *(
        case(f"memory_{len(sizes)}d{'_tagged' * (load == 0)}", "MemoryData", load_type=load, **sizes)
        for sizes in ({"w": 5}, {"w": 5, "h": 4}, {"w": 5, "h": 4, "c": 3}, {"w": 5, "h": 4, "d": 2, "c": 3})
        for load in (0, 1)
    ),
    case("memory_bytes", "MemoryData", w=5, h=3, load_type=8),
    case("quantize", "Quantize", _IMAGE, scale_data_size=8),
    case("dequantize", "Dequantize", _IMAGE, scale_data_size=8, bias_data_size=8),
    case("requantize", "Requantize", _IMAGE, scale_in_data_size=8, scale_out_data_size=1, bias_data_size=8),
)


class _Recorder(ncnn.ModelBin):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int]] = []

    def load(self, w: int, type: int) -> ncnn.Mat:
        self.calls.append((w, type))
        self._kept = np.ones(w, np.float32)
        return ncnn.Mat(self._kept).clone()


def ncnn_loads(layer: Layer) -> list[tuple[int, int]] | None:
    """What ncnn loads for `layer`, in order: (elements, load type); None when it refuses the parameters."""
    native = ncnn.create_layer(layer.type)
    params = ncnn.ParamDict()
    kept = []
    for param_id, param in layer.params.items():
        if isinstance(param.value, tuple):
            is_float = any(isinstance(value, float) for value in param.value)
            kept.append(np.array(param.value, np.float32 if is_float else np.int32))
            params.set(param_id, ncnn.Mat(kept[-1]))
        else:
            params.set(param_id, param.value)
    if native.load_param(params) != 0:
        return None
    recorder = _Recorder()
    native.load_model(recorder)
    return recorder.calls


# Tagged arrays that stay floats where the weights are int8: C of Gemm, the biases and the projection of LSTM.
_FLOATS_BESIDE_INT8 = {"Gemm": (1,), "RNN": (1,), "GRU": (1,), "LSTM": (1, 3)}


def pack_bin(layer: Layer, tag: int = 0, *, seed: int = 0) -> bytes:
    """A .bin for `layer`, straight from what ncnn asks for; `tag` for the arrays that have one."""
    rng = np.random.default_rng(seed)
    packed = b""
    for index, (count, load) in enumerate(ncnn_loads(layer) or []):
        if load == 0 and tag == INT8_TAG and index in _FLOATS_BESIDE_INT8.get(layer.type, ()):
            packed += bytes(4) + _payload(rng, count, 0)
        elif load == 0:
            packed += tag.to_bytes(4, "little") + _payload(rng, count, tag)
        elif load == 1:
            # positive and of the order of 1: these may be scales or variances
            packed += rng.uniform(0.5, 2.0, count).astype("<f4").tobytes()
        else:
            packed += rng.integers(0, 256, count, np.uint8).tobytes()
        packed += bytes(-len(packed) % 4)
    return packed


def _payload(rng: np.random.Generator, count: int, tag: int) -> bytes:
    values = rng.uniform(-1, 1, count).astype("<f4")
    if tag == FP16_TAG:
        return values.astype("<f2").tobytes()
    if tag == BF16_TAG:
        return (values.view("<u4") >> 16).astype("<u2").tobytes()
    if tag == INT8_TAG:
        return rng.integers(-127, 128, count, np.int8).tobytes()
    if tag == TABLE_TAG:
        table = rng.uniform(-1, 1, 256).astype("<f4")
        return table.tobytes() + rng.integers(0, 256, count, np.uint8).tobytes()
    return values.tobytes()


def feeds(probe: Case, *, seed: int = 1) -> list[npt.NDArray[np.generic]]:
    """Inputs of a case, in blob order."""
    rng = np.random.default_rng(seed)
    if probe.integers:
        return [rng.integers(0, probe.integers, shape, np.int32) for shape in probe.inputs]
    return [rng.uniform(-1, 1, shape).astype(np.float32) for shape in probe.inputs]


def run_stock(
    param: str, packed: str, blobs: Sequence[str], inputs: Sequence[npt.NDArray[np.generic]], outputs: Sequence[str]
) -> list[npt.NDArray[np.generic]]:
    """Loads files in stock ncnn in fp32 on one thread and returns the named blobs; raises on a refusal."""
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.opt.num_threads = 1
    if net.load_param(param) != 0 or net.load_model(packed) != 0:
        raise RuntimeError("stock ncnn refuses the model")
    extractor = net.create_extractor()
    for blob, values in zip(blobs, inputs, strict=True):
        extractor.input(blob, ncnn.Mat(np.ascontiguousarray(values)).clone())
    results = []
    for blob in outputs:
        status, mat = extractor.extract(blob)
        if status != 0:
            raise RuntimeError(f"stock ncnn cannot compute {blob}: {status}")
        results.append(np.array(mat))
    return results


def default_of(layer: Layer, name: str) -> float:
    """The value of a float parameter, for tests of defaults."""
    return float_param(layer, name)
