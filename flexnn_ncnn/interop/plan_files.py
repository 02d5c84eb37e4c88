"""FlexNN's plans: .malloc, where each allocation goes; .dependency, when to load; .layout, both for people."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from flexnn_ncnn.errors import PlanError
from flexnn_ncnn.interop.lines import INTEGER, matches, prefixed, read_lines, write_lines
from flexnn_ncnn.interop.records import KINDS, MAX_BYTES, FlexnnPlan, MemoryObject, PlacedObject, check_limits

__all__ = ["read_flexnn_plan", "write_flexnn_plan"]

_LAYOUT = re.compile(",".join([INTEGER] * 5 + ["([012])"]), re.ASCII)
_COUNTS = re.compile(rf"{INTEGER} {INTEGER} {INTEGER}(?: {INTEGER})?", re.ASCII)
_OFFSET = re.compile(INTEGER, re.ASCII)


def write_flexnn_plan(plan: FlexnnPlan, prefix: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """Write PREFIX.malloc, PREFIX.dependency and PREFIX.layout; returns their paths.

    Raises:
        PlanError: it has more than FlexNN can count.
    """
    check_limits([one.memory for one in plan.placed], len(plan.dependencies), PlanError)
    if plan.peak_bytes > MAX_BYTES:
        raise PlanError(f"FlexNN's offsets end at 2 GiB, this plan at {plan.peak_bytes:,} bytes")
    malloc, dependency, layout = (prefixed(prefix, suffix) for suffix in ("malloc", "dependency", "layout"))
    offsets = [[one.offset_bytes for one in plan.placed if one.memory.kind == kind] for kind in KINDS]
    counts = [len(one) for one in offsets] + ([len(plan.persistent)] if plan.persistent else [])
    lines = ["# weight_count blob_count intermediate_count (persistent_count)", " ".join(map(str, counts))]
    names = ("weight", "blob", "intermediate", "persistent")
    for name, values in zip(names, (*offsets, plan.persistent), strict=True):
        lines += [f"# {name}_offsets", *map(str, values)]
    write_lines(malloc, lines)
    write_lines(dependency, map(str, plan.dependencies))
    write_lines(layout, map(_layout_row, plan.placed))
    return malloc, dependency, layout


def read_flexnn_plan(prefix: str | os.PathLike[str]) -> FlexnnPlan:
    """Read PREFIX.malloc, PREFIX.dependency and PREFIX.layout.

    Raises:
        PlanError: one is missing or damaged, or they contradict each other.
    """
    dependencies = tuple(int(found[1]) for _, found in matches(prefixed(prefix, "dependency"), _OFFSET, PlanError))
    if any(after < before for before, after in pairwise(dependencies)):
        raise PlanError(f"{prefixed(prefix, 'dependency')}: a number is smaller than the one before it")
    if any(one > len(dependencies) for one in dependencies):
        raise PlanError(f"{prefixed(prefix, 'dependency')}: a number is larger than the {len(dependencies)} layers")
    placed = tuple(_read_layout(prefixed(prefix, "layout"), len(dependencies)))
    offsets, persistent = _read_malloc(prefixed(prefix, "malloc"))
    for kind, found in zip(KINDS, offsets, strict=True):
        if found != [one.offset_bytes for one in placed if one.memory.kind == kind]:
            raise PlanError(f"{prefixed(prefix, 'malloc')}: the {kind} offsets are not those of the .layout")
    return FlexnnPlan(placed, tuple(persistent), dependencies)


def _layout_row(one: PlacedObject) -> str:
    memory = one.memory
    values = (one.loads_at, memory.end - 1, one.offset_bytes, memory.size_bytes, memory.begin, KINDS.index(memory.kind))
    return ",".join(map(str, values))


def _read_layout(path: Path, layers: int) -> Iterator[PlacedObject]:
    for where, found in matches(path, _LAYOUT, PlanError):
        loads_at, last, offset, size, begin, kind = map(int, found.groups())
        if not loads_at <= begin <= last < layers:
            raise PlanError(f"{where}: layers {loads_at}, {begin} and {last} of {layers} are out of order")
        if offset + size > MAX_BYTES:
            raise PlanError(f"{where}: ends beyond 2 GiB")
        yield PlacedObject(MemoryObject(KINDS[kind], begin, last + 1, size), loads_at, offset)


def _read_malloc(path: Path) -> tuple[list[list[int]], list[int]]:
    """Offsets per kind, and the persistent ones."""
    lines = read_lines(path, PlanError)
    where, first = next(lines, (str(path), ""))
    found = _COUNTS.fullmatch(first)
    if found is None:
        raise PlanError(f"{where}: {first[:80]!r} is not 'weights blobs workspaces (persistent)'")
    counts = [int(count or 0) for count in found.groups()]
    values = []
    for where, line in lines:
        if _OFFSET.fullmatch(line) is None or int(line) > MAX_BYTES:
            raise PlanError(f"{where}: {line[:80]!r} is not an offset")
        values.append(int(line))
    if len(values) != sum(counts):
        raise PlanError(f"{path}: {len(values)} offsets where its first line counts {sum(counts)}")
    ends = [sum(counts[: i + 1]) for i in range(4)]
    weights, blobs, workspaces, persistent = (
        values[end - count : end] for end, count in zip(ends, counts, strict=True)
    )
    return [weights, blobs, workspaces], persistent
