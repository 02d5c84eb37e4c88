"""What a schedule says an inference will take: per layer, in all, and over a range of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning.choices import Choice
from flexnn_ncnn.planning.planner import Schedule, Workload, schedule, smallest_budget, stock_forecast
from flexnn_ncnn.records.profile import KernelCost, LayerProfile

__all__ = [
    "LayerForecast",
    "MemoryShares",
    "Smallest",
    "StockForecast",
    "SweepPoint",
    "TimeShares",
    "fastest",
    "layer_forecasts",
    "memory_shares",
    "smallest",
    "stock",
    "sweep",
    "sweep_budgets",
    "time_shares",
]

# more than any machine has: what the planner does with it is the fastest it can do
_PLENTY_BYTES = 1 << 50


@dataclass(frozen=True, slots=True)
class TimeShares:
    """Where the time of one inference goes, in seconds.

    Attributes:
        read_seconds: getting streamed weights from the file.
        transform_seconds: making of them what the kernel wants.
        compute_seconds: the kernels, as if no layer were cut.
        cutting_seconds: calling each slice and slab on its own, and rows computed twice where slabs overlap.
        faulting_seconds: getting memory again that was given back within the inference.
        beside_seconds: of reading and transforming, what goes on beside computing and takes no time of its own.
    """

    read_seconds: float
    transform_seconds: float
    compute_seconds: float
    cutting_seconds: float
    faulting_seconds: float = 0.0
    beside_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """All of it."""
        computing = self.transform_seconds + self.compute_seconds + self.cutting_seconds
        return self.read_seconds + computing + self.faulting_seconds - self.beside_seconds


@dataclass(frozen=True, slots=True)
class MemoryShares:
    """What the predicted peak is made of, in bytes.

    Attributes:
        base_bytes: code pages, Python objects, and those of slices and slabs.
        resident_bytes: weights kept between inferences.
        arena_bytes: blobs, and what layers allocate while they compute.
        heap_bytes: streamed weights transformed, of the layer that needs most.
        mapped_bytes: raw weights mapped while streaming, or the outputs handed over, whichever is more.
    """

    base_bytes: int
    resident_bytes: int
    arena_bytes: int
    heap_bytes: int
    mapped_bytes: int

    @property
    def peak_bytes(self) -> int:
        """All of it."""
        return self.base_bytes + self.resident_bytes + self.arena_bytes + self.heap_bytes + self.mapped_bytes


@dataclass(frozen=True, slots=True)
class LayerForecast:
    """How one layer, or a chain of layers computed slab by slab, is going to run.

    Attributes:
        index: its index in the model file; of a chain, the first one's.
        name: for people; of a chain, all names joined.
        type: ncnn's layer type, likewise.
        members: names of the layers; one unless it is a chain.
        kernel: a name in `flexnn_ncnn.records.options.KERNELS`, "" where no layer runs.
        is_resident: its weights are kept between inferences, or it has none.
        slices: how many it is cut into; 1 is whole.
        slabs: how many slabs of output rows it is computed in; 1 is at once.
        streamed_bytes: weights read from the file in each inference.
        kept_bytes: weights kept between inferences, as they lie in memory.
        heap_bytes: transformed weights while it is loaded and runs.
        scratch_bytes: workspace while it runs.
        mapped_bytes: raw weights mapped at once.
        time: where its time goes.
    """

    index: int
    name: str
    type: str
    members: tuple[str, ...]
    kernel: str
    is_resident: bool
    slices: int
    slabs: int
    streamed_bytes: int
    kept_bytes: int
    heap_bytes: int
    scratch_bytes: int
    mapped_bytes: int
    time: TimeShares


@dataclass(frozen=True, slots=True)
class Smallest:
    """The smallest budget that works.

    Attributes:
        budget_bytes: that budget.
        culprit: what sets it, such as "layer 'fc6' (InnerProduct, weights and workspace)".
    """

    budget_bytes: int
    culprit: str


@dataclass(frozen=True, slots=True)
class StockForecast:
    """What stock ncnn should take with all weights resident; a plan is that where the budget holds it.

    Attributes:
        peak_bytes: growth of the resident set, roughly: stock's pools keep freed blobs.
        seconds: one inference.
    """

    peak_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """What one budget gives.

    Attributes:
        budget_bytes: the budget.
        feasible: whether any schedule keeps it; all below is 0 if not.
        is_stock: whether the whole model fits as stock ncnn runs it, and that is at least as fast.
        predicted_peak_bytes: growth of the resident set.
        predicted_seconds: one inference, weights in the page cache.
        resident_bytes: weights kept between inferences.
        streamed_bytes: weights read from the file in each.
    """

    budget_bytes: int
    feasible: bool
    is_stock: bool = False
    predicted_peak_bytes: int = 0
    predicted_seconds: float = 0.0
    resident_bytes: int = 0
    streamed_bytes: int = 0


def layer_forecasts(decided: Schedule) -> tuple[LayerForecast, ...]:
    """Every layer of a schedule, in execution order."""
    work = decided.workload
    found = [
        _layer_forecast(layer, members, choice, work.profile.read_seconds_per_byte)
        for layer, members, choice in zip(work.profile.layers, work.members, decided.chosen, strict=True)
    ]
    for step, seconds in decided.releases.step_seconds.items() if decided.releases else ():
        found[step] = replace(found[step], time=replace(found[step].time, faulting_seconds=seconds))
    return tuple(found)


def time_shares(layers: Sequence[LayerForecast]) -> TimeShares:
    """Where the time of all layers goes."""
    times = [layer.time for layer in layers]
    return TimeShares(
        sum(time.read_seconds for time in times),
        sum(time.transform_seconds for time in times),
        sum(time.compute_seconds for time in times),
        sum(time.cutting_seconds for time in times),
        sum(time.faulting_seconds for time in times),
    )


def memory_shares(decided: Schedule, base_bytes: int) -> MemoryShares:
    """What the peak of a schedule is made of.

    Args:
        decided: a schedule.
        base_bytes: what it was made with.
    """
    most = decided.releases or decided
    return MemoryShares(
        base_bytes=base_bytes - decided.returned_code_bytes + decided.objects_bytes,
        resident_bytes=decided.kept_bytes,
        arena_bytes=most.arena_bytes,
        heap_bytes=most.heap_bytes,
        mapped_bytes=most.raw_bytes,
    )


def fastest(work: Workload, base_bytes: int) -> Schedule:
    """What the planner does with all the memory it can use."""
    return schedule(work, _PLENTY_BYTES, base_bytes)


def smallest(work: Workload, base_bytes: int) -> Smallest:
    """The smallest budget that works, and what sets it."""
    return Smallest(*smallest_budget(work, base_bytes))


def stock(work: Workload, base_bytes: int) -> StockForecast:
    """What stock ncnn should take."""
    return StockForecast(*stock_forecast(work, base_bytes))


def sweep_budgets(work: Workload, base_bytes: int, points: int = 16) -> tuple[int, ...]:
    """Budgets from the smallest that works to one that holds everything, each larger by the same factor.

    Args:
        work: from `flexnn_ncnn.planning.planner.workload`.
        base_bytes: as for `schedule`.
        points: how many, at least 2; fewer come back where they would be the same.
    """
    least = smallest(work, base_bytes).budget_bytes
    most = max(least, fastest(work, base_bytes).predicted_peak_bytes, stock(work, base_bytes).peak_bytes)
    factor = (most / least) ** (1 / (points - 1))
    inner = {round(least * factor**i) for i in range(1, points - 1)}
    return tuple(sorted({least, *(one for one in inner if least < one < most), most}))


def sweep(work: Workload, base_bytes: int, budgets: Sequence[int]) -> tuple[SweepPoint, ...]:
    """What each budget gives, in ascending order."""
    return tuple(_sweep_point(work, base_bytes, budget) for budget in sorted(set(budgets)))


def _sweep_point(work: Workload, base_bytes: int, budget_bytes: int) -> SweepPoint:
    try:
        decided = schedule(work, budget_bytes, base_bytes)
    except BudgetError:
        return SweepPoint(budget_bytes, feasible=False)
    whole = stock(work, base_bytes)
    if whole.peak_bytes <= budget_bytes and whole.seconds <= decided.predicted_seconds:
        kept_bytes = whole.peak_bytes - base_bytes - work.blob_bytes
        return SweepPoint(budget_bytes, True, True, whole.peak_bytes, whole.seconds, kept_bytes, 0)
    streamed = sum(layer.streamed_bytes for layer in layer_forecasts(decided))
    return SweepPoint(
        budget_bytes,
        True,
        False,
        decided.predicted_peak_bytes,
        decided.predicted_seconds,
        decided.kept_bytes,
        streamed,
    )


def _layer_forecast(
    layer: LayerProfile, members: Sequence[LayerProfile], choice: Choice | None, read_seconds_per_byte: float
) -> LayerForecast:
    names = tuple(member.name for member in members)
    if choice is None:
        nothing = TimeShares(0.0, 0.0, 0.0, 0.0)
        return LayerForecast(layer.index, layer.name, layer.type, names, "", True, 1, 1, 0, 0, 0, 0, 0, nothing)
    costs = [next(cost for cost in member.kernels if cost.kernel == choice.kernel) for member in members]
    streamed_bytes = 0 if choice.resident else choice.read_bytes
    return LayerForecast(
        index=layer.index,
        name=layer.name,
        type=layer.type,
        members=names,
        kernel=choice.kernel,
        is_resident=choice.resident,
        slices=-(-layer.units // choice.part_units),
        slabs=_slabs(members, costs, choice),
        streamed_bytes=streamed_bytes,
        kept_bytes=choice.kept_bytes,
        heap_bytes=choice.heap_bytes,
        scratch_bytes=choice.scratch_bytes,
        mapped_bytes=choice.raw_bytes,
        time=_times(members, costs, choice, streamed_bytes * read_seconds_per_byte),
    )


def _slabs(members: Sequence[LayerProfile], costs: Sequence[KernelCost], choice: Choice) -> int:
    if not choice.slab_rows:
        return 1
    window, slabs = members[-1].window, costs[-1].slabs
    rows = window.outputs if window else slabs.rows if slabs else choice.slab_rows
    return -(-rows // choice.slab_rows)


def _times(
    members: Sequence[LayerProfile], costs: Sequence[KernelCost], choice: Choice, read_seconds: float
) -> TimeShares:
    """The time of a choice taken apart; what no part explains is the price of the calls."""
    pairs = list(zip(members, costs, strict=True))
    made = sum(cost.load_seconds.at(member.units) for member, cost in pairs)
    transform = 0.0 if choice.resident or choice.transformed else made
    compute = sum(cost.compute_seconds.at(member.units) for member, cost in pairs)
    compute = min(compute, choice.seconds - read_seconds - transform)  # slabs that fit into caches take less
    return TimeShares(read_seconds, transform, compute, max(0.0, choice.seconds - read_seconds - transform - compute))
