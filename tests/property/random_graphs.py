"""Random small networks: layers of the kinds that real models are made of, joined at random.

Blobs are drawn again and again, so graphs branch, join, and read a blob after an in-place layer had it. What stock
ncnn itself computes wrongly is left out, as in `slicing_cases`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from param_tools.errors import FlexnnError
from param_tools.shapes import BlobShape, infer_shapes
from tests.property.slicing_stock import model_of

Draw = Callable[[st.SearchStrategy[Any]], Any]

_MOST_VALUES = 60_000
_ROWS_OF_WORDS = 37
_CHANNELS = st.sampled_from([1, 3, 4, 8, 12, 16, 20, 32, 48, 64])
_ACTIVATIONS = ("9=0", "9=1", "9=2 -23310=1,0.1", "9=3 -23310=2,-0.5,0.5", "9=6 -23310=2,0.2,0.5")
# no layer here may make large values of small ones: differences of rounding would grow with them; nor NaN, which
# winograd spreads further than other kernels do
_UNARY = (0, 1, 9, 10, 16)


@dataclass
class Graph:
    """A network as lines of a .param.

    Attributes:
        lines: the layers; a blob may have several readers.
        shapes: every blob's.
        ids: blobs of row numbers, which only Embed reads.
    """

    lines: list[str] = field(default_factory=list)
    shapes: dict[str, BlobShape] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        fed = {blob: self.shapes[blob].numpy_shape for blob in self.inputs}
        return "\n".join([f"Graph fed with {fed}:", *self.lines])

    @property
    def inputs(self) -> list[str]:
        return [line.split()[4] for line in self.lines if line.startswith("Input ")]

    def feeds(self, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
        rng = np.random.default_rng(seed)
        return {
            blob: rng.integers(-3, _ROWS_OF_WORDS + 3, self.shapes[blob].w).astype(np.int32)
            if blob in self.ids
            else rng.standard_normal(self.shapes[blob].numpy_shape).astype(np.float32)
            for blob in self.inputs
        }

    def blobs(self, *dims: int) -> list[str]:
        return [blob for blob, shape in self.shapes.items() if shape.dims in dims and blob not in self.ids]

    def add(self, kind: str, inputs: Sequence[str], params: str, outputs: int = 1) -> bool:
        """Adds a layer if its output's shape can be told and is not large."""
        names = [f"b{len(self.lines)}_{i}" if outputs > 1 else f"b{len(self.lines)}" for i in range(outputs)]
        name = f"layer{len(self.lines)}"
        line = f"{kind} {name} {len(inputs)} {outputs} {' '.join([*inputs, *names])} {params}".rstrip()
        feeds = [f"Input {blob} 0 1 {blob}" for blob in dict.fromkeys(inputs)]
        try:
            report = infer_shapes(model_of([*feeds, line]), {blob: self.shapes[blob] for blob in inputs})
        except FlexnnError:
            return False
        made = [report[blob] for blob in names]
        if any(shape is None or not 0 < _values(shape) <= _MOST_VALUES for shape in made):
            return False
        self.lines.append(line)
        self.shapes.update({blob: shape for blob, shape in zip(names, made, strict=True) if shape})
        return True

    def add_input(self, shape: BlobShape, *, ids: bool = False) -> None:
        blob = f"in{len(self.lines)}"
        self.lines.append(f"Input {blob} 0 1 {blob}")
        self.shapes[blob] = shape
        if ids:
            self.ids.append(blob)

    def with_splits(self) -> list[str]:
        """The same network as ncnn's converters write it: one reader per blob, Split layers between."""
        readers: dict[str, int] = {}
        for line in self.lines:
            for blob in _inputs_of(line):
                readers[blob] = readers.get(blob, 0) + 1
        return list(self._split(readers))

    def _split(self, readers: dict[str, int]) -> Iterator[str]:
        used: dict[str, int] = {}
        for line in self.lines:
            kind, name, _, _, *rest = line.split()
            inputs = _inputs_of(line)
            named = []
            for blob in inputs:
                number = used[blob] = used.get(blob, -1) + 1
                named.append(f"{blob}_split{number}" if readers[blob] > 1 else blob)
            rest[: len(inputs)] = named
            yield " ".join([kind, name, *line.split()[2:4], *rest])
            for blob in _outputs_of(line):
                if readers.get(blob, 0) > 1:
                    copies = [f"{blob}_split{i}" for i in range(readers[blob])]
                    yield f"Split split_{blob} 1 {len(copies)} {blob} {' '.join(copies)}"


