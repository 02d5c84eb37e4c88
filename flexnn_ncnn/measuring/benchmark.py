"""Ways to run a model, timed against each other: stock ncnn, layer streaming, and this package with and without parts
of what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.measuring.contestants import CONFIGS, Contestants, needs_budget
from flexnn_ncnn.measuring.machine_load import LoadMeter, MachineLoad
from flexnn_ncnn.measuring.rounds import Entrant, entrants, take_turns
from flexnn_ncnn.preparing.preparation import Progress, Request

__all__ = ["Benchmark", "Measured", "benchmark"]

Arrays = Mapping[str, npt.NDArray[Any]]


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
        made = Contestants(request, inputs, Path(folder), progress)
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
