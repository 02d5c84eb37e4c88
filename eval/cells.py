"""What there is to measure: a list of cells for each experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.published import budgets_bytes
from flexnn_ncnn.errors import UsageError

__all__ = ["EXPERIMENTS", "Cell", "Effort", "cells_of"]

_MB = 1_000_000

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
_REFERENCES = ("stock", "stock-direct", "ondemand")
_ABLATED = ("flexnn", "flexnn-no-preload", "flexnn-no-memplan", "ondemand", "stock")
_OVERHEAD_CONFIG = "steps"
EXPERIMENTS = ("end-to-end", "ablation", "overhead")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        loops: inferences that count, of each contestant.
        warmups: inferences before those.
        threads: compute threads.
        all_budgets: whether to measure every budget, not only the lowest, the middle and the highest.
    """

    loops: int = 10
    warmups: int = 4
    threads: int = 1
    all_budgets: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: contestants that take turns.

    Attributes:
        experiment: in `EXPERIMENTS`.
        model: a zoo model's name, or the path of a .param.
        configs: `flexnn bench` calls them so; "shipped" is stock ncnn with its default options, "steps" the commands
            around an inference.
        budget_bytes: of the configurations that have one; None where none has.
        loops, warmups, threads: as in `Effort`.
    """

    experiment: str
    model: str
    configs: tuple[str, ...]
    budget_bytes: int | None
    loops: int
    warmups: int
    threads: int

    @property
    def key(self) -> dict[str, Any]:
        """All of it, as JSON reads it back."""
        return asdict(self) | {"configs": list(self.configs)}


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
    if experiment == "end-to-end":
        return [cell for model in models or _OWN_BUDGETS_MB for cell in _end_to_end(model, budgets, effort)]
    if experiment == "ablation":
        return [
            _cell(experiment, model, _ABLATED, budget, effort)
            for model in models or _ABLATION_MODELS
            for budget in budgets or _ABLATION_BUDGETS
        ]
    return [
        _cell(experiment, model, (_OVERHEAD_CONFIG,), budget, effort)
        for model in models or _OWN_BUDGETS_MB
        for budget in _overhead_budgets(model, budgets)
    ]


def _end_to_end(model: str, budgets: Sequence[int], effort: Effort) -> list[Cell]:
    chosen = sorted(set(budgets or _own_budgets(model)))
    if not effort.all_budgets and not budgets:
        chosen = sorted({chosen[0], chosen[len(chosen) // 2], chosen[-1]})
    # stock beside every budget: its latency of the same minute is what a ratio can be taken of
    within = [_cell("end-to-end", model, ("stock", "flexnn"), budget, effort) for budget in chosen]
    outside = [_cell("end-to-end", model, configs, None, effort) for configs in (("shipped",), _REFERENCES)]
    return [*outside, *within]


def _overhead_budgets(model: str, budgets: Sequence[int]) -> Sequence[int]:
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
    return Cell(experiment, model, tuple(configs), budget_bytes, effort.loops, effort.warmups, effort.threads)
