"""Ways to run a model, timed against each other: stock ncnn, layer streaming, and this package with and without parts
of what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.assemble import assemble_plan
from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.formats import write_plan
from flexnn_ncnn.machine_load import LoadMeter, MachineLoad
from flexnn_ncnn.plan import Plan
from flexnn_ncnn.planning.ablation import without_memory_plan, without_preloading
from flexnn_ncnn.planning.on_demand import on_demand
from flexnn_ncnn.preparation import Progress, Request, open_part, prepare
from flexnn_ncnn.rounds import Contestant, Entrant, entrants, take_turns
from flexnn_ncnn.scheduling import Scheduler
from param_tools.model_io import NcnnModel

__all__ = ["CONFIGS", "Benchmark", "Measured", "benchmark", "needs_budget"]

Arrays = Mapping[str, npt.NDArray[Any]]

CONFIGS: dict[str, str] = {
    "stock": "stock ncnn",
    "stock-direct": "stock ncnn without winograd and sgemm",
    "ondemand": "each layer loaded whole, computed and released, its memory given back",
    "flexnn": "this package within the budget",
    "flexnn-no-preload": "the same, nothing read or loaded before it is needed",
    "flexnn-no-memplan": "the same, memory taken as it comes instead of by plan; keeps no budget",
}
"""What can be measured, and how it runs the model."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to run the model.

    Attributes:
        config: its name.
        note: what is to be known about it, or "".
        latency_ms_min, latency_ms_median, latency_ms_max: of one inference.
        spread_percent: how far the slowest is from the fastest, of the median.
        load_ms: opening the model, before the first inference.
        peak_bytes: growth of the resident set's peak over the idle process, loading and warm-ups included.
        weights_streamed_bytes: read from the file in each inference.
        weights_resident_bytes: kept between inferences; of stock ncnn not known.
        latencies_ms: all that count, in their order.
    """

    config: str
    note: str
    latency_ms_min: float
    latency_ms_median: float
    latency_ms_max: float
    spread_percent: float
    load_ms: float
    peak_bytes: int
    weights_streamed_bytes: int
    weights_resident_bytes: int | None
    latencies_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What `benchmark` found.

    Attributes:
        model: what the caller calls it.
        budget_bytes: what the configurations of this package were given; None where there are none.
        threads: compute threads.
        loops: inferences that count.
        warmup: inferences before those.
        cooling_seconds: pause before each round.
        peak_exact: whether the system tells peaks exactly; if not, they are upper bounds.
        machine: how busy it was with other things.
        measured: in the order in which they were asked for.
    """

    model: str
    budget_bytes: int | None
    threads: int
    loops: int
    warmup: int
    cooling_seconds: float
    peak_exact: bool
    machine: MachineLoad
    measured: tuple[Measured, ...]


def needs_budget(config: str) -> bool:
    """Whether a configuration is one of this package's, within a budget."""
    return config.startswith("flexnn")


def benchmark(
    request: Request,
    inputs: Arrays,
    configs: Sequence[str],
    *,
    loops: int = 10,
    warmup: int = 2,
    cooling_seconds: float = 0.0,
    together: bool = True,
    progress: Progress | None = None,
    model: str = "",
) -> Benchmark:
    """Run the model in several ways, each in a process of its own.

    Args:
        request: the model, how to compute, and the budget where a configuration needs one.
        inputs: an array per input blob, float32 or int32, outermost axis first.
        configs: names in `CONFIGS`, each once.
        loops: inferences that count, at least 1.
        warmup: inferences before those.
        cooling_seconds: to wait before each round.
        together: all open at once and in turn, so that a change of the machine meets them all; else one after the
            other, which needs no more memory than the largest.
        progress: called with (what, done, of).
        model: what to call it; the .param's path where empty.

    Raises:
        UsageError: no configuration, an unknown one, or one twice.
        FlexnnError: as `prepare`; stock ncnn cannot run the model.
    """
    _check(configs)
    meter, threads = LoadMeter(), request.options.num_threads
    with TemporaryDirectory(prefix="flexnn-") as folder:
        made = _Contestants(request, inputs, Path(folder), progress)
        contestants = [made.of(config) for config in configs]
        groups = [contestants] if together else [[one] for one in contestants]
        found: dict[str, Measured] = {}
        is_exact = True
        for group in groups:
            with entrants(group, inputs, threads) as entered:
                what = "measuring" if together else f"measuring {group[0].name}"
                take_turns(
                    entered,
                    meter,
                    rounds=loops,
                    warmups=warmup,
                    cooling_seconds=cooling_seconds,
                    progress=progress,
                    what=what,
                )
                found |= {one.name: _measured(one, made.notes.get(one.name, "")) for one in entered}
                is_exact = is_exact and all(one.opened["exact"] for one in entered)
    return Benchmark(
        model=model or str(request.param_path),
        budget_bytes=request.budget_bytes if any(map(needs_budget, configs)) else None,
        threads=threads,
        loops=loops,
        warmup=warmup,
        cooling_seconds=cooling_seconds,
        peak_exact=is_exact,
        machine=meter.load(threads),
        measured=tuple(found[config] for config in configs),
    )


