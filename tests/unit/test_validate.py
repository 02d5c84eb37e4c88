"""Every rule of a plan fires on a plan that breaks it, and names what breaks it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest

from flexnn_ncnn.errors import PlanError
from flexnn_ncnn.planning.validate import validate_plan
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.plan import Plan
from tests.unit.plans import (
    BIN_BYTES,
    BLOB_BYTES,
    PLANE,
    good_plan,
    part,
    piece,
    place,
    plan,
    slab,
    stage,
    step,
    with_place,
    with_step,
)

GOOD = good_plan()
NET = replace(GOOD, vehicle="net", steps=(), placements=(), arena_bytes=0)


def test_weights_may_be_read_to_the_scratch() -> None:
    validate_plan(in_scratch())


def test_a_good_plan_passes() -> None:
    validate_plan(GOOD)
    validate_plan(GOOD, BIN_BYTES)
    validate_plan(NET)


def odd_layout(**fields: int) -> Plan:
    return with_place(GOOD, "end", layout=replace(PLANE, **fields))


LOADED = part(0, 16, piece(count=16384), piece(65536, count=16))


def in_scratch(**fields: Any) -> Plan:
    """A plan with a step whose weights are read to its scratch, behind all blobs."""
    plain = {
        "reads_to_scratch": True,
        "resident": False,
        "reads_raw": False,
        "parts": (LOADED,),
        "scratch_bytes": 65600,
    }
    at = {"scratch_offset_bytes": GOOD.arena_bytes}
    return with_step(replace(GOOD, arena_bytes=GOOD.arena_bytes + 65600), "conv", **{**plain, **at, **fields})


BROKEN: dict[str, tuple[Plan, str]] = {
    # numbers
    "vehicle": (replace(GOOD, vehicle="truck"), "vehicle is layers or net, not 'truck'"),
    "threads": (replace(GOOD, options=RunOptions(num_threads=0)), "a thread at least"),
    "negative arena": (replace(GOOD, arena_bytes=-1), "no size is negative"),
    "negative heap": (replace(GOOD, heap_bytes=-1), "no size is negative"),
    "negative resident": (replace(GOOD, resident_bytes=-1), "no size is negative"),
    "time without end": (replace(GOOD, predicted_seconds=inf), "time is not inf"),
    "no time": (replace(GOOD, predicted_seconds=nan), "time is not nan"),
    "over budget": (replace(GOOD, budget_bytes=100), "900000 bytes is within the budget of 100"),
    "input twice": (replace(GOOD, inputs=GOOD.inputs * 2), "fed once"),
    "no outputs": (replace(GOOD, outputs=()), "has outputs"),
    "net with steps": (replace(NET, steps=GOOD.steps), "no steps"),
    # layouts
    "no dimension": (odd_layout(dims=0), "blob 'end' has from 1 to 4 dimensions"),
    "empty": (odd_layout(w=0), "blob 'end' has from 1 to 4 dimensions"),
    "unused extent": (odd_layout(dims=1), "blob 'end' has from 1 to 4 dimensions"),
    "elempack": (odd_layout(elempack=3, elemsize=12), "blob 'end' packs 1, 4, 8 or 16"),
    "elemsize": (odd_layout(elemsize=3), "blob 'end' packs 1, 4, 8 or 16"),
    "wide lanes": (odd_layout(elemsize=8), "blob 'end' packs 1, 4, 8 or 16"),
    # placements
    "placed twice": (replace(GOOD, placements=GOOD.placements * 2), "placed once"),
    "never exists": (with_place(GOOD, "one", end=8), "blob 'one' exists from one step to a later one"),
    "after the end": (with_place(GOOD, "end", end=14), "blob 'end' exists from one step to a later one"),
    "alignment": (with_place(GOOD, "end", offset_bytes=32), "blob 'end' begins at a multiple of 64"),
    "before the arena": (with_place(GOOD, "end", offset_bytes=-64), "blob 'end' is in the arena"),
    "past the arena": (replace(GOOD, arena_bytes=4 * BLOB_BYTES - 64), "blob 'fresh' is in the arena"),
    "huge": (odd_layout(w=2**70), "blob 'end' is in the arena"),
    "overlap": (with_place(GOOD, "one", offset_bytes=2 * BLOB_BYTES), "'one' and 'chain' do in step 8"),
    "partial overlap": (
        with_place(GOOD, "one", offset_bytes=3 * BLOB_BYTES - 64),
        "'two' and 'one' do in step 8|'one'",
    ),
    "within nothing": (with_place(GOOD, "left", within="nobody"), "blob 'left' lies within a blob that is placed"),
    "outside": (with_place(GOOD, "left", offset_bytes=0), "blob 'left' lies within the bytes of 'both'"),
    "outlives": (with_place(GOOD, "both", end=11), "blob '(left|right)' exists while 'both' does"),
    "nested alignment": (
        with_place(with_place(GOOD, "left", layout=replace(PLANE, c=4)), "left", offset_bytes=2 * BLOB_BYTES + 8),
        "blob 'left' begins at a multiple of 16",
    ),
    "siblings overlap": (with_place(GOOD, "right", offset_bytes=2 * BLOB_BYTES), "'right' and 'left' do in step 10"),
    "never written": (
        replace(GOOD, placements=(*GOOD.placements, place("ghost", 3, 11, 12))),
        r"these are not: \['ghost'\]",
    ),
    # steps alone
    "mode": (with_step(GOOD, "conv", mode="guess"), r"step 0 \('conv'\) has a known mode, not 'guess'"),
    "kernel": (with_step(GOOD, "conv", kernel="guess"), r"step 0 \('conv'\) has a known kernel, not 'guess'"),
    "stage's kernel": (
        with_step(GOOD, "chain", stages=tuple(replace(one, kernel="guess") for one in GOOD.steps[7].stages)),
        "known kernel",
    ),
    "sources": (with_step(GOOD, "conv", sources=()), r"step 0 \('conv'\) has its inputs"),
    "two inputs": (with_step(GOOD, "conv", inputs=("in", "in"), sources=("in", "in")), "has its inputs"),
    "no output": (with_step(GOOD, "conv", outputs=()), "has its outputs"),
    "too many outputs": (with_step(GOOD, "conv", outputs=("conv", "more")), "has its outputs"),
    "stages": (with_step(GOOD, "conv", stages=(stage(slab(0, 4, 0, 4)),)), "has stages if it is a chain"),
    "no stages": (with_step(GOOD, "chain", stages=()), "has stages if it is a chain"),
    "overwrites": (with_step(GOOD, "sum", overwrites=""), "overwrites a source if it is an overlay"),
    "no part": (with_step(GOOD, "conv", parts=()), "has a part at least"),
    "no axis": (with_step(GOOD, "conv", blob_axis=""), "has parts along an axis"),
    "gap": (with_step(GOOD, "conv", parts=(part(0, 8), part(12, 16))), r"without gap or overlap: \[\(0, 8\), \(12"),
    "parts overlap": (with_step(GOOD, "conv", parts=(part(0, 8), part(4, 16))), "without gap or overlap"),
    "empty part": (with_step(GOOD, "conv", parts=(part(0, 16), part(16, 16))), "without gap or overlap"),
    "too few units": (with_step(GOOD, "conv", parts=(part(0, 8), part(8, 12))), "parts for all 16 units"),
    "parts of a list": (with_step(GOOD, "parts", parts=(part(), part())), "has one part"),
    "a layer in a split": (with_step(GOOD, "split", parts=(part(),)), "runs no layer"),
    "constant of nothing": (with_step(GOOD, "constant", parts=(part(),)), "has weights"),
    "reads": (with_step(GOOD, "right", parts=(part(0, 1, reads=(4, 2)),)), "reads channels that there are"),
    "slabs of a list": (with_step(GOOD, "end", slabs=(slab(0, 4, 0, 4),)), "computes slabs of one blob"),
    "parameter": (with_step(GOOD, "end", parts=(replace(part(), params=((99, 1),)),)), "ids of ncnn's"),
    # weights in the scratch
    "read to scratch of a resident layer": (in_scratch(resident=True), "one layer at a time"),
    "read to scratch of a chain": (
        with_step(GOOD, "chain", reads_to_scratch=True, resident=False),
        "one layer at a time",
    ),
    "weights in use in scratch": (in_scratch(reads_raw=True), "no kernel that reads weights in its scratch"),
    "scratch in use when weights come": (
        in_scratch(parts=(replace(LOADED, ahead=2),)),
        "where loads go ahead .'conv'.",
    ),
    "scratch in use by a step before when weights come": (
        with_step(in_scratch(), "left", parts=(replace(part(), ahead=2),)),
        "where loads go ahead .'left'.",
    ),
    "transformed weights in scratch": (
        in_scratch(parts=(replace(LOADED, transformed_count=1),)),
        "transforms the weights that it reads to its scratch",
    ),
    "too little scratch for weights": (
        in_scratch(scratch_bytes=65536),
        "has scratch for 65600 bytes of weights, not 65536",
    ),
    # slabs and stages
    "slab gap": (with_step(GOOD, "left", slabs=(slab(0, 2, 0, 4), slab(3, 4, 0, 4))), "rows without gap or overlap"),
    "empty slab": (with_step(GOOD, "left", slabs=(slab(0, 0, 0, 4), slab(0, 4, 0, 4))), "no empty slab"),
    "too few rows": (with_step(GOOD, "left", slabs=(slab(0, 3, 0, 4),)), "slabs for all 4 rows"),
    "rows below the blob": (with_step(GOOD, "left", slabs=(slab(0, 4, 0, 5),)), "reads rows that there are, not 5"),
    "negative padding": (with_step(GOOD, "left", slabs=(slab(0, 4, 0, 4, -1),)), "pads by a number of rows"),
    "stages unlike": (
        with_step(GOOD, "chain", stages=(stage(slab(0, 4, 0, 4)), GOOD.steps[7].stages[1])),
        "as many slabs in every stage",
    ),
    "stages without parts": (with_step(GOOD, "chain", parts=(part(),)), "has a part for every stage"),
    # weights
    "encoding": (with_step(GOOD, "end", parts=(part(0, 1, piece(encoding="fp8")),)), "known encoding, not 'fp8'"),
    "no table": (with_step(GOOD, "end", parts=(part(0, 1, piece(encoding="table")),)), "a table of weights or none"),
    "a table": (with_step(GOOD, "end", parts=(part(0, 1, piece(table_offset_bytes=0)),)), "a table of weights or none"),
    "offset": (with_step(GOOD, "end", parts=(part(0, 1, piece(-4)),)), "weights that lie somewhere"),
    "count": (with_step(GOOD, "end", parts=(part(0, 1, piece(count=0)),)), "weights that lie somewhere"),
    "past the file": (
        with_step(GOOD, "end", parts=(part(0, 1, piece(BIN_BYTES - 4)),)),
        "up to byte 10060 of a file of",
    ),
    "table past the file": (
        with_step(GOOD, "end", parts=(part(0, 1, piece(0, 4, "table", BIN_BYTES - 100)),)),
        "of a file of 10000",
    ),
    # the walk
    "from nowhere": (
        with_step(GOOD, "flat", inputs=("later",), sources=("later",)),
        "'later' is written before step 3",
    ),
    "read too early": (with_step(GOOD, "right", inputs=("end",), sources=("end",)), "'end' is written before step 10"),
    "gone": (with_place(GOOD, "conv", end=4), r"the memory of blob 'flat' \('conv'\) exists when step 4"),
    "output gone": (
        with_step(replace(GOOD, outputs=("end", "one")), "conv"),
        "memory of blob 'one' .* the end reads it",
    ),
    "output unknown": (replace(GOOD, outputs=("nothing",)), "'nothing' is written before the end"),
    "written twice": (with_step(GOOD, "right", outputs=("left",)), "'left' is written once"),
    "the caller's": (with_step(GOOD, "conv", outputs=("in",)), "'in' is written once"),
    "not placed": (replace(GOOD, placements=GOOD.placements[:-1]), "'end', written by step 12 .*, is placed"),
    "copy not placed": (with_step(GOOD, "fresh", sources=("other",)), "'other', written by step 4 .*, is placed"),
    "exists before": (with_place(GOOD, "two", begin=7), "blob 'two' exists from step 8"),
    "over the caller's": (with_step(GOOD, "relu", inputs=("in",), sources=("in",)), "does not overwrite blob 'in'"),
    "over what is read": (with_step(GOOD, "relu", sources=("x",)), "does not overwrite 'x' while '(conv|y)'"),
    "over what is no source": (with_step(GOOD, "sum", overwrites="relu"), "overwrites one of its sources, not 'relu'"),
    "joins another's": (with_place(GOOD, "right", within="", offset_bytes=BLOB_BYTES), "share no bytes|joins blobs"),
    "joins half": (with_place(GOOD, "right", layout=replace(PLANE, c=4)), "joins the whole of 'both'"),
    "joined read later": (with_place(GOOD, "left", end=13), "is the last to read what it joins"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_named(name: str) -> None:
    broken, message = BROKEN[name]
    with pytest.raises(PlanError, match=message) as caught:
        validate_plan(broken, BIN_BYTES)
    assert caught.value.hint == "make it again"


def test_an_output_in_the_same_memory_is_not_overwritten_in_the_last_step() -> None:
    steps = (
        step("a", "in"),
        step("split", "a", "x y", mode="alias", parts=()),
        step("flat", "x", mode="alias"),
        step("relu", "y", mode="inplace"),
    )
    with pytest.raises(PlanError, match="does not overwrite 'y' while 'flat' in the same bytes is read later"):
        validate_plan(plan(steps, (place("a", 0, 0, 4),), "flat relu"))


@pytest.mark.parametrize("shape", ["chain", "fan", "stairs"])
def test_work_grows_with_the_plan_and_not_with_its_square(shape: str) -> None:
    shapes: dict[str, Callable[[int], Plan]] = {"chain": chain_of, "fan": fan_of, "stairs": stairs_of}

    def calls(count: int) -> int:
        made, counted = shapes[shape](count), 0

        def count_call(*_: object) -> None:
            nonlocal counted
            counted += 1

        sys.setprofile(count_call)
        try:
            validate_plan(made)
        finally:
            sys.setprofile(None)
        return counted

    assert calls(1600) < 10 * calls(200)


def chain_of(count: int) -> Plan:
    blobs = ["in", *(f"b{i}" for i in range(count))]
    steps = tuple(step(blobs[i + 1], blobs[i]) for i in range(count))
    placements = tuple(place(blobs[i + 1], i % 2, i, min(i + 2, count)) for i in range(count))
    return plan(steps, placements, blobs[-1])


def fan_of(count: int) -> Plan:
    steps = tuple(step(f"b{i}", "in") for i in range(count))
    placements = tuple(place(f"b{i}", i, i, count) for i in range(count))
    return plan(steps, placements, " ".join(f"b{i}" for i in range(count)), arena_bytes=count * BLOB_BYTES)


def stairs_of(count: int) -> Plan:
    steps = (step("list", "in", " ".join(f"b{i}" for i in range(count)), mode="list"),)
    steps += tuple(step(f"c{i}", f"b{i}") for i in range(count))
    placements = tuple(place(f"b{i}", i, 0, i + 2) for i in range(count))
    placements += tuple(place(f"c{i}", count + i, i + 1, count + 1) for i in range(count))
    return plan(steps, placements, " ".join(f"c{i}" for i in range(count)), arena_bytes=2 * count * BLOB_BYTES)
