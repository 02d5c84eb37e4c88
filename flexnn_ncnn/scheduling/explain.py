"""What a schedule does and what binds it: a record of numbers, and the same in sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning.planner import Schedule, Workload, schedule
from flexnn_ncnn.records.profile import KernelCost, LayerProfile
from flexnn_ncnn.scheduling.forecast import (
    LayerForecast,
    MemoryShares,
    StockForecast,
    TimeShares,
    fastest,
    layer_forecasts,
    memory_shares,
    stock,
    time_shares,
)
from flexnn_ncnn.units import format_bytes

__all__ = ["Explanation", "KernelSwap", "MoreBudget", "explain", "sentences"]

# a layer's name is given where there are no more than this many
_NAMED = 4
# less time than this share of an inference is nothing
_NOTHING = 0.005


@dataclass(frozen=True, slots=True)
class KernelSwap:
    """Layers that run another kernel than ncnn would choose, and what that does to them together.

    Attributes:
        kernel: the one they run.
        layers: their names.
        slower_seconds: how much longer an inference takes, transforming included where they are streamed; negative
            where it is shorter.
        fewer_weights_bytes: transformed weights saved, of each layer as a whole.
        less_workspace_bytes: workspace saved by the layer that saves most.
    """

    kernel: str
    layers: tuple[str, ...]
    slower_seconds: float
    fewer_weights_bytes: int
    less_workspace_bytes: int


@dataclass(frozen=True, slots=True)
class MoreBudget:
    """What a larger budget would buy.

    Attributes:
        budget_bytes: that budget.
        saved_seconds: of one inference.
        more_resident_bytes: weights kept in addition; negative where the memory goes elsewhere.
        less_streamed_bytes: weights no longer read.
    """

    budget_bytes: int
    saved_seconds: float
    more_resident_bytes: int
    less_streamed_bytes: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """A schedule explained.

    Attributes:
        budget_bytes: its budget.
        memory: what its peak is made of.
        time: where its time goes.
        fastest_seconds: one inference with all the memory the planner can use.
        binding: "memory" where more of it would save time, else "compute"; followed, where memory binds, by what the
            time it would save goes to: "read", "transform", "compute", "cutting" or "faulting".
        layers: each layer, in execution order.
        swaps: kernels other than ncnn's choice.
        stock: what stock ncnn should take with all weights resident.
        more: what the next tenth of the budget would buy.
    """

    budget_bytes: int
    memory: MemoryShares
    time: TimeShares
    fastest_seconds: float
    binding: tuple[str, ...]
    layers: tuple[LayerForecast, ...]
    swaps: tuple[KernelSwap, ...]
    stock: StockForecast
    more: MoreBudget

    @property
    def resident_layers(self) -> tuple[LayerForecast, ...]:
        """Layers whose weights are kept."""
        return tuple(layer for layer in self.layers if layer.is_resident and layer.kept_bytes)

    @property
    def streamed_layers(self) -> tuple[LayerForecast, ...]:
        """Layers whose weights are read in each inference."""
        return tuple(layer for layer in self.layers if layer.streamed_bytes)

    @property
    def streamed_bytes(self) -> int:
        """Weights read in each inference."""
        return sum(layer.streamed_bytes for layer in self.layers)

    @property
    def saved_by_memory_seconds(self) -> float:
        """How much faster an inference is with all the memory the planner can use."""
        return max(0.0, self.time.seconds - self.fastest_seconds)


def explain(work: Workload, decided: Schedule, base_bytes: int) -> Explanation:
    """What a schedule does and what binds it.

    Args:
        work: what it was made for: `decided.workload` may have layers joined.
        decided: a schedule.
        base_bytes: what it was made with.
    """
    layers = layer_forecasts(decided)
    time = _time(decided)
    best = fastest(work, base_bytes)
    return Explanation(
        budget_bytes=decided.budget_bytes,
        memory=memory_shares(decided, base_bytes),
        time=time,
        fastest_seconds=min(best.predicted_seconds, time.seconds),
        binding=_binding(time, _time(best)),
        layers=layers,
        swaps=tuple(_swaps(decided, layers)),
        stock=stock(work, base_bytes),
        more=_more(work, decided, base_bytes, sum(layer.streamed_bytes for layer in layers)),
    )


def sentences(found: Explanation) -> tuple[str, ...]:
    """The explanation in words, a thought a sentence."""
    return (
        *_about_weights(found),
        *_about_memory(found),
        *_about_time(found),
        *_about_cutting(found),
        *(_about_swap(swap) for swap in found.swaps),
        *_about_stock(found),
        _about_more(found),
    )


def _time(decided: Schedule) -> TimeShares:
    """Where the time of a schedule goes; where loads go on beside computing, less than its parts together."""
    found = time_shares(layer_forecasts(decided))
    beside_seconds = found.seconds - decided.predicted_seconds if decided.lanes else 0.0
    return replace(found, beside_seconds=max(0.0, min(beside_seconds, found.read_seconds + found.transform_seconds)))


def _binding(time: TimeShares, best: TimeShares) -> tuple[str, ...]:
    loading = time.read_seconds + time.transform_seconds
    own_share = 1.0 - time.beside_seconds / loading if loading else 1.0
    saved = {
        "read": own_share * (time.read_seconds - best.read_seconds),
        "transform": own_share * (time.transform_seconds - best.transform_seconds),
        "compute": time.compute_seconds - best.compute_seconds,
        "cutting": time.cutting_seconds - best.cutting_seconds,
        "faulting": time.faulting_seconds - best.faulting_seconds,
    }
    if time.seconds - best.seconds <= _NOTHING * time.seconds:
        return ("compute",)
    return ("memory", max(saved, key=saved.__getitem__))


def _swaps(decided: Schedule, layers: Sequence[LayerForecast]) -> Iterator[KernelSwap]:
    groups: dict[str, list[tuple[LayerProfile, LayerForecast]]] = defaultdict(list)
    for layer, forecast in zip(decided.workload.profile.layers, layers, strict=True):
        if layer.kernels and forecast.kernel and forecast.kernel != layer.kernels[0].kernel:
            groups[forecast.kernel].append((layer, forecast))
    for kernel, members in groups.items():
        pairs = [(layer, forecast, layer.kernels[0], _cost(layer, kernel)) for layer, forecast in members]
        yield KernelSwap(
            kernel,
            tuple(layer.name for layer, _ in members),
            sum(_seconds(layer, ours, run) - _seconds(layer, theirs, run) for layer, run, theirs, ours in pairs),
            sum(round(_weights(layer, theirs) - _weights(layer, ours)) for layer, _, theirs, ours in pairs),
            max(
                round(theirs.run_peak_bytes.at(layer.units) - ours.run_peak_bytes.at(layer.units))
                for layer, _, theirs, ours in pairs
            ),
        )


def _cost(layer: LayerProfile, kernel: str) -> KernelCost:
    return next(cost for cost in layer.kernels if cost.kernel == kernel)


def _seconds(layer: LayerProfile, cost: KernelCost, run: LayerForecast) -> float:
    transform = cost.load_seconds.at(layer.units) if run.streamed_bytes else 0.0
    return transform + cost.compute_seconds.at(layer.units)


def _weights(layer: LayerProfile, cost: KernelCost) -> float:
    return cost.kept_bytes.at(layer.units) + (layer.raw_bytes if cost.reads_raw else 0)


def _more(work: Workload, decided: Schedule, base_bytes: int, streamed_bytes: int) -> MoreBudget:
    budget_bytes = decided.budget_bytes + decided.budget_bytes // 10
    try:
        better = schedule(work, budget_bytes, base_bytes)
    except BudgetError:  # not of a larger budget; but a sentence must not cost a plan
        better = decided
    streamed = sum(layer.streamed_bytes for layer in layer_forecasts(better))
    return MoreBudget(
        budget_bytes,
        max(0.0, decided.predicted_seconds - better.predicted_seconds),
        better.kept_bytes - decided.kept_bytes,
        streamed_bytes - streamed,
    )


def _about_weights(found: Explanation) -> Iterator[str]:
    resident, streamed = found.resident_layers, found.streamed_layers
    if not resident and not streamed:
        yield "No layer has weights."
    elif not streamed:
        yield f"All weights stay resident: {format_bytes(found.memory.resident_bytes)} {_of(resident)}."
    elif not resident:
        yield f"All weights are streamed: {format_bytes(found.streamed_bytes)} {_of(streamed)}, in each inference."
    else:
        yield (
            f"{format_bytes(found.memory.resident_bytes)} of weights stay resident {_of(resident)}; "
            f"{format_bytes(found.streamed_bytes)} are streamed in each inference {_of(streamed)}."
        )


def _about_memory(found: Explanation) -> Iterator[str]:
    memory = found.memory
    parts = {
        "resident weights": memory.resident_bytes,
        "blobs and workspace": memory.arena_bytes,
        "transformed weights of loads": memory.heap_bytes,
        "mapped raw weights or outputs": memory.mapped_bytes,
        "code and objects": memory.base_bytes,
    }
    listed = ", ".join(
        f"{format_bytes(size)} {what}" for what, size in sorted(parts.items(), key=lambda part: -part[1]) if size
    )
    free = format_bytes(max(0, found.budget_bytes - memory.peak_bytes))
    yield f"At the peak {format_bytes(memory.peak_bytes)} are held, {free} below the budget: {listed}."
    heaviest = max(found.layers, key=lambda layer: layer.scratch_bytes, default=None)
    if heaviest is not None and heaviest.scratch_bytes:
        yield f"Most workspace is needed by {_layer(heaviest)}."


def _about_time(found: Explanation) -> Iterator[str]:
    time = found.time
    if time.seconds <= 0:
        return
    faulting = f"{_share(time.faulting_seconds, time)} giving memory back, " if time.faulting_seconds else ""
    beside = "; what is loaded beside computing counts twice" if time.beside_seconds else ""
    yield (
        f"One inference takes {_ms(time.seconds)}: {_share(time.compute_seconds, time)} compute, "
        f"{_share(time.transform_seconds, time)} transforming weights, {_share(time.read_seconds, time)} reading them, "
        f"{faulting}{_share(time.cutting_seconds, time)} calling layers, slices and slabs one by one{beside}."
    )
    if time.beside_seconds:
        yield f"Loads go on beside computing, which hides {_ms(time.beside_seconds)} of them."
    if found.binding[0] == "memory":
        saved = found.saved_by_memory_seconds
        where = {
            "read": "reading weights again",
            "transform": "transforming weights again",
            "compute": "slower kernels",
            "cutting": "computing in slices and slabs",
            "faulting": "giving memory back between layers",
        }[found.binding[1]]
        yield f"Memory binds: it costs {_ms(saved)}, {_share(saved, time)} of the inference, most of it by {where}."
    else:
        yield "Compute binds: more memory would save nothing worth having."


def _about_cutting(found: Explanation) -> Iterator[str]:
    sliced = sorted((layer for layer in found.layers if layer.slices > 1), key=lambda layer: -layer.slices)
    if sliced:
        listed = ", ".join(f"{layer.name!r} into {layer.slices}" for layer in sliced[:_NAMED])
        yield f"{_count(sliced, 'layer is', 'layers are')} cut into slices: {listed}{_rest(sliced)}."
    for chain in (layer for layer in found.layers if len(layer.members) > 1):
        names = ", ".join(map(repr, chain.members))
        yield f"{names} are a chain: computed one slab of rows through all of them, in {chain.slabs}."
    slabbed = sorted(_slabbed(found), key=lambda layer: -layer.slabs)
    if slabbed:
        listed = ", ".join(f"{layer.name!r} in {layer.slabs}" for layer in slabbed[:_NAMED])
        yield f"{_count(slabbed, 'layer is', 'layers are')} computed by slabs of rows: {listed}{_rest(slabbed)}."


def _slabbed(found: Explanation) -> Iterator[LayerForecast]:
    return (layer for layer in found.layers if layer.slabs > 1 and len(layer.members) == 1)


def _about_swap(swap: KernelSwap) -> str:
    effects = []
    if swap.fewer_weights_bytes > 0:
        effects.append(f"{format_bytes(swap.fewer_weights_bytes)} less of transformed weights")
    if swap.less_workspace_bytes > 0:
        effects.append(f"up to {format_bytes(swap.less_workspace_bytes)} less workspace")
    effects.append(f"{_ms(abs(swap.slower_seconds))} {'more' if swap.slower_seconds > 0 else 'less'} time")
    names = ", ".join(map(repr, swap.layers[:_NAMED])) + _rest(swap.layers)
    verb = "runs" if len(swap.layers) == 1 else "run"
    return f"{names} {verb} {swap.kernel} instead of ncnn's own choice: {', '.join(effects)}."


def _about_stock(found: Explanation) -> Iterator[str]:
    whole = found.stock
    if whole.peak_bytes <= found.budget_bytes and whole.seconds <= found.time.seconds:
        figures = f"about {format_bytes(whole.peak_bytes)} and {_ms(whole.seconds)}"
        yield f"Stock ncnn itself should fit the budget, at {figures}: 'flexnn run' will try it first."


def _about_more(found: Explanation) -> str:
    more, budget = found.more, format_bytes(found.more.budget_bytes)
    if more.saved_seconds <= _NOTHING * found.time.seconds:
        return f"A tenth more budget, {budget}, would buy nothing worth having."
    use = []
    if more.more_resident_bytes > 0:
        use.append(f"{format_bytes(more.more_resident_bytes)} more weights resident")
    if more.less_streamed_bytes > 0:
        use.append(f"{format_bytes(more.less_streamed_bytes)} less streamed")
    saved = f"{_ms(more.saved_seconds)}, {_share(more.saved_seconds, found.time)} of the inference"
    return f"A tenth more budget, {budget}, would save {saved}: {', '.join(use) or 'larger slices, faster kernels'}."


def _of(layers: Sequence[LayerForecast]) -> str:
    if len(layers) <= _NAMED:
        return f"({', '.join(repr(layer.name) for layer in layers)})"
    return f"({len(layers)} layers)"


def _rest(items: Sequence[object]) -> str:
    more = len(items) - _NAMED
    return f" and {more} more" if more > 0 else ""


def _count(items: Sequence[object], one: str, many: str) -> str:
    return f"{len(items)} {one if len(items) == 1 else many}"


def _layer(layer: LayerForecast) -> str:
    return f"{layer.name!r} ({layer.type}, {format_bytes(layer.scratch_bytes)})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def _share(seconds: float, of: TimeShares) -> str:
    return f"{seconds / of.seconds:.0%}" if of.seconds else "0%"
