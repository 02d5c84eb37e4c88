"""What has to be done before the first inference, step by step in an empty cache, and what it costs."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eval.cells import Cell
from eval.commands import Done, flexnn
from eval.devices import imitated
from flexnn_ncnn import zoo
from param_tools.model_io import default_bin_path

__all__ = ["measure_steps"]


def measure_steps(cell: Cell) -> dict[str, Any]:
    """The steps of a cell: what each cost, and the files it left.

    Returns:
        "model_bytes": of the .param and .bin. "steps": per step its name, its cost, and how many bytes of files it
        left. The first, "start", is a command that does next to nothing: what every other one includes.

    Raises:
        CommandError: a step failed.
    """
    param_path, bin_path, shapes = _model(cell.model)
    budget = ("--budget", str(cell.budget_bytes))
    model = (param_path, "--bin", bin_path, *shapes)
    threads = ("--threads", cell.threads, "--quiet")
    with TemporaryDirectory(prefix="flexnn-eval-") as folder, imitated(cell.device, bin_path) as group:
        cache, sliced = Path(folder) / "cache", Path(folder) / "sliced"
        cache.mkdir()
        sliced.mkdir()
        steps: list[dict[str, Any]] = []

        def step(name: str, *arguments: object) -> None:
            before = _size(Path(folder))
            done: Done = flexnn(*arguments, cache=cache, group=group)
            steps.append({"step": name, **asdict(done.cost), "left_bytes": _size(Path(folder)) - before})

        step("start", "fingerprint")
        step("profile", "profile", *model, *threads)
        step("plan", "schedule", *model, *budget, *threads)
        step("first run", "run", *model, *budget, *threads)
        step("later run", "run", *model, *budget, *threads)
        step("slice", "slice", *model, *budget, "-o", sliced / "sliced.param")
    return {"model_bytes": param_path.stat().st_size + bin_path.stat().st_size, "steps": steps}


def _model(model: str) -> tuple[Path, Path, list[str]]:
    """The files of a model and, of one of the zoo, its inputs as --shape: the zoo lies in the cache that is left."""
    if model not in zoo.names():
        return Path(model), default_bin_path(Path(model)), []
    param_path, bin_path = zoo.model_paths(model)
    shapes = [f"{spec.blob}={'x'.join(map(str, spec.shape))}" for spec in zoo.entry(model).inputs]
    return param_path, bin_path, [part for shape in shapes for part in ("--shape", shape)]


def _size(folder: Path) -> int:
    return sum(os.path.getsize(Path(where) / name) for where, _, names in os.walk(folder) for name in names)
