"""A small plan that keeps every rule, written by hand; tests change it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.plan import Part, Placement, Plan, Slab, Stage, Step, WeightPiece

PLANE = BlobLayout(dims=3, w=4, h=4, d=1, c=16, elemsize=4, elempack=1)
PACKED = PLANE.with_elempack(4)
HALF = replace(PLANE, c=8)
BIN_BYTES = 10_000
BLOB_BYTES = 1088  # a plane of 1024 bytes, and room to read past its end


def piece(offset_bytes: int = 0, count: int = 16, encoding: str = "fp32", table_offset_bytes: int = -1) -> WeightPiece:
    return WeightPiece(offset_bytes, count, encoding, table_offset_bytes)


def part(begin: int = 0, end: int = 1, *pieces: WeightPiece, reads: tuple[int, int] = (0, 0)) -> Part:
    return Part(begin, end, reads, ((0, 16), (9, 1.5), (10, (1, 2.5))), pieces)


def slab(begin: int, end: int, first: int, last: int, above: int = 0, below: int = 0) -> Slab:
    return Slab(begin, end, first, last, above, below, 0, 0)


def stage(*slabs: Slab, name: str = "stage") -> Stage:
    return Stage("Convolution", name, "default", True, 0.0, slabs)


def step(name: str, inputs: str, outputs: str = "", mode: str = "forward", **fields: Any) -> Step:
    """A step from and to the blobs named; it reads what it is given and has one part without weights."""
    taken, given = tuple(inputs.split()), tuple((outputs or name).split())
    plain = Step(
        layer_index=0,
        type="Convolution",
        name=name,
        mode=mode,
        kernel="default",
        resident=True,
        reads_raw=True,
        inputs=taken,
        sources=taken,
        outputs=given,
        blob_axis="",
        parts=(part(),),
        slabs=(),
        pad_value=0.0,
    )
    return replace(plain, **fields)


def place(blob: str, slot: int, begin: int, end: int, layout: BlobLayout = PLANE, **fields: Any) -> Placement:
    """A blob in one of the arena's slots, which are as large as a plane."""
    return replace(Placement(blob, layout, slot * BLOB_BYTES, begin, end), **fields)


def plan(steps: tuple[Step, ...], placements: tuple[Placement, ...], outputs: str, **fields: Any) -> Plan:
    plain = Plan(
        model_id="model",
        machine="machine",
        budget_bytes=1_000_000,
        options=RunOptions(),
        vehicle="layers",
        inputs=(("in", PLANE),),
        outputs=tuple(outputs.split()),
        steps=steps,
        placements=placements,
        arena_bytes=4 * BLOB_BYTES,
        heap_bytes=1000,
        predicted_peak_bytes=900_000,
        predicted_seconds=0.01,
        resident_bytes=0,
    )
    return replace(plain, **fields)


def good_plan() -> Plan:
    """One step of every mode.

    in -> conv (two slices) -> split -> relu (a copy, in place), flat (an alias); constant + words -> sum (over words);
    relu -> chain -> end; relu is read to the end; left and right are joined in both.
    """
    steps = (
        step("conv", "in", blob_axis="c", parts=(part(0, 8, piece(0)), part(8, 16, piece(64)))),  # 0
        step("split", "conv", "x y", mode="alias", parts=()),  # 1
        step("relu", "x", mode="inplace", sources=("relu",)),  # 2
        step("flat", "y", mode="alias"),  # 3
        step("fresh", "flat", mode="fresh", sources=("flat@4",)),  # 4
        step("constant", "", mode="constant", parts=(part(0, 1, piece(128)),)),  # 5
        step("sum", "constant fresh", mode="overlay", overwrites="constant"),  # 6
        step(
            "chain",
            "sum",
            mode="chain",
            parts=(part(), part()),
            stages=(stage(slab(0, 3, 0, 3), slab(1, 4, 1, 4)), stage(slab(0, 2, 0, 3), slab(2, 4, 1, 4))),
        ),  # 7
        step("parts", "chain", "one two", mode="list"),  # 8
        step("left", "one", slabs=(slab(0, 3, 0, 4), slab(3, 4, 2, 4, below=1))),  # 9
        step("right", "two"),  # 10
        step("both", "left right", mode="join", parts=()),  # 11
        step("end", "both relu", mode="list"),  # 12
    )
    placements = (
        place("conv", 0, 0, 5),
        place("relu", 1, 2, 13),
        place("flat@4", 2, 4, 5, PACKED),
        place("fresh", 3, 4, 7),
        place("constant", 0, 5, 8),
        place("chain", 2, 7, 9),
        place("one", 0, 8, 10, HALF),
        place("two", 3, 8, 11, HALF),
        place("both", 2, 9, 13),
        place("left", 2, 9, 12, HALF, within="both"),
        place("right", 2, 10, 12, HALF, within="both", offset_bytes=2 * BLOB_BYTES + HALF.size_bytes),
        place("end", 0, 12, 13),
    )
    return plan(steps, placements, "end")


def with_step(base: Plan, name: str, **fields: Any) -> Plan:
    """The plan with one step changed."""
    assert any(one.name == name for one in base.steps)
    return replace(base, steps=tuple(replace(one, **fields) if one.name == name else one for one in base.steps))


def with_place(base: Plan, blob: str, **fields: Any) -> Plan:
    """The plan with one placement changed."""
    assert any(one.blob == blob for one in base.placements)
    changed = tuple(replace(one, **fields) if one.blob == blob else one for one in base.placements)
    return replace(base, placements=changed)
