"""What measuring a layer will hold, told beforehand and rather too much; how to cut it so that it is less. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexnn_ncnn.preparing.assemble import slab_windows
from flexnn_ncnn.profiling.cutting import layer_axis, part_spans, slab_granularity, slab_sizes
from flexnn_ncnn.profiling.facts import Span
from flexnn_ncnn.profiling.kernels import candidate_kernels
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import RunOptions
from param_tools.encoding import Encoding
from param_tools.graph import Layer
from param_tools.model_io import NcnnModel
from param_tools.schema import int_params
from param_tools.shapes import BlobShape
from param_tools.slicing.rows import may_be_winograd
from param_tools.slicing.rule import Axis

__all__ = ["Need", "need_of", "shape_bytes"]

_FP32_BYTES = 4
_INT8 = (Encoding.INT8, Encoding.INT8_UNTAGGED)
# what loading holds at most beside the raw weights, in raw weights as fp32: winograd63 makes 64 values of 9
_WINOGRAD_FACTORS = {"default": 14.0, "winograd23": 5.0}
_PACKED_FACTORS = {"Gemm": 1.25, "MultiHeadAttention": 1.25}
_LOAD_FACTOR = 4.0
# winograd keeps a tile of 4x4 inputs, and of outputs, for every 2x2 of them, or less
_WINOGRAD_SPREAD = 4
# kernels' packed tiles beside the matrix of windows, and alignment
_SCRATCH_SLACK = 1.15
# they need room for their input packed, and for what they pack of their output
_MATRIX_PRODUCTS = ("Gemm", "InnerProduct")
_ATTENTION = ("MultiHeadAttention", "SDPA")
# of what is left, for weights that could be loaded in smaller parts, before fewer rows are computed at a time
_WEIGHTS_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Need:
    """What a layer needs to be measured, as far as that is known before it is tried.

    Attributes:
        layer: the layer.
        kernels: to be tried.
        bottoms: layouts of its inputs.
        output_bytes: its outputs.
        raw_bytes: weights as they lie in the file.
        weights_bytes: as fp32, or as int8.
        axis: what it is cut along, or None.
    """

    layer: Layer
    kernels: tuple[str, ...]
    bottoms: tuple[BlobLayout, ...]
    output_bytes: int
    raw_bytes: int
    weights_bytes: int
    axis: Axis | None

    def bytes_of(self, spans: tuple[Span, ...], rows: int) -> int:
        """In such parts, `rows` output rows at a time, 0 for all."""
        return self.output_bytes + self._loaded_bytes(spans) + self.scratch_bytes(rows)

    def least_bytes(self) -> int:
        """With the smallest parts, and as few rows at a time as there is a way to."""
        return self.bytes_of(self._least_spans, self._row_counts()[-1])

    def spans(self, part_bytes: int) -> tuple[Span, ...]:
        """As few parts as possible that hold no more raw weights than `part_bytes`, where the layer can be cut."""
        return ((0, 1),) if self.axis is None else part_spans(self.axis, self.raw_bytes, part_bytes)

    def cut(self, room_bytes: int, part_bytes: int) -> tuple[tuple[Span, ...], int]:
        """Parts, of no more raw weights than `part_bytes`, and rows at a time, 0 for all, that need no more room.

        As few parts and as many rows as possible; the smallest and the fewest where even these need more.
        """
        least = self._loaded_bytes(self._least_spans)
        wanted = max(least, min(self._loaded_bytes(self.spans(part_bytes)), int(_WEIGHTS_SHARE * room_bytes)))
        rows, left = 0, 0
        for rows in self._row_counts():
            left = room_bytes - self.output_bytes - self.scratch_bytes(rows)
            if left >= wanted:
                break
        fitting = left / self._load_factor * self.raw_bytes / max(1, self.weights_bytes)
        return self.spans(max(self._least_part_bytes, min(part_bytes, int(fitting)))), rows

    def scratch_bytes(self, rows: int) -> int:
        """Workspace when `rows` output rows are computed at a time; 0 for all."""
        windows = slab_windows(self.layer, self.bottoms[0]) if self.bottoms else None
        if windows is None:
            return self._scratch_at_once()
        across, down = windows
        rows = min(rows or down.outputs, down.outputs)
        channels = self.bottoms[0].c * self.bottoms[0].elempack
        width = across.inputs + across.before + across.after
        padded = channels * ((rows - 1) * down.stride + down.extent) * width * _FP32_BYTES
        if self.layer.type != "Convolution":
            return int(_SCRATCH_SLACK * padded)
        matrix = channels * across.extent * down.extent * rows * across.outputs * _FP32_BYTES
        tiles = _WINOGRAD_SPREAD * (padded + self.output_bytes * rows // down.outputs) if self._may_be_winograd else 0
        return int(_SCRATCH_SLACK * (padded + max(matrix, tiles)))

    def _scratch_at_once(self) -> int:
        inputs = sum(layout.size_bytes for layout in self.bottoms)
        if self.layer.type in _MATRIX_PRODUCTS:
            return int(_SCRATCH_SLACK * (2 * inputs + self.output_bytes // 4))
        if self.layer.type in _ATTENTION:
            query, key = self.bottoms[0].with_elempack(1), self.bottoms[min(1, len(self.bottoms) - 1)].with_elempack(1)
            heads = int_params(self.layer)["num_heads"] if self.layer.type == "MultiHeadAttention" else query.c
            scores = heads * query.h * key.h * _FP32_BYTES
            return int(_SCRATCH_SLACK * 2 * (inputs + self.output_bytes + scores))
        # an output of its own, which is copied, or values in between
        return self.output_bytes

    def _row_counts(self) -> list[int]:
        """Rows that can be computed at a time, from all, which is 0, to the fewest."""
        if not self.bottoms:
            return [0]
        granularity = max(self.kernels, key=lambda kernel: slab_granularity(self.layer, kernel))
        sizes = slab_sizes(self.layer, self.bottoms[0], granularity, self.scratch_bytes(0))
        return [0, *(slabs[0].end for slabs in reversed(sizes))]

    @property
    def _least_spans(self) -> tuple[Span, ...]:
        return self.spans(self._least_part_bytes)

    @property
    def _least_part_bytes(self) -> int:
        """Raw weights of the smallest part that has a smaller one beside it, to tell what does not depend on units."""
        if self.axis is None:
            return max(1, self.raw_bytes)
        granules = -(-self.axis.least_units // self.axis.granularity) * (3 if self.axis.odd else 2)
        return max(1, self.raw_bytes * granules * self.axis.granularity // self.axis.units)

    def _loaded_bytes(self, spans: tuple[Span, ...]) -> int:
        units = self.axis.units if self.axis else 1
        largest = max(end - begin for begin, end in spans)
        return int(self._load_factor * self.weights_bytes * largest / units)

    @property
    def _load_factor(self) -> float:
        """What loading holds for a byte of weights, these included."""
        if self.kernels == ("in_place",):
            return 2.0
        factors = _WINOGRAD_FACTORS if self._may_be_winograd else {}
        usual = _PACKED_FACTORS.get(self.layer.type, _LOAD_FACTOR)
        return 1 + max(factors.get(kernel, usual) for kernel in self.kernels)

    @property
    def _may_be_winograd(self) -> bool:
        return self.layer.type == "Convolution" and may_be_winograd(int_params(self.layer))


def need_of(
    model: NcnnModel, index: int, bottoms: Sequence[BlobLayout], output_bytes: int, options: RunOptions
) -> Need:
    """What a layer of a model needs.

    Args:
        model: its files.
        index: of the layer, which has an input.
        bottoms: layouts of its inputs.
        output_bytes: its outputs.
        options: how to compute.
    """
    layer, arrays = model.model.layers[index], model.weights.arrays[index]
    return Need(
        layer=layer,
        kernels=candidate_kernels(layer, bottoms[0], options),
        bottoms=tuple(bottoms),
        output_bytes=output_bytes,
        raw_bytes=sum(array.stored_bytes for array in arrays),
        weights_bytes=sum(array.count * (1 if array.encoding in _INT8 else _FP32_BYTES) for array in arrays),
        axis=layer_axis(model, index, bottoms[0]),
    )


def shape_bytes(shape: BlobShape) -> int:
    """A blob of this shape as fp32."""
    return shape.w * shape.h * shape.d * shape.c * _FP32_BYTES
