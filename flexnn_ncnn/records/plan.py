"""The schedule of one model under one budget: everything a run needs, nothing left to decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import RunOptions

__all__ = [
    "FORMAT_VERSION",
    "MODES",
    "TRANSFORMED_OFFSET_BYTES",
    "Part",
    "Placement",
    "Plan",
    "Slab",
    "Stage",
    "Step",
    "WeightPiece",
    "places_of",
]

FORMAT_VERSION = 6

MODES = ("forward", "chain", "fresh", "list", "list_4d", "overlay", "join", "inplace", "alias", "constant", "gather")


# Pieces from here on are of the file of transformed weights, at what is beyond.
TRANSFORMED_OFFSET_BYTES = 1 << 46


@dataclass(frozen=True, slots=True)
class WeightPiece:
    """Bytes of the .bin that make one array a layer asks for, or of the file of transformed weights.

    Attributes:
        offset_bytes: position of the first element, after any tag and table; from `TRANSFORMED_OFFSET_BYTES` on, in the
            other file.
        count: elements.
        encoding: "fp32", "fp16", "bf16", "int8" or "table".
        table_offset_bytes: position of the 256 values of a "table", else -1.
    """

    offset_bytes: int
    count: int
    encoding: str
    table_offset_bytes: int = -1

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file."""
        return self.count * {"fp32": 4, "fp16": 2, "bf16": 2}.get(self.encoding, 1)


@dataclass(frozen=True, slots=True)
class Part:
    """A whole layer, or one slice of it.

    Attributes:
        begin, end: output units it computes, half-open.
        reads: channels of its one input that it reads, half-open; (0, 0) is all.
        params: typed parameters for ncnn.
        pieces: its weights in .bin order.
        ahead: of a streamed part, how many loads back the one lies whose release makes room for it: it may be loaded
            from then on. 1 is when the one before is released, which is when it is needed; counted on from one
            inference to the next.
        transformed_count: elements of the layer's first array, for which its first piece has what the kernel makes of
            it; 0 where that piece is the array itself.
        load_peak_bytes: of a resident part what loading it takes at most, as it was measured: raw weights, what the
            kernel makes of them, and what that takes meanwhile; 0 of a streamed one.
    """

    begin: int
    end: int
    reads: tuple[int, int]
    params: tuple[tuple[int, int | float | tuple[int | float, ...]], ...]
    pieces: tuple[WeightPiece, ...]
    ahead: int = 1
    transformed_count: int = 0
    load_peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Slab:
    """Some output rows of a layer, computed on their own with the weights already loaded.

    Attributes:
        begin, end: output rows, half-open.
        first, last: input rows their windows see, half-open.
        above, below, left, right: padding around those.
    """

    begin: int
    end: int
    first: int
    last: int
    above: int
    below: int
    left: int
    right: int

    @property
    def is_padded(self) -> bool:
        """Whether the input rows must be copied into a larger blob."""
        return bool(self.above or self.below or self.left or self.right)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a blob lies in the arena.

    Attributes:
        blob: its name; "name@step" for a copy in another layout that lives in that step only.
        layout: how it lies there.
        offset_bytes: from the arena's begin.
        begin, end: the steps it exists in, half-open.
        within: the blob it is a part of, whose bytes it shares, or "".
    """

    blob: str
    layout: BlobLayout
    offset_bytes: int
    begin: int
    end: int
    within: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes it takes."""
        return self.layout.size_bytes