def _values(shape: BlobShape) -> int:
    return shape.w * shape.h * shape.d * shape.c


def _inputs_of(line: str) -> list[str]:
    words = line.split()
    return words[4 : 4 + int(words[2])]


def _outputs_of(line: str) -> list[str]:
    words = line.split()
    begin = 4 + int(words[2])
    return words[begin : begin + int(words[3])]


@st.composite
def graphs(draw: Draw, most_layers: int = 10) -> Graph:
    """Networks of one or two inputs and up to `most_layers` layers."""
    graph = Graph()
    for _ in range(draw(st.integers(1, 2))):
        graph.add_input(draw(_shapes()))
    if draw(st.integers(0, 5)) == 0:
        graph.add_input(BlobShape(1, draw(st.integers(1, 9))), ids=True)
        width = draw(st.sampled_from([8, 12, 16, 33]))
        graph.add("Embed", [graph.ids[0]], f"0={width} 1={_ROWS_OF_WORDS} 2=1 3={width * _ROWS_OF_WORDS}")
    if draw(st.integers(0, 5)) == 0:
        shape = draw(_shapes())
        extents = {1: f"0={shape.w}", 2: f"0={shape.w} 1={shape.h}", 3: f"0={shape.w} 1={shape.h} 2={shape.c}"}
        graph.add("MemoryData", [], extents[shape.dims])
    wanted = len(graph.lines) + draw(st.integers(2, most_layers))
    for _ in range(4 * most_layers):
        if len(graph.lines) >= wanted:
            break
        _LAYERS[draw(st.integers(0, len(_LAYERS) - 1))](draw, graph)
    if all(line.startswith("Input ") for line in graph.lines):
        graph.add("ReLU", graph.inputs[:1], "")
    return graph


@st.composite
def _shapes(draw: Draw) -> BlobShape:
    dims = draw(st.sampled_from([1, 2, 3, 3, 3]))
    if dims == 1:
        return BlobShape(1, draw(st.sampled_from([7, 16, 48, 100])))
    if dims == 2:
        return BlobShape(2, draw(st.sampled_from([5, 16, 24])), draw(st.sampled_from([3, 8, 16])))
    return BlobShape(3, draw(st.integers(1, 13)), draw(st.integers(1, 13)), c=draw(_CHANNELS))


def _pick(draw: Draw, graph: Graph, *dims: int) -> str | None:
    """One of the blobs, the latest most often."""
    found = graph.blobs(*dims)
    return found[-1 - min(draw(st.integers(0, 5)), len(found) - 1)] if found else None


