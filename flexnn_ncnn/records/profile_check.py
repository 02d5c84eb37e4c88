"""What must hold of every profile that is read or written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from itertools import accumulate, pairwise

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import KERNELS
from flexnn_ncnn.records.plan import MODES
from flexnn_ncnn.records.profile import KernelCost, LayerProfile, Linear, ModelProfile, Points

__all__ = ["check_profile"]

_MOST = 1 << 48
_PLANNED_MODES = ("chain", "join")  # only a plan has them


def check_profile(profile: ModelProfile) -> None:
    """Proves that a profile can be planned for.

    Raises:
        ProfileError: it breaks a rule; it says which, and in what layer.
    """
    facts = profile.machine_facts
    _require(facts is None or facts.fingerprint == profile.machine, "the machine", "is not that of its fingerprint")
    _require(0 <= profile.read_seconds_per_byte < _MOST, "the model", "has an odd read rate")
    for size in (profile.base_bytes, profile.bound_bytes, profile.peak_bytes):
        _require(0 <= size < _MOST, "the model", "has an odd size")
    if profile.storage is not None:
        rates = astuple(profile.storage)
        _require(all(0 <= rate < _MOST for rate in rates), "the storage", "has an odd rate")
    known = {blob for blob, _ in profile.inputs}
    _require(len(known) == len(profile.inputs), "the model", "has two inputs of one name")
    for _, layout in profile.inputs:
        _check_layout(layout, "the input")
    _require(all(layer.inner == 0 for layer in profile.layers), "the model", "has an inner layer outside of one")
    _check_run(profile.layers, known)
    _require(known.issuperset(profile.outputs), "the model", "has an output that no layer writes")
    _check_expansions(profile)


def _check_run(layers: Iterable[LayerProfile], known: set[str]) -> None:
    """Proves that layers run one after the other from what is known, to which they add what they write."""
    for layer in layers:
        _check_layer(layer)
        _require(known.issuperset(layer.inputs), repr(layer.name), "reads a blob that nothing writes before")
        _require(known.isdisjoint(layer.outputs), repr(layer.name), "writes a blob that is there already")
        known.update(layer.outputs)


def _check_expansions(profile: ModelProfile) -> None:
    """Proves that inner layers compute what their layer does, from what it reads."""
    whole = {layer.index: layer for layer in profile.layers}
    elsewhere = {blob for layer in profile.layers for blob in layer.outputs} | {blob for blob, _ in profile.inputs}
    for inner in profile.expansions:
        layer = whole.pop(inner[0].index, None) if inner else None
        if layer is None:
            raise ProfileError("the model has inner layers of a layer that is not there, or has some already")
        _require(
            all(one.index == layer.index and one.inner > 0 for one in inner),
            repr(layer.name),
            "has others' inner layers",
        )
        made = set(layer.inputs)
        _check_run(inner, made)
        _require(made.issuperset(layer.outputs), repr(layer.name), "has inner layers that do not write its output")
        within = made - set(layer.inputs) - set(layer.outputs)
        _require(elsewhere.isdisjoint(within), repr(layer.name), "has an inner layer that writes another's blob")
        elsewhere |= within


def _check_layer(layer: LayerProfile) -> None:
    where = repr(layer.name)
    _require(layer.mode in MODES and layer.mode not in _PLANNED_MODES, where, f"cannot run as {layer.mode!r}")
    counts = (layer.units, layer.granularity, layer.least_units)
    _require(min(counts) >= 1 and max(counts) < _MOST, where, "has units that cannot be counted")
    _require(0 <= layer.raw_bytes < _MOST and 0 <= layer.convert_seconds < _MOST, where, "has an odd cost")
    _require(layer.blob_axis in ("", "c", "h", "w"), where, f"is cut along {layer.blob_axis!r}")
    _require(not layer.blob_axis or len(layer.outputs) == 1, where, "is cut, and has several outputs")
    _require(len(set(layer.outputs)) == len(layer.outputs) > 0, where, "has no outputs, or two of one name")
    _require(len(layer.outputs) == len(layer.output_layouts), where, "lacks an output's layout")
    _require(len(layer.inputs) == len(layer.input_layouts), where, "lacks an input's layout")
    for layout in (*layer.input_layouts, *layer.output_layouts):
        _check_layout(layout, where)
    window = layer.window
    if window is not None:
        _require(min(window.extent, window.stride, window.outputs) > 0, where, "has a window of no rows")
        _require(max(window.extent, window.stride, window.outputs) < _MOST, where, "has a window of too many rows")
    _require(bool(layer.kernels) or layer.mode == "alias", where, "has no kernel")
    _require(len({cost.kernel for cost in layer.kernels}) == len(layer.kernels), where, "has a kernel twice")
    for cost in layer.kernels:
        _check_kernel(cost, f"{where}, kernel {cost.kernel!r},")
        _require(cost.slabs is None or window is not None, where, "has slabs but no window")


def _check_kernel(cost: KernelCost, where: str) -> None:
    _require(cost.kernel in KERNELS, where, "is not known")
    for one in (cost.load_seconds, cost.compute_seconds, cost.kept_bytes, cost.load_peak_bytes, cost.run_heap_bytes):
        _check_line(one, where)
    _require(0 <= cost.seconds_spread < _MOST, where, "has an odd spread")
    _check_points(cost.run_peak_bytes, where)
    _require(0 not in cost.events and all(live >= 0 for live in accumulate(cost.events)), where, "releases too much")
    if cost.slabs is not None:
        _require(1 < cost.slabs.rows < _MOST and cost.slabs.granularity > 0, where, "has slabs of no rows")
        _check_points(cost.slabs.run_peak_bytes, where, cost.slabs.rows)
        _check_points(cost.slabs.seconds_per_slab, where, cost.slabs.rows, least=-1e6)


def _check_line(cost: Linear, where: str) -> None:
    _require(min(cost.fixed, cost.per_unit) >= 0 and max(cost.fixed, cost.per_unit) < _MOST, where, "has an odd cost")


def _check_points(cost: Points, where: str, last: int | None = None, least: float = 0.0) -> None:
    sizes = (0, *cost.sizes)
    ascending = all(before < after for before, after in pairwise(sizes))
    _require(ascending and len(cost.sizes) == len(cost.values) > 0, where, "has sizes that do not ascend")
    _require(sizes[-1] == last if last is not None else sizes[-1] < _MOST, where, "lacks the cost of the whole")
    _require(all(least <= value < _MOST for value in cost.values), where, "has an odd cost")


def _check_layout(layout: BlobLayout, where: str) -> None:
    extents: Sequence[int] = (layout.w, layout.h, layout.d, layout.c, layout.elempack)
    _require(1 <= layout.dims <= 4 and min(extents) >= 1, where, "has a blob of no values")
    _require(layout.elemsize > 0 and layout.elemsize % layout.elempack == 0, where, "has lanes of no bytes")
    _require(max(*extents, layout.elemsize) < _MOST and layout.size_bytes < _MOST, where, "has a blob too large")


def _require(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise ProfileError(f"{where} {what}", hint="make the profile again")
