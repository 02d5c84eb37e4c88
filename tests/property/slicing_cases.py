"""Random small layers for the slicing tests, none of those that stock ncnn itself computes wrongly.

Left out, because the whole layer already misbehaves in ncnn 1.0.20261020:
* SAME padding where the kernel is smaller than the stride along one side only: writes outside its memory.
* Packing off, a square dilated kernel of stride 1 and fewer output rows or columns than the dilation: crashes.
* Grouped int8 convolutions whose groups have a multiple of 4 outputs: read memory that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from param_tools.encoding import Encoding
from param_tools.shapes import BlobShape
from param_tools.slicing import pointwise

Draw = Callable[[st.SearchStrategy[Any]], Any]
_ACTIVATIONS = ("9=0", "9=1", "9=2 -23310=1,0.1", "9=3 -23310=2,-0.5,0.5", "9=4", "9=5", "9=6 -23310=2,0.2,0.5")
_FLOATS = (Encoding.FP32, Encoding.FP16, Encoding.TABLE)
_OTHER_CONVOLUTIONS = (
    *(("Deconvolution", 2), ("Deconvolution", 2), ("Deconvolution1D", 1), ("Deconvolution3D", 3)),
    *(("Convolution1D", 1), ("Convolution3D", 3), ("DeconvolutionDepthWise", 2), ("ConvolutionDepthWise1D", 1)),
)
_POINTWISE = (*pointwise.ARITHMETIC, *pointwise.PER_CHANNEL, "BinaryOp", "Sigmoid", "GELU", "UnaryOp")
flag = st.sampled_from([0, 1])


@dataclass(frozen=True)
class Case:
    """One layer, reading blobs of these shapes.

    Attributes:
        kind: its type.
        params: as in a .param.
        shapes: of its inputs.
        encoding: how its tagged weights are stored.
        ids_below: for a layer that looks up words: their number.
    """

    kind: str
    params: str
    shapes: tuple[BlobShape, ...]
    encoding: Encoding
    ids_below: int = 0

    @property
    def layers(self) -> list[str]:
        """The lines of a model: the inputs, then the layer."""
        names = list(self.feeds)
        return [
            *(f"Input {name} 0 1 {name}" for name in names),
            f"{self.kind} cut {len(names)} 1 {' '.join(names)} out {self.params}",
        ]

    @property
    def feeds(self) -> dict[str, npt.NDArray[Any]]:
        """Seeded values for each input."""
        rng = np.random.default_rng(0)
        if self.ids_below:
            return {"in0": rng.integers(-2, self.ids_below + 2, self.shapes[0].w).astype(np.int32)}
        return {
            f"in{i}": rng.standard_normal(shape.numpy_shape).astype(np.float32) for i, shape in enumerate(self.shapes)
        }


def _weights(draw: Draw, int8: bool) -> Encoding:
    return Encoding.INT8 if int8 else draw(st.sampled_from(_FLOATS))


def _padding(draw: Draw, kernels: tuple[int, ...], stride: int) -> str:
    same = [-233, -234] if min(kernels) >= stride else []
    pad = draw(st.sampled_from([0, 1, *same]))
    return f"4={pad}" if pad < 0 or draw(st.booleans()) else f"4={pad} 14={draw(flag)} 15={draw(flag)} 16={draw(flag)}"


@st.composite
def convolutions(draw: Draw) -> Case:
    """2-D convolutions of all kernels, float and int8."""
    inputs = draw(st.sampled_from([1, 3, 4, 8, 12, 16, 17, 24, 32, 33, 64]))
    outputs = draw(st.sampled_from([17, 20, 24, 32, 36, 48, 64, 65, 96, 130, 160]))
    width, stride = draw(st.sampled_from([1, 2, 3, 3, 3, 5, 7])), draw(st.sampled_from([1, 1, 2, 3]))
    dilation = draw(st.sampled_from([1, 1, 2]))
    height = draw(st.sampled_from([width, width, 1, 3]))
    int8 = draw(st.booleans()) and draw(st.booleans())
    shape = BlobShape(3, draw(st.integers(17, 33)), draw(st.integers(17, 33)), c=inputs)
    params = (
        f"0={outputs} 1={width} 11={height} 2={dilation} 3={stride} {_padding(draw, (width, height), stride)} "
        f"5={draw(flag)} 6={inputs * outputs * width * height} 8={int(int8)} {draw(st.sampled_from(_ACTIVATIONS))} "
        f"18={draw(flag)}.0"
    )
    return Case("Convolution", params, (shape,), _weights(draw, int8))


@st.composite
def grouped_convolutions(draw: Draw) -> Case:
    """Depthwise and grouped convolutions, float and int8."""
    groups = draw(st.sampled_from([2, 3, 16, 20, 24, 32, 48]))
    group_outputs, group_inputs = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3), (16, 16), (8, 16)]))
    int8 = group_outputs < 4 and draw(st.booleans())
    kernel, stride, dilation = (
        draw(st.sampled_from([1, 2, 3, 3, 5])),
        draw(st.sampled_from([1, 2])),
        draw(st.sampled_from([1, 1, 2])),
    )
    shape = BlobShape(3, draw(st.integers(10, 24)), draw(st.integers(10, 24)), c=groups * group_inputs)
    params = (
        f"0={groups * group_outputs} 1={kernel} 2={dilation} 3={stride} {_padding(draw, (kernel,), stride)} "
        f"5={draw(flag)} 6={groups * group_outputs * group_inputs * kernel**2} 7={groups} "
        f"8={draw(st.sampled_from([1, 2])) if int8 else 0} {draw(st.sampled_from(_ACTIVATIONS))}"
    )
    return Case("ConvolutionDepthWise", params, (shape,), _weights(draw, int8))


@st.composite
def other_convolutions(draw: Draw) -> Case:
    """Deconvolutions, and convolutions of one and three dimensions, whole and grouped."""
    kind, axes = draw(st.sampled_from(_OTHER_CONVOLUTIONS))
    kernel, dilation = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 1, 2]))
    stride = draw(st.sampled_from([1, kernel]))
    if "DepthWise" in kind:
        groups = draw(st.sampled_from([3, 16, 20, 32]))
        group_outputs, group_inputs = draw(st.sampled_from([(1, 1), (2, 2), (8, 3)]))
    else:
        groups, group_outputs = 1, draw(st.sampled_from([17, 20, 24, 32, 40, 48]))
        group_inputs = draw(st.sampled_from([1, 3, 8, 16]))
    channels, outputs = groups * group_inputs, groups * group_outputs
    shape = {1: BlobShape(2, 11, channels), 2: BlobShape(3, 9, 8, c=channels), 3: BlobShape(4, 7, 6, 5, channels)}[axes]
    params = (
        f"0={outputs} 1={kernel} 2={dilation} 3={stride} 4={draw(flag)} 5={draw(flag)} "
        f"6={outputs * group_inputs * kernel**axes} {draw(st.sampled_from(_ACTIVATIONS))}"
    ) + (f" 7={groups}" if groups > 1 else "")
    return Case(kind, params, (shape,), _weights(draw, False))


@st.composite
def inner_products(draw: Draw) -> Case:
    """InnerProduct on blobs of one to three axes, float and int8."""
    outputs = draw(st.sampled_from([17, 20, 24, 32, 40, 48, 64, 72, 100, 1000]))
    shape = draw(
        st.sampled_from(
            [BlobShape(1, 7), BlobShape(1, 100), BlobShape(3, 5, 5, c=3), BlobShape(2, 64, 3), BlobShape(2, 33, 16)]
        )
    )
    inputs = shape.w if shape.dims == 2 else shape.count
    int8 = draw(st.booleans()) and draw(st.booleans())
    params = f"0={outputs} 1={draw(flag)} 2={inputs * outputs} 8={int(int8)} {draw(st.sampled_from(_ACTIVATIONS))}"
    return Case("InnerProduct", params, (shape,), _weights(draw, int8))


@st.composite
def gemms(draw: Draw) -> Case:
    """Gemm with either operand constant, every C, transposed or not, float and int8."""
    n, k, m = (draw(st.sampled_from(sizes)) for sizes in ([5, 33, 48, 130], [7, 16, 33, 300], [1, 3, 17, 33, 48]))
    constant_b, trans_a, trans_b, int8 = draw(flag), draw(flag), draw(flag), draw(st.booleans()) and draw(st.booleans())
    if constant_b:
        shape = BlobShape(2, *((m, k) if trans_a else (k, m)))
    else:
        shape = BlobShape(2, *((k, n) if trans_b else (n, k)))
    params = (
        f"0={draw(st.sampled_from(['1.0', '0.5']))} 1={draw(st.sampled_from(['1.0', '0.7']))} 2={trans_a} 3={trans_b} "
        f"4={1 - constant_b} 5={constant_b} 6=1 7={m} 8={n} 9={k} 10={draw(st.sampled_from([-1, 0, 1, 2, 3, 4]))} "
        f"11={draw(flag)} 14={draw(flag)} 18={2 * int(int8)}"
    )
    return Case("Gemm", params, (shape,), _weights(draw, int8))


@st.composite
def attentions(draw: Draw) -> Case:
    """MultiHeadAttention with one to three inputs, with and without a mask for all heads or for each."""
    heads, width = draw(st.sampled_from([2, 3, 4, 12])), draw(st.sampled_from([4, 5, 16]))
    blobs, mask = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([0, 1, heads]))
    q_size, k_size, v_size = (draw(st.sampled_from([heads * width, 20, 33])) for _ in range(3))
    k_size, v_size = k_size if blobs > 1 else q_size, v_size if blobs > 2 else k_size if blobs > 1 else q_size
    queries, keys = draw(st.sampled_from([1, 7, 16, 33])), draw(st.sampled_from([1, 7, 16, 33]))
    keys = keys if blobs > 1 else queries
    shapes = [BlobShape(2, q_size, queries), BlobShape(2, k_size, keys), BlobShape(2, v_size, keys)][:blobs]
    if mask:
        shapes.append(BlobShape(2, keys, queries) if mask == 1 else BlobShape(3, keys, queries, c=mask))
    params = f"0={heads * width} 1={heads} 2={heads * width * q_size} 3={k_size} 4={v_size} 5={int(mask > 0)}"
    return Case("MultiHeadAttention", params, tuple(shapes), draw(st.sampled_from([Encoding.FP32, Encoding.FP16])))


@st.composite
def embeds(draw: Draw) -> Case:
    """Embed with ids inside and outside the table."""
    words, columns, int8 = draw(st.integers(5, 40)), draw(st.integers(3, 40)), draw(st.booleans())
    params = f"0={columns} 1={words} 2={draw(flag)} 3={words * columns} 18={int(int8)}"
    return Case("Embed", params, (BlobShape(1, draw(st.integers(1, 20))),), _weights(draw, int8), words)


@st.composite
def poolings(draw: Draw) -> Case:
    """Pooling with every padding."""
    kernel, stride = draw(st.sampled_from([1, 2, 3, 4])), draw(st.sampled_from([1, 2, 3]))
    shape = BlobShape(3, draw(st.integers(5, 20)), draw(st.integers(5, 20)), c=draw(st.sampled_from([1, 3, 8, 16])))
    mode = draw(st.sampled_from([0, 1, 2, 3] if kernel >= stride else [0, 1]))
    params = f"0={draw(flag)} 1={kernel} 2={stride} 3={draw(flag)} 5={mode} 6={draw(flag)}"
    return Case("Pooling", params, (shape,), Encoding.FP32)


@st.composite
def pointwise_layers(draw: Draw) -> Case:
    """Layers that compute each element by itself."""
    kind = draw(st.sampled_from(_POINTWISE))
    channels = draw(st.sampled_from([1, 3, 8, 16, 24]))
    shape = BlobShape(3, draw(st.integers(1, 20)), draw(st.integers(2, 20)), c=channels)
    params = {
        "BatchNorm": f"0={channels}",
        "Bias": f"0={channels}",
        "BinaryOp": f"0={draw(st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8]))}",
        "Clip": "0=-0.5 1=0.7",
        "PReLU": f"0={draw(st.sampled_from([1, channels]))}",
        "ReLU": f"0={draw(st.sampled_from(['0.0', '0.1']))}",
        "Scale": f"0={channels} 1=1",
        "UnaryOp": f"0={draw(st.sampled_from([0, 2, 3, 7, 9, 15]))}",
    }.get(kind, "")
    inputs = 2 if kind in ("BinaryOp", "Eltwise") else 1
    return Case(kind, params, (shape,) * inputs, Encoding.FP32)
