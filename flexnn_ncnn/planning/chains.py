"""Chains: layers whose windows slide, computed one slab of rows through all of them.

The blobs between the layers of a chain never exist as a whole, which is worth most where a network's blobs are
largest: at its beginning. The price is rows computed twice where slabs overlap (MCUNetV2, section 3.1, calls this
patch-based inference).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flexnn_ncnn.planning.choices import SLAB_SECONDS, Choice, objects_bytes, run_peak, undominated
from flexnn_ncnn.planning.problem import ALIGNMENT_BYTES, blob_problem, live_bytes
from flexnn_ncnn.records.layout import align_up
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile

__all__ = ["ChainedProfile", "chain_choices", "chain_levels"]

_MAX_LEVELS = 8
# what rounding and room to read past the end add to blobs and workspace that exist at once
_BLOCKS_BYTES = 4 * 128
_SLAB_COUNTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True, slots=True)
class ChainedProfile:
    """A profile in which some layers are joined to chains.

    Attributes:
        profile: each chain is one layer of mode "chain".
        members: per layer of `profile` the layers it stands for.
    """

    profile: ModelProfile
    members: tuple[tuple[LayerProfile, ...], ...]


def chain_levels(profile: ModelProfile) -> Iterator[ChainedProfile]:
    """The profile as it is, then with ever more chains, each of which makes the blobs' peak smaller; where layers are
    known to consist of others, the same with those in their place."""
    yield from _levels(profile)
    if profile.expansions:
        yield from _levels(_expanded(profile))


def _levels(profile: ModelProfile) -> Iterator[ChainedProfile]:
    level = ChainedProfile(profile, tuple((layer,) for layer in profile.layers))
    yield level
    for _ in range(_MAX_LEVELS):
        smaller = _joined_at_peak(level)
        if smaller is None:
            return
        level = smaller
        yield level


def _expanded(profile: ModelProfile) -> ModelProfile:
    inner = {layers[0].index: layers for layers in profile.expansions}
    layers = (one for layer in profile.layers for one in inner.get(layer.index, (layer,)))
    return replace(profile, layers=tuple(layers), expansions=())


def _joined_at_peak(level: ChainedProfile) -> ChainedProfile | None:
    """The level with one more pair joined where blobs take most, or None where that gains nothing."""
    live = live_bytes(blob_problem(level.profile).buffers, len(level.profile.layers))
    peak = max(live)
    step = live.index(peak)
    best: tuple[int, ChainedProfile] | None = None
    for first in (step, step - 1):
        if first >= 0 and _may_join(level, first):
            joined = _join(level, first)
            size = max(live_bytes(blob_problem(joined.profile).buffers, len(joined.profile.layers)))
            if size < peak and (best is None or size < best[0]):
                best = size, joined
    return None if best is None else best[1]


def _may_join(level: ChainedProfile, first: int) -> bool:
    """Whether layer `first` and the next can be a chain: nobody else reads what lies between."""
    layers = level.profile.layers
    if first + 1 >= len(layers):
        return False
    one, other = layers[first], layers[first + 1]
    between = one.outputs[0]
    return (
        all(member.window is not None for member in (*level.members[first], *level.members[first + 1]))
        and other.inputs == (between,)
        and one.output_layouts[0] == other.input_layouts[0]
        and between not in level.profile.outputs
        and sum(between in layer.inputs for layer in layers) == 1
    )


def _join(level: ChainedProfile, first: int) -> ChainedProfile:
    layers, members = list(level.profile.layers), list(level.members)
    one, other = layers[first], layers[first + 1]
    chain = replace(
        one,
        type=f"{one.type}+{other.type}",
        name=f"{one.name}+{other.name}",
        mode="chain",
        outputs=other.outputs,
        output_layouts=other.output_layouts,
        raw_bytes=one.raw_bytes + other.raw_bytes,
        units=1,
        granularity=1,
        least_units=1,
        blob_axis="",
        kernels=(),
    )
    layers[first : first + 2] = [chain]
    members[first : first + 2] = [(*members[first], *members[first + 1])]
    return ChainedProfile(replace(level.profile, layers=tuple(layers)), tuple(members))


def chain_choices(members: Sequence[LayerProfile], read_seconds_per_byte: float) -> tuple[Choice, ...]:
    """The ways to run a chain, with ncnn's own kernels: in how many slabs, resident or streamed."""
    rows = members[-1].window.outputs if members[-1].window else 1
    sizes = {-(-rows // count) for count in _SLAB_COUNTS if count <= rows}
    found = [
        choice for size in sorted(sizes or {rows}) for choice in _chain_choices(members, size, read_seconds_per_byte)
    ]
    return undominated(found)


def _chain_choices(members: Sequence[LayerProfile], slab_rows: int, read_seconds_per_byte: float) -> Iterator[Choice]:
    costs = [member.kernels[0] for member in members]
    stage_rows = _stage_rows(members, slab_rows)
    last = members[-1].window
    slabs = -(-last.outputs // slab_rows) if last else 1
    seconds, workspace, before = members[0].convert_seconds, 0.0, 0.0
    for member, cost, rows in zip(members, costs, stage_rows, strict=True):
        total = member.window.outputs if member.window else rows
        again = max(1.0, slabs * rows / total)
        seconds += cost.compute_seconds.at(member.units) * again + slabs * SLAB_SECONDS
        # slabs that fit into caches may save time, but rows computed again save nothing
        extra = cost.slabs.seconds_per_slab.at(rows) if cost.slabs else 0.0
        seconds += extra * (slabs if extra > 0 else min(slabs, total / rows))
        after = 0.0 if member is members[-1] else member.output_layouts[0].size_bytes * min(rows, total) / total
        workspace = max(workspace, before + run_peak(cost, member.units, min(rows, total)) + after)
        before = after
    kept = sum(cost.kept_bytes.at(member.units) for member, cost in zip(members, costs, strict=True))
    loading = max(
        cost.load_peak_bytes.at(member.units) - cost.kept_bytes.at(member.units)
        for member, cost in zip(members, costs, strict=True)
    )
    raw = sum(member.raw_bytes for member in members)
    in_place = sum(member.raw_bytes for member, cost in zip(members, costs, strict=True) if cost.reads_raw)
    load_seconds = sum(cost.load_seconds.at(member.units) for member, cost in zip(members, costs, strict=True))
    whole = Choice(
        kernel="default",
        part_units=1,
        slab_rows=slab_rows,
        resident=True,
        seconds=seconds,
        load_seconds=0.0,
        kept_bytes=int(kept + in_place),
        heap_bytes=0,
        raw_bytes=0,
        scratch_bytes=align_up(int(workspace) + _BLOCKS_BYTES, ALIGNMENT_BYTES),
        load_bytes=int(max(0.0, loading) + raw),
        objects_bytes=objects_bytes(len(members), slabs),
    )
    yield whole
    if raw:
        load_seconds += raw * read_seconds_per_byte
        yield replace(
            whole,
            resident=False,
            seconds=seconds + load_seconds,
            load_seconds=load_seconds,
            kept_bytes=0,
            heap_bytes=int(kept + max(0.0, loading)),
            raw_bytes=raw,
            load_bytes=0,
            read_bytes=raw,
        )


def _stage_rows(members: Sequence[LayerProfile], slab_rows: int) -> list[int]:
    """Output rows that every stage computes for a slab of the last one's `slab_rows`."""
    rows = [slab_rows]
    for member in reversed(members[1:]):
        rows.append(member.window.reads(rows[-1]) if member.window else rows[-1])
    return rows[::-1]