def _convolution(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 3)
    if blob is None:
        return
    kernel, outputs = draw(st.sampled_from([1, 3, 3, 3, 5])), draw(_CHANNELS)
    stride, dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2)]))
    if kernel != 3 or min(graph.shapes[blob].w, graph.shapes[blob].h) < 7:
        dilation = 1
    pad = draw(st.sampled_from([0, kernel // 2, -233 if kernel >= stride else 0]))
    count = outputs * graph.shapes[blob].c * kernel * kernel
    graph.add(
        "Convolution",
        [blob],
        f"0={outputs} 1={kernel} 2={dilation} 3={stride} 4={pad} 5={draw(st.sampled_from([0, 1]))} 6={count} "
        + draw(st.sampled_from(_ACTIVATIONS)),
    )


def _depthwise(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 3)
    if blob is None:
        return
    channels, kernel = graph.shapes[blob].c, draw(st.sampled_from([3, 5]))
    groups = draw(st.sampled_from([channels, channels, 2])) if channels % 2 == 0 else channels
    count = channels * channels // groups * kernel * kernel
    graph.add(
        "ConvolutionDepthWise",
        [blob],
        f"0={channels} 1={kernel} 3={draw(st.sampled_from([1, 2]))} 4={draw(st.sampled_from([0, 1]))} 5=1 6={count} "
        f"7={groups} " + draw(st.sampled_from(_ACTIVATIONS)),
    )


def _deconvolution(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 3)
    if blob is None:
        return
    outputs, kernel = draw(st.sampled_from([4, 16, 32])), draw(st.sampled_from([2, 3, 4]))
    count = outputs * graph.shapes[blob].c * kernel * kernel
    params = f"0={outputs} 1={kernel} 3={draw(st.sampled_from([1, 2]))} 4={draw(st.sampled_from([0, 1]))} 5=1 6={count}"
    graph.add("Deconvolution", [blob], params)


def _pooling(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 3)
    if blob is not None:
        params = draw(
            st.sampled_from(["0=0 1=2 2=2", "0=1 1=2 2=2", "0=0 1=3 2=2 3=1", "0=1 1=3 2=1 3=1", "0=0 4=1", "0=1 4=1"])
        )
        graph.add("Pooling", [blob], params)


def _pointwise(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 1, 2, 3)
    if blob is not None:
        kinds = ("ReLU", "ReLU 0=0.1", "Sigmoid", "TanH", "HardSwish", "Clip 0=-0.5 1=0.7", "Swish", "AbsVal", "ELU")
        kinds += ("Dropout", "Dropout 0=0.5", "GELU", "Mish")
        kind, _, params = draw(st.sampled_from(kinds)).partition(" ")
        graph.add(kind, [blob], params)


def _unary(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 1, 2, 3)
    if blob is not None:
        graph.add("UnaryOp", [blob], f"0={draw(st.sampled_from(_UNARY))}")


def _per_channel(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 3)
    if blob is None:
        return
    channels = graph.shapes[blob].c
    kinds = [f"BatchNorm 0={channels}", f"Scale 0={channels} 1=1", f"PReLU 0={channels}", f"Bias 0={channels}"]
    kind, _, params = draw(st.sampled_from(kinds)).partition(" ")
    graph.add(kind, [blob], params)


def _norm(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 2, 3)
    if blob is None:
        return
    shape = graph.shapes[blob]
    kinds = [f"LayerNorm 0={shape.w} 1=0.1", f"RMSNorm 0={shape.w} 1=0.1"]
    if shape.dims == 3:
        kinds += [f"GroupNorm 0=1 1={shape.c} 2=0.1", f"InstanceNorm 0={shape.c} 1=0.1"]
    kind, _, params = draw(st.sampled_from(kinds)).partition(" ")
    graph.add(kind, [blob], params)


def _inner_product(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 1, 2, 3)
    if blob is None:
        return
    shape = graph.shapes[blob]
    inputs = shape.w if shape.dims == 2 else _values(shape)
    outputs = draw(st.sampled_from([1, 10, 16, 40, 96]))
    bias, activation = draw(st.sampled_from([0, 1])), draw(st.sampled_from(_ACTIVATIONS))
    if inputs * outputs <= 200_000:
        graph.add("InnerProduct", [blob], f"0={outputs} 1={bias} 2={inputs * outputs} {activation}")


def _gemm(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 2)
    if blob is not None:
        inner, outputs = graph.shapes[blob].w, draw(st.sampled_from([8, 16, 24]))
        graph.add("Gemm", [blob], f"2=0 3=1 4=0 5=1 6=1 7=0 8={outputs} 9={inner} 10=4")


def _matmul(draw: Draw, graph: Graph) -> None:
    one = _pick(draw, graph, 2)
    if one is not None:
        others = [blob for blob in graph.blobs(2) if graph.shapes[blob].w == graph.shapes[one].w]
        graph.add("MatMul", [one, draw(st.sampled_from(others))], "0=1")


def _attention(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 2)
    if blob is not None:
        width = graph.shapes[blob].w
        embed, heads = draw(st.sampled_from([(8, 2), (16, 4), (12, 3)]))
        graph.add("MultiHeadAttention", [blob], f"0={embed} 1={heads} 2={embed * width} 3={width} 4={width}")


def _recurrent(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 2)
    if blob is not None:
        width, units = graph.shapes[blob].w, draw(st.sampled_from([4, 9]))
        kind, gates = draw(st.sampled_from([("LSTM", 4), ("GRU", 3), ("RNN", 1)]))
        graph.add(kind, [blob], f"0={units} 1={gates * units * width} 2={draw(st.sampled_from([0, 1]))}")


def _softmax(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 1, 2, 3)
    if blob is not None:
        graph.add("Softmax", [blob], f"0={draw(st.integers(0, graph.shapes[blob].dims - 1))} 1=1")


def _join(draw: Draw, graph: Graph) -> None:
    """Two or three blobs that are alike in all but perhaps one axis."""
    one = _pick(draw, graph, 1, 2, 3)
    if one is None:
        return
    shape = graph.shapes[one]
    alike = [blob for blob in graph.blobs(shape.dims) if graph.shapes[blob] == shape]
    others = draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2))
    kind = draw(st.sampled_from(["BinaryOp", "BinaryOp", "Eltwise", "Concat"]))
    if kind == "BinaryOp":
        graph.add(kind, [one, others[0]], f"0={draw(st.sampled_from([0, 1, 2, 4, 5]))}")
    elif kind == "Eltwise":
        graph.add(kind, [one, *others], f"0={draw(st.sampled_from([0, 1, 2]))}")
    else:
        axis = draw(st.integers(0, shape.dims - 1))
        if axis == 0 and shape.dims > 1:
            numbers = range(shape.dims)
            rest = [(s.h, s.w) if shape.dims == 3 else (s.w,) for s in graph.shapes.values() if s.dims == shape.dims]
            same = (shape.h, shape.w) if shape.dims == 3 else (shape.w,)
            fitting = [blob for blob, its in zip(graph.blobs(shape.dims), rest, strict=False) if its == same]
            others = draw(st.lists(st.sampled_from(fitting or alike), min_size=1, max_size=2)) if numbers else others
        graph.add(kind, [one, *others], f"0={axis}")


def _broadcast(draw: Draw, graph: Graph) -> None:
    """A blob and something smaller: a number, or one value per channel."""
    blob = _pick(draw, graph, 1, 2, 3)
    if blob is None:
        return
    operation = draw(st.sampled_from([0, 1, 2, 4, 5, 7]))
    if draw(st.booleans()):
        graph.add("BinaryOp", [blob], f"0={operation} 1=1 2=0.75")
        return
    shape = graph.shapes[blob]
    small = [
        other
        for other, its in graph.shapes.items()
        if shape.dims == 3 and other not in graph.ids and its in (BlobShape(1, shape.c), BlobShape(3, 1, 1, c=shape.c))
    ]
    if small:
        graph.add("BinaryOp", [blob, draw(st.sampled_from(small))], f"0={operation}")


def _slice(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 1, 2, 3)
    if blob is None:
        return
    shape = graph.shapes[blob]
    axis = draw(st.integers(0, shape.dims - 1))
    extent = shape.numpy_shape[axis]
    first = draw(st.sampled_from([1, extent // 2, 16, 4]))
    if 0 < first < extent:
        graph.add("Slice", [blob], f"-23300=2,{first},-233 1={axis}", outputs=2)


def _reshape(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 1, 2, 3)
    if blob is None:
        return
    shape = graph.shapes[blob]
    count = _values(shape)
    rows = draw(st.sampled_from([n for n in (2, 3, 4, 8, 12, 16, count) if count % n == 0]))
    planes = draw(st.sampled_from([n for n in (1, 2, 4, 16) if rows % n == 0]))
    params = draw(
        st.sampled_from(
            [f"0={count}", f"0={count // rows} 1={rows}", f"0={count // rows} 1={rows // planes} 2={planes}"]
        )
    )
    graph.add("Reshape", [blob], params)


def _rearrange(draw: Draw, graph: Graph) -> None:
    blob = _pick(draw, graph, 2, 3)
    if blob is None:
        return
    shape = graph.shapes[blob]
    kinds = ["Flatten", f"Permute 0={draw(st.integers(0, 1 if shape.dims == 2 else 5))}"]
    kinds += ["Padding 0=1 1=0 2=2 3=1 4=0 5=0.5", f"Crop 0=1 1=1 2=0 3={shape.w - 1} 4={shape.h - 1} 5={shape.c}"]
    if shape.dims == 3:
        kinds += ["Interp 0=1 1=2.0 2=2.0", "Interp 0=2 3=5 4=7", "Reduction 0=3 1=0 -23303=2,1,2 4=0 5=1"]
        kinds += [
            "Reduction 0=0 1=0 -23303=1,0 4=1 5=1",
            "Squeeze -23303=1,1",
            "ShuffleChannel 0=2",
            "PixelShuffle 0=2",
        ]
    else:
        kinds += ["ExpandDims -23303=1,0", "ExpandDims -23303=1,1"]
    kind, _, params = draw(st.sampled_from(kinds)).partition(" ")
    if kind == "ShuffleChannel" and shape.c % 2:
        return
    if kind == "Crop" and min(shape.w, shape.h) < 2:
        return
    graph.add(kind, [blob], params)


_LAYERS: tuple[Callable[[Draw, Graph], None], ...] = (
    *(_convolution, _convolution, _convolution, _depthwise, _deconvolution, _pooling),
    *(_pointwise, _pointwise, _unary, _per_channel, _norm, _inner_product, _gemm, _matmul, _attention, _recurrent),
    *(_softmax, _join, _join, _join, _broadcast, _slice, _reshape, _rearrange, _rearrange),
)