@dataclass(frozen=True, slots=True)
class Stage:
    """One layer of a chain.

    Attributes:
        type: ncnn's layer type.
        name: for people.
        kernel: a name in `flexnn_ncnn.records.options.KERNELS`.
        reads_raw: see `Step`.
        pad_value: what padding is filled with.
        slabs: per slab of the chain the rows this layer computes; input rows count from the whole blob's first,
            and what lies between two stages is exactly what the later one reads.
    """

    type: str
    name: str
    kernel: str
    reads_raw: bool
    pad_value: float
    slabs: tuple[Slab, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One layer's turn.

    Attributes:
        layer_index: its index in the model file.
        type: ncnn's layer type.
        name: for people.
        mode: how the output comes to be:
            "forward" written by the layer into its placement; "chain" the same by several layers in a row, rows of
            the blobs between them existing for one slab at a time; "fresh" into memory of its own and copied there;
            "list" like "forward" with several blobs; "list_4d" the same, given as volumes of depth 1;
            "overlay" like "list", over the memory of an input that nobody reads afterwards;
            "inplace" the input's memory overwritten; "alias" the output is the input seen differently;
            "join" the inputs were written into their places in the output, nothing is left to do;
            "constant" read from the file into its placement; "gather" Embed over the rows in use.
        kernel: a name in `flexnn_ncnn.records.options.KERNELS`.
        resident: loaded once and kept, or loaded again in each inference.
        reads_raw: the kernel uses the raw weights in place, so they stay while the layer is loaded.
        inputs: blobs it reads, as the layer before left them.
        sources: what the layer is given for each: the blob, or the name of a converted copy.
        outputs: blobs it writes.
        blob_axis: the output's axis that parts lie along.
        parts: one, or the slices in order; none where no layer runs.
        slabs: rows to compute one after the other, or none to compute all at once; the parts then do not pad.
        pad_value: what padding is filled with.
        overwrites: of an "overlay" the source whose memory the output takes.
        stages: of a "chain" its layers; `parts` has one for each, and `slabs` is empty.
        scratch_offset_bytes, scratch_bytes: the part of the arena that the layer may allocate from while it computes.
        reads_to_scratch: streamed weights are read to there to be loaded, and mapped otherwise.
        returns_arena: give all of the arena that this step does not use back to the system before it.
        returns_heap: likewise what is free of the heap.
    """

    layer_index: int
    type: str
    name: str
    mode: str
    kernel: str
    resident: bool
    reads_raw: bool
    inputs: tuple[str, ...]
    sources: tuple[str, ...]
    outputs: tuple[str, ...]
    blob_axis: str
    parts: tuple[Part, ...]
    slabs: tuple[Slab, ...]
    pad_value: float
    overwrites: str = ""
    stages: tuple[Stage, ...] = ()
    scratch_offset_bytes: int = 0
    scratch_bytes: int = 0
    reads_to_scratch: bool = False
    returns_arena: bool = False
    returns_heap: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of the file this step's weights come from."""
        return sum(piece.stored_bytes for part in self.parts for piece in part.pieces)


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule.

    Attributes:
        model_id: identity of the .param/.bin pair it was made for.
        machine: fingerprint of the machine it was made for.
        budget_bytes: the budget it keeps.
        options: how to compute.
        vehicle: "layers" for the steps below, "net" for one stock ncnn.Net.
        inputs: blob -> layout of what the caller feeds.
        outputs: blobs the caller gets.
        steps: in execution order.
        placements: the arena's contents.
        arena_bytes: size of the arena.
        heap_bytes: heap that loading the largest layer needs beside resident weights.
        predicted_peak_bytes: growth of the resident set that the plan should reach.
        predicted_seconds: one inference, weights in the page cache.
        resident_bytes: weights kept between inferences, as they lie in memory.
        page_cache: how streamed weights are read: "mmap" through the system's page cache, or "direct" past it.
        read_ahead_bytes: of "mmap" how much is read into the page cache before it is needed; of "direct" all memory
            that weights are read to, 0 for what the largest load takes.
        transformed_path: the file of transformed weights, or "".
    """

    model_id: str
    machine: str
    budget_bytes: int
    options: RunOptions
    vehicle: str
    inputs: tuple[tuple[str, BlobLayout], ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    placements: tuple[Placement, ...]
    arena_bytes: int
    heap_bytes: int
    predicted_peak_bytes: int
    predicted_seconds: float
    resident_bytes: int
    page_cache: str = "mmap"
    read_ahead_bytes: int = 0
    transformed_path: str = ""

    @property
    def streamed_bytes(self) -> int:
        """Bytes of the file loaded again in each inference."""
        return sum(step.weight_bytes for step in self.steps if not step.resident)


def places_of(ahead: Sequence[int]) -> list[int]:
    """Which loads of an inference take each other's place, as `Part.ahead` says.

    Args:
        ahead: of each load, in order.

    Returns:
        Per load a number, the same where one takes the place of the other.
    """
    found: list[int] = []
    for number, distance in enumerate(ahead):
        found.append(found[number - distance] if distance <= number else max(found, default=-1) + 1)
    return found