class _Contestants:
    """What each configuration's process is to open; what several need is made once.

    Attributes:
        notes: by configuration, what came up on the way.
    """

    def __init__(self, request: Request, inputs: Arrays, folder: Path, progress: Progress | None) -> None:
        self._request, self._inputs, self._folder, self._progress = request, inputs, folder, progress
        self._files = {"param": str(request.param_path), "bin": str(request.bin_path)}
        self._prepared: Plan | None = None
        self.notes: dict[str, str] = {}

    def of(self, config: str) -> Contestant:
        """The configuration of this name."""
        if not config.startswith("stock"):
            return self._planned(config, *self._plan(config))
        opens = {**self._files, "options": asdict(self._request.options), "outputs": self._outputs()}
        return Contestant(config, opens | ({"kernel": "direct"} if config == "stock-direct" else {}))

    def _planned(self, config: str, plan: Plan, returns_memory: bool) -> Contestant:
        path = self._folder / f"{config}.plan.json"
        write_plan(plan, path)
        return Contestant(config, {**self._files, "plan": str(path), "return_memory": returns_memory})

    def _plan(self, config: str) -> tuple[Plan, bool]:
        """A configuration's plan, and whether what it frees goes back to the system."""
        if config == "ondemand":
            return self._on_demand(), True
        plan = self._within_budget()
        if config == "flexnn":
            return plan, False
        taken_away: Callable[[Plan], Plan] = (
            without_preloading if config == "flexnn-no-preload" else without_memory_plan
        )
        changed = taken_away(plan)
        if changed == plan:
            what = "stock ncnn throughout" if plan.vehicle == "net" else "nothing ahead of need"
            self.notes[config] = f"the same as flexnn: its plan does {what}"
        return changed, False

    def _within_budget(self) -> Plan:
        if self._prepared is None:
            self._prepared, _ = prepare(self._request, self._inputs, self._progress)
        return self._prepared

    def _on_demand(self) -> Plan:
        scheduler = Scheduler.of_model(self._request, self._inputs, self._progress)
        with self._opened() as opened:
            return without_memory_plan(assemble_plan(opened, on_demand(scheduler.work, scheduler.base_bytes)))

    def _outputs(self) -> Sequence[str]:
        with self._opened() as opened:
            return opened.model.output_blobs

    def _opened(self) -> NcnnModel:
        return open_part(self._request, self._inputs, self._request.outputs or None)


def _measured(entrant: Entrant, note: str) -> Measured:
    latencies = [seconds * 1e3 for seconds in entrant.seconds]
    middle = median(latencies)
    return Measured(
        config=entrant.name,
        note=note,
        latency_ms_min=min(latencies),
        latency_ms_median=middle,
        latency_ms_max=max(latencies),
        spread_percent=100 * (max(latencies) - min(latencies)) / middle,
        load_ms=entrant.opened["load_seconds"] * 1e3,
        peak_bytes=entrant.peak_bytes,
        weights_streamed_bytes=entrant.runs[-1].get("streamed_bytes", 0),
        weights_resident_bytes=entrant.runs[-1].get("resident_bytes"),
        latencies_ms=tuple(latencies),
    )


def _check(configs: Sequence[str]) -> None:
    unknown = [config for config in configs if config not in CONFIGS]
    if unknown:
        raise UsageError(f"there is no configuration {unknown[0]!r}", hint=f"there are {', '.join(CONFIGS)}")
    if not configs or len(set(configs)) != len(configs):
        raise UsageError("every configuration is measured once", hint="name at least one, and none twice")
