"""What there is to measure: a list of cells for each experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from eval.published import budgets_bytes
from flexnn_ncnn.errors import UsageError

__all__ = ["EXPERIMENTS", "Cell", "Effort", "cells_of"]

_MB = 1_000_000

_PUBLISHED_MODELS = ("vgg19", "resnet152", "squeezenet", "mobilenetv2", "vit_b16_mha", "gpt2_124m")
# Below the smallest that FlexNN was published with, and for models it was not.
_OWN_BUDGETS_MB: dict[str, tuple[float, ...]] = {
    "vgg19": (30, 40, 50),
    "resnet152": (15, 20, 25),
    "squeezenet": (5, 6, 8),
    "squeezenet11": (5, 6, 8),
    "mobilenetv2": (7, 8, 10),
    "vit_b16_mha": (30, 50, 100),
    "vit_b16_sdpa": (30, 50, 100),
    "gpt2_124m": (100, 200, 300),
    "realesrgan-x4plus": (40, 60, 80, 100, 150),
}
_ABLATION_MODELS, _ABLATION_BUDGETS = ("vgg19", "resnet152"), (100 * _MB, 500 * _MB)
_ADAPTIVE_MODELS, _ADAPTIVE_BUDGETS = ("vgg19", "resnet152"), (100 * _MB, 300 * _MB, 200 * _MB, 500 * _MB)
_PEERS_MODELS = ("vgg19", "resnet152", "squeezenet", "mobilenetv2", "vit_b16_mha")
_REFERENCES = ("stock", "shipped", "stock-no-winograd", "stock-direct", "ondemand")
_ABLATED = (
    "flexnn",
    "flexnn-no-preload",
    "flexnn-no-memplan",
    "flexnn-neither",
    "flexnn-no-kernel-choice",
    "flexnn-no-slicing",
    "ondemand",
    "stock",
)
_PEERS = ("stock", "shipped", "stock-no-winograd", "flexnn", "ort", "ort-low", "mnn", "mnn-low", "openvino")
# of --quick: those of the paper, the demo's own model, one large and one small
_QUICK_MODELS = {
    "end-to-end": _PUBLISHED_MODELS,
    "ablation": _ABLATION_MODELS,
    "overhead": ("vgg19", "resnet152"),
    "adaptive": ("vgg19",),
    "peers": ("resnet152", "squeezenet"),
}
_MODELS: dict[str, tuple[str, ...]] = {
    "end-to-end": tuple(_OWN_BUDGETS_MB),
    "ablation": _ABLATION_MODELS,
    "overhead": tuple(_OWN_BUDGETS_MB),
    "adaptive": _ADAPTIVE_MODELS,
    "peers": _PEERS_MODELS,
}
EXPERIMENTS = tuple(_MODELS)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        loops: inferences that count, of each contestant in each pass.
        warmups: inferences before those, beside the cold one.
        passes: how often all contestants of a cell have their turn, each time in a new process.
        threads: compute threads.
        is_quick: whether to measure the lowest and the middle budget only, and fewer models.
        device: in `eval.devices.DEVICES`.
        limit_percent: how exactly to find the smallest memory limit that is survived.
        adaptive_runs: inferences within each budget of the adaptive demo.
    """

    loops: int = 4
    warmups: int = 2
    passes: int = 3
    threads: int = 1
    is_quick: bool = False
    device: str = "host"
    limit_percent: int = 5
    adaptive_runs: int = 32


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: contestants that take turns.

    Attributes:
        experiment: in `EXPERIMENTS`.
        model: a zoo model's name, or the path of a .param.
        configs: contestants: of `flexnn_ncnn.measuring.contestants.CONFIGS`, `eval.peers.setups.PEERS`, or "shipped",
            stock ncnn with its default options; "steps" are the commands around an inference, "adapt" is the adaptive
            demo.
        budget_bytes: of the configurations that have one; None where none has.
        loops, warmups, threads, passes, device: as in `Effort`.
        limit_percent: as there; 0 where no limit is looked for.
        sequence_bytes: the budgets of the adaptive demo.
    """

    experiment: str
    model: str
    configs: tuple[str, ...]
    budget_bytes: int | None
    loops: int
    warmups: int
    threads: int
    passes: int = 1
    device: str = "host"
    limit_percent: int = 0
    sequence_bytes: tuple[int, ...] = ()

    @property
    def key(self) -> dict[str, Any]:
        """All of it, as JSON reads it back."""
        return asdict(self) | {"configs": list(self.configs), "sequence_bytes": list(self.sequence_bytes)}

    @property
    def patience_seconds(self) -> float:
        """How long one contestant may take in one pass."""
        return 120.0 * (self.loops + self.warmups + 1)

    @property
    def limit_patience_seconds(self) -> float:
        """How long one may take within a memory limit: beyond that it thrashes."""
        return 6.0 if self.is_coarse else 25.0

    @property
    def is_coarse(self) -> bool:
        """Whether the limit is to be found fast rather than exactly."""
        return self.limit_percent > 10


def cells_of(experiment: str, models: Sequence[str], budgets: Sequence[int], effort: Effort) -> list[Cell]:
    """The cells of an experiment, in the order in which to measure them.

    Args:
        experiment: in `EXPERIMENTS`.
        models: to be measured; none for the experiment's own.
        budgets: bytes; none for the experiment's own.
        effort: how long to measure.

    Raises:
        UsageError: a model that no budgets are known for, and none given.
    """
    chosen = models or (_QUICK_MODELS if effort.is_quick else _MODELS)[experiment]
    if experiment == "adaptive":
        sequence = tuple(budgets or _ADAPTIVE_BUDGETS)
        base = _cell(experiment, "", ("adapt",), None, effort)
        base = replace(base, loops=effort.adaptive_runs, warmups=0, passes=1, sequence_bytes=sequence)
        return [replace(base, model=model) for model in chosen]
    return [cell for model in chosen for cell in _cells(experiment, model, budgets, effort)]


def _cells(experiment: str, model: str, budgets: Sequence[int], effort: Effort) -> list[Cell]:
    if experiment == "end-to-end":
        return _end_to_end(model, budgets, effort)
    if experiment == "ablation":
        return [_cell(experiment, model, _ABLATED, budget, effort) for budget in budgets or _ABLATION_BUDGETS]
    if experiment == "peers":
        found = [_cell(experiment, model, _PEERS, one, effort) for one in _one_budget(model, budgets)]
        return [replace(cell, limit_percent=effort.limit_percent) for cell in found]
    return [
        replace(_cell(experiment, model, ("steps",), budget, effort), passes=1)
        for budget in _one_budget(model, budgets)
    ]


def _end_to_end(model: str, budgets: Sequence[int], effort: Effort) -> list[Cell]:
    chosen = sorted(set(budgets or _own_budgets(model)))
    if effort.is_quick and not budgets:
        # with the highest it is stock ncnn that runs, which takes longest to try and is there already
        chosen = sorted({chosen[0], chosen[len(chosen) // 2]})
    # stock beside every budget: its latency of the same minute is what a ratio can be taken of
    within = [_cell("end-to-end", model, ("stock", "flexnn"), budget, effort) for budget in chosen]
    return [_cell("end-to-end", model, _REFERENCES, None, effort), *within]


def _one_budget(model: str, budgets: Sequence[int]) -> Sequence[int]:
    """Those given, or the lowest that FlexNN was published with, or the middle one of ours."""
    if budgets:
        return budgets
    published = budgets_bytes(model)
    own = _own_budgets(model)
    return [min(published) if published else own[len(own) // 2]]


def _own_budgets(model: str) -> list[int]:
    if model not in _OWN_BUDGETS_MB:
        raise UsageError(f"no budgets are known for {model}", hint="give --budgets")
    return sorted({*budgets_bytes(model), *(round(mb * _MB) for mb in _OWN_BUDGETS_MB[model])})


def _cell(experiment: str, model: str, configs: Sequence[str], budget_bytes: int | None, effort: Effort) -> Cell:
    return Cell(
        experiment,
        model,
        tuple(configs),
        budget_bytes,
        effort.loops,
        effort.warmups,
        effort.threads,
        effort.passes,
        effort.device,
    )
