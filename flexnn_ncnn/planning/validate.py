"""Proof that a plan keeps its own rules, run on every plan that is made or read.

It shares no code with the planner: it follows the steps as the executor will, with the memory every blob lies in, and
looks for a place where two things would be in the same bytes at the same time.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from math import isfinite

from flexnn_ncnn.errors import PlanError
from flexnn_ncnn.records.layout import OVERREAD_BYTES, BlobLayout
from flexnn_ncnn.records.options import KERNELS
from flexnn_ncnn.records.plan import MODES, TRANSFORMED_OFFSET_BYTES, Part, Placement, Plan, Slab, Step, WeightPiece
from flexnn_ncnn.records.staging import positions_in_scratch
from flexnn_ncnn.records.storage import PAGE_CACHES

__all__ = ["validate_plan"]

_ALIGNMENT_BYTES, _NESTED_ALIGNMENT_BYTES = 64, 16
_ENCODINGS = ("fp32", "fp16", "bf16", "int8", "table")
_TABLE_BYTES = 256 * 4
_CALLER = ""  # stands for memory that is not the arena's
# mode -> number of inputs, None for any
_INPUTS = {"forward": 1, "chain": 1, "fresh": 1, "inplace": 1, "alias": 1, "constant": 0, "gather": 1}
_SEVERAL_OUTPUTS = ("list", "list_4d", "alias")
_SHARING = ("inplace", "alias", "overlay")


def validate_plan(plan: Plan, bin_bytes: int | None = None) -> None:
    """Check every rule of a plan.

    Args:
        plan: what to check.
        bin_bytes: size of the weights' file, if it is known.

    Raises:
        PlanError: a rule is broken; it names the rule and the blobs and steps that break it.
    """
    _check_numbers(plan)
    if plan.vehicle == "net":
        _require(not plan.steps and not plan.placements, "a plan for stock ncnn has no steps and no placements")
        return
    _check_placements(plan)
    _check_turns(plan.steps)
    for number, step in enumerate(plan.steps):
        _check_step(step, f"step {number} ({step.name!r})", bin_bytes)
    _Walk(plan).check()


def _require(holds: bool, *rule: object) -> None:
    if not holds:
        raise PlanError("the plan breaks a rule: " + " ".join(map(str, rule)), hint="make it again")


def _check_numbers(plan: Plan) -> None:
    _require(plan.vehicle in ("layers", "net"), "the vehicle is layers or net, not", repr(plan.vehicle))
    _require(plan.options.num_threads >= 1, "a run has a thread at least, not", plan.options.num_threads)
    _require(plan.page_cache in PAGE_CACHES, "the page cache is used or not, not", repr(plan.page_cache))
    sizes = (plan.arena_bytes, plan.heap_bytes, plan.resident_bytes, plan.predicted_peak_bytes, plan.read_ahead_bytes)
    _require(min(sizes) >= 0, "no size is negative:", sizes)
    _require(isfinite(plan.predicted_seconds) and plan.predicted_seconds >= 0, "time is not", plan.predicted_seconds)
    _require(
        plan.predicted_peak_bytes <= plan.budget_bytes,
        f"the predicted peak of {plan.predicted_peak_bytes} bytes is within the budget of {plan.budget_bytes}",
    )
    fed = [blob for blob, _ in plan.inputs]
    _require(len(set(fed)) == len(fed), "every input is fed once:", fed)
    _require(bool(plan.outputs), "a plan has outputs")
    for blob, layout in plan.inputs:
        _check_layout(blob, layout)


def _check_layout(blob: str, layout: BlobLayout) -> None:
    extents = (layout.w, layout.h, layout.d, layout.c)
    used = {1: (0,), 2: (0, 1), 3: (0, 1, 3), 4: (0, 1, 2, 3)}.get(layout.dims, ())
    _require(
        bool(used) and all(e >= 1 and (e == 1 or i in used) for i, e in enumerate(extents)),
        f"blob {blob!r} has from 1 to 4 dimensions of 1 or more:",
        layout,
    )
    lanes, rest = divmod(layout.elemsize, layout.elempack) if layout.elempack in (1, 4, 8, 16) else (0, 0)
    _require(lanes in (1, 2, 4) and not rest, f"blob {blob!r} packs 1, 4, 8 or 16 values of 1, 2 or 4 bytes:", layout)


def _check_placements(plan: Plan) -> None:
    """Each by itself, then all of them: no two that exist in the same step share a byte."""
    whole = {place.blob: place for place in plan.placements if not place.within}
    _require(len({place.blob for place in plan.placements}) == len(plan.placements), "every blob is placed once")
    for place in plan.placements:
        name = f"blob {place.blob!r}"
        _check_layout(place.blob, place.layout)
        _require(0 <= place.begin < place.end <= len(plan.steps), name, "exists from one step to a later one")
        end_bytes = place.offset_bytes + place.size_bytes
        if not place.within:
            _require(place.offset_bytes % _ALIGNMENT_BYTES == 0, name, "begins at a multiple of 64 bytes")
            inside = place.offset_bytes >= 0 and end_bytes + OVERREAD_BYTES <= plan.arena_bytes
            _require(inside, name, "is in the arena")
            continue
        outer = whole.get(place.within)
        _require(outer is not None, name, "lies within a blob that is placed, not", repr(place.within))
        assert outer is not None
        _require(
            outer.offset_bytes <= place.offset_bytes and end_bytes <= outer.offset_bytes + outer.size_bytes,
            *(name, "lies within the bytes of", repr(outer.blob)),
        )
        _require(outer.begin <= place.begin and place.end <= outer.end, name, "exists while", repr(outer.blob), "does")
        _require(place.offset_bytes % _NESTED_ALIGNMENT_BYTES == 0, name, "begins at a multiple of 16 bytes")
    scratch = _scratch(plan)
    for place in scratch:
        inside = place.offset_bytes >= 0 and place.offset_bytes + place.size_bytes <= plan.arena_bytes
        _require(inside, place.blob, "is in the arena")
    _check_overlaps([*whole.values(), *scratch])
    _check_overlaps([place for place in plan.placements if place.within])


def _scratch(plan: Plan) -> list[Placement]:
    """What layers allocate from while they compute, each as a blob of bytes that exists in its step alone."""
    _require(all(step.scratch_bytes >= 0 for step in plan.steps), "no scratch is negative")
    return [
        Placement(
            f"scratch of step {number}",
            BlobLayout(1, step.scratch_bytes, 1, 1, 1, 1, 1),
            step.scratch_offset_bytes,
            number,
            number + 1,
        )
        for number, step in enumerate(plan.steps)
        if step.scratch_bytes
    ]


def _check_overlaps(places: Sequence[Placement]) -> None:
    """Sweep the steps with the ranges that exist, in order: a new one can only overlap its neighbours."""
    ranges: list[tuple[int, int, str]] = []
    ending: list[tuple[int, tuple[int, int, str]]] = []
    for place in sorted(places, key=lambda place: place.begin):
        while ending and ending[0][0] <= place.begin:
            ranges.pop(bisect_left(ranges, heappop(ending)[1]))
        new = (place.offset_bytes, place.offset_bytes + place.size_bytes, place.blob)
        index = bisect_left(ranges, new)
        for begin, end, other in ranges[max(0, index - 1) : index + 1]:
            _require(
                end <= new[0] or new[1] <= begin,
                f"blobs that exist at once share no bytes, but {place.blob!r} and {other!r} do in step {place.begin}",
            )
        insort(ranges, new)
        heappush(ending, (place.end, new))


def _check_step(step: Step, name: str, bin_bytes: int | None) -> None:
    """What can be said of a step without knowing the others."""
    _require(step.mode in MODES, name, "has a known mode, not", repr(step.mode))
    for kernel in (step.kernel, *(stage.kernel for stage in step.stages)):
        _require(kernel in KERNELS, name, "has a known kernel, not", repr(kernel))
    _require(len(step.sources) == len(step.inputs) == _INPUTS.get(step.mode, len(step.inputs)), name, "has its inputs")
    several = step.mode in _SEVERAL_OUTPUTS
    _require(len(step.outputs) == 1 or (several and bool(step.outputs)), name, "has its outputs")
    _require((step.mode == "chain") == bool(step.stages), name, "has stages if it is a chain")
    _require((step.mode == "overlay") == bool(step.overwrites), name, "overwrites a source if it is an overlay")
    _check_parts(step, name)
    if step.reads_to_scratch:
        _check_read_to_scratch(step, name)
    for part in step.parts:
        _require(all(0 <= number < 32 for number, _ in part.params), name, "has parameters with ids of ncnn's")
        _require(part.load_peak_bytes >= 0, name, "is loaded within a number of bytes:", part.load_peak_bytes)
        for piece in part.pieces:
            _check_piece(piece, name, bin_bytes)
    for stage in step.stages:
        _check_rows(stage.slabs, name, in_order=stage is step.stages[-1])
    _check_rows(step.slabs, name, in_order=True)


def _check_parts(step: Step, name: str) -> None:
    parts, mode = step.parts, step.mode
    if mode == "chain":
        slabs = {len(stage.slabs) for stage in step.stages}
        _require(len(parts) == len(step.stages), name, "has a part for every stage")
        _require(len(slabs) == 1 and 0 not in slabs, name, "has as many slabs in every stage")
    elif mode == "join" or (mode == "alias" and len(step.outputs) > 1):
        _require(not parts, name, "runs no layer")
    elif mode in ("forward", "fresh"):
        _require(bool(parts), name, "has a part at least")
        _require(len(parts) == 1 or step.blob_axis in ("c", "h", "w"), name, "has parts along an axis")
        begins = [0, *(part.end for part in parts[:-1])]
        covered = [part.begin for part in parts] == begins and all(part.begin < part.end for part in parts)
        _require(covered, name, "has parts that cover its units without gap or overlap:", _spans(parts))
    else:
        _require(len(parts) == 1 or (mode == "alias" and not parts), name, "has one part")
    if mode in ("constant", "gather"):
        _require(bool(parts[0].pieces), name, "has weights")
    reads = [part.reads for part in parts if part.reads != (0, 0)]
    _require(all(0 <= begin < end for begin, end in reads), name, "reads channels that there are:", reads)
    _require(not step.slabs or mode == "forward", name, "computes slabs of one blob")


def _check_read_to_scratch(step: Step, name: str) -> None:
    """Nothing else is in the scratch while weights are, and nobody looks for them there later."""
    loads_once = not step.resident and step.mode not in ("chain", "constant", "gather")
    _require(loads_once, name, "loads one layer at a time to read weights to its scratch")
    _require(not step.reads_raw, name, "has no kernel that reads weights in its scratch while it computes")
    stored = all(not part.transformed_count for part in step.parts)
    _require(stored, name, "transforms the weights that it reads to its scratch")
    needed = max((positions_in_scratch(part.pieces)[1] for part in step.parts), default=0)
    _require(needed <= step.scratch_bytes, name, f"has scratch for {needed} bytes of weights, not", step.scratch_bytes)


def _check_turns(steps: Sequence[Step]) -> None:
    """Once one load goes ahead all are left to a thread, which may load while other steps still use the scratch."""
    reading = [step.name for step in steps if step.reads_to_scratch]
    ahead = [step.name for step in steps for part in step.parts if part.ahead > 1]
    _require(not (reading and ahead), "no weights are read to scratch", reading[:1], "where loads go ahead", ahead[:1])


def _spans(rows: Iterable[Part | Slab]) -> list[tuple[int, int]]:
    return [(one.begin, one.end) for one in rows]


def _check_rows(slabs: Sequence[Slab], name: str, *, in_order: bool) -> None:
    whole = all(slab.begin < slab.end and 0 <= slab.first < slab.last for slab in slabs)
    _require(whole, name, "has no empty slab:", _spans(slabs))
    pads = [pad for slab in slabs for pad in (slab.above, slab.below, slab.left, slab.right)]
    _require(min(pads, default=0) >= 0, name, "pads by a number of rows")
    begins = [0, *(slab.end for slab in slabs)][: len(slabs)]
    covered = not in_order or [slab.begin for slab in slabs] == begins
    _require(covered, name, "has slabs that cover its rows without gap or overlap:", _spans(slabs))


def _check_piece(piece: WeightPiece, name: str, bin_bytes: int | None) -> None:
    _require(piece.encoding in _ENCODINGS, name, "has weights of a known encoding, not", repr(piece.encoding))
    table = piece.table_offset_bytes
    _require(table >= 0 if piece.encoding == "table" else table == -1, name, "has a table of weights or none:", table)
    _require(piece.offset_bytes >= 0 and piece.count >= 1, name, "has weights that lie somewhere:", piece)
    end = max(piece.offset_bytes + piece.stored_bytes, table + _TABLE_BYTES if table >= 0 else 0)
    if piece.offset_bytes >= TRANSFORMED_OFFSET_BYTES:
        _require(piece.encoding == "int8", name, "has transformed weights as bytes, not", repr(piece.encoding))
        return
    _require(bin_bytes is None or end <= bin_bytes, name, f"has weights up to byte {end} of a file of {bin_bytes}")


class _Walk:
    """The steps in order, with the memory that every blob lies in: a placement's name, or the caller's."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._places: Mapping[str, Placement] = {place.blob: place for place in plan.placements}
        self._memory = {blob: _CALLER for blob, _ in plan.inputs}
        self._layouts = dict(plan.inputs)
        self._last_read: dict[str, int] = {}
        for number, step in enumerate(plan.steps):
            for blob in (*step.inputs, *step.sources):
                self._last_read[blob] = number
        self._last_read.update(dict.fromkeys(plan.outputs, len(plan.steps)))
        self._sharing: dict[str, list[str]] = {}  # memory -> the blobs that lie in it

    def check(self) -> None:
        """Follow all steps."""
        for number, step in enumerate(self._plan.steps):
            self._step(number, step, f"step {number} ({step.name!r})")
        for blob in self._plan.outputs:
            self._check_exists(blob, len(self._plan.steps) - 1, "the end")
        unused = [blob for blob in self._places if blob not in self._memory]
        _require(not unused, "every placed blob is written, but these are not:", unused)

    def _step(self, number: int, step: Step, name: str) -> None:
        for blob in step.inputs:
            self._check_exists(blob, number, name)
        for blob, source in zip(step.inputs, step.sources, strict=True):
            if source != blob:
                self._place(source, number, name)
        for blob in step.outputs:
            copied = step.mode == "inplace" and blob in step.sources
            _require(copied or blob not in self._memory, f"blob {blob!r} is written once, not again by {name}")
        if step.mode == "join":
            self._join(number, step, name)
        elif step.mode in _SHARING:
            source = step.overwrites or step.sources[0]
            _require(source in step.sources, name, "overwrites one of its sources, not", repr(source))
            for blob in step.outputs:
                self._share(blob, source)
            if step.mode != "alias":
                self._check_overwritten(number, step, source, name)
        else:
            for blob in step.outputs:
                self._place(blob, number, name)
        if step.mode in ("forward", "fresh", "chain"):
            self._check_extents(step, name)

    def _check_exists(self, blob: str, number: int, name: str) -> None:
        _require(blob in self._memory, f"blob {blob!r} is written before {name} reads it")
        place = self._places.get(self._memory[blob])
        exists = place is None or place.begin <= number < place.end
        _require(exists, f"the memory of blob {blob!r} ({self._memory[blob]!r}) exists when {name} reads it")

    def _place(self, blob: str, number: int, name: str) -> None:
        """A blob is written to a placement of its own."""
        place = self._places.get(blob)
        _require(place is not None, f"blob {blob!r}, written by {name}, is placed")
        assert place is not None
        _require(place.begin == number, f"blob {blob!r} exists from {name} on, which writes it")
        self._memory[blob], self._layouts[blob] = blob, place.layout
        self._sharing.setdefault(blob, []).append(blob)

    def _share(self, blob: str, source: str) -> None:
        memory = self._memory[source]
        self._memory[blob] = memory
        self._sharing.setdefault(memory, []).append(blob)

    def _check_overwritten(self, number: int, step: Step, source: str, name: str) -> None:
        memory = self._memory[source]
        _require(memory != _CALLER, name, f"does not overwrite blob {source!r}, which is the caller's")
        for other in self._sharing[memory]:
            needed = self._last_read.get(other, -1) > number and other not in step.outputs
            _require(not needed, name, f"does not overwrite {source!r} while {other!r} in the same bytes is read later")

    def _join(self, number: int, step: Step, name: str) -> None:
        (output,) = step.outputs
        place = self._places.get(output)
        parts = [self._places[blob] for blob in step.inputs if blob in self._places]
        inside = len(parts) == len(step.inputs) and all(part.within == output for part in parts)
        _require(place is not None and inside, name, f"joins blobs that lie within {output!r}")
        assert place is not None
        _require(sum(part.size_bytes for part in parts) == place.size_bytes, name, f"joins the whole of {output!r}")
        _require(all(part.end == number + 1 for part in parts), name, "is the last to read what it joins")
        self._memory[output], self._layouts[output] = output, place.layout
        self._sharing.setdefault(output, []).append(output)

    def _check_extents(self, step: Step, name: str) -> None:
        """Parts and slabs together make the whole output."""
        whole = self._layouts[step.outputs[0]]
        if step.mode != "chain" and len(step.parts) > 1:
            packed = step.blob_axis == ("w", "h", "c", "c")[whole.dims - 1]
            extent = int(getattr(whole, step.blob_axis)) * (whole.elempack if packed else 1)
            _require(step.parts[-1].end == extent, name, f"has parts for all {extent} units:", _spans(step.parts))
        first, last = (step.stages[0].slabs, step.stages[-1].slabs) if step.stages else (step.slabs, step.slabs)
        if last:
            _require(last[-1].end == whole.h, name, f"has slabs for all {whole.h} rows:", _spans(last))
            source = self._layouts.get(step.sources[0])
            rows = max(slab.last for slab in first)
            _require(source is None or rows <= source.h, name, f"reads rows that there are, not {rows}")
