"""The report and its figures, from results that nobody measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.cells import Cell, Effort, cells_of
from eval.report import points_of, write_report
from eval.results import Results

MACHINE = {
    "fingerprint": "f" * 16,
    "cpus": 2,
    "cores": ["A|core"],
    "architecture": "x86_64",
    "system": "Linux",
    "ncnn_version": "1.0",
}
MB = 1_000_000
STEP = {"step": "profile", "wall_seconds": 2.5, "cpu_seconds": 1.25, "read_bytes": 3 * MB, "left_bytes": 4 * MB}
STEP |= {"joules": None}
LIMIT = {"survived_bytes": 60 * MB, "failed_bytes": 55 * MB, "latency_ms": 123.0, "read_bytes": 77 * MB}


def made_up(cell: Cell, busy: bool = False) -> Mapping[str, Any]:
    """Memory is the budget, or 100 MB times the contestant's place; latency falls with it."""
    machine = {"load_average": 0.5, "others_running": 0.0, "cpus": 2, "busy": busy}
    if cell.experiment == "overhead":
        return {"found": {"model_bytes": 7 * MB, "steps": [STEP, {**STEP, "joules": None}, {**STEP, "joules": 12.34}]}}
    if cell.experiment == "adaptive":
        return {"found": adaptation(cell, machine)}
    measured = []
    for place, config in enumerate(cell.configs, start=1):
        peak_bytes = (cell.budget_bytes or 0) if config.startswith("flexnn") else 100 * MB * place
        latency = 100.0 if config == "stock" else 50.0 + 20_000 * MB / peak_bytes
        measured.append(
            {
                "config": config,
                "note": "",
                "latency_ms_min": latency * 0.9,
                "latency_ms_median": latency,
                "latency_ms_max": latency * 1.2,
                "load_ms": 800.0,
                "cold_ms": 3 * latency,
                "peak_bytes": peak_bytes,
                "group_peak_bytes": peak_bytes + 9 * MB,
                "cold_read_bytes": 11 * MB,
                "warm_read_bytes": 0,
                "difference": 1e-6,
                "limit": LIMIT if config != "ondemand" else None,
            }
        )
    missing = {"ort": "onnxruntime is not installed"} if cell.experiment == "peers" else {}
    measured = [one for one in measured if one["config"] not in missing]
    return {"found": {"measured": measured, "failed": {}, "missing": missing, "machine": machine, "root": ""}}


def adaptation(cell: Cell, machine: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ten inferences within each budget, the second budget exceeded."""
    switch = {"planning_ms": 900.0, "inferences_meanwhile": 3, "stopped_ms": 45.6, "first_latency_ms": 70.0}
    switch |= {"delayed_ms": 12.0, "longest_delay_ms": 7.5}
    switch |= {"peak_bytes": 6 * MB, "weights_kept_bytes": MB, "weights_loaded_bytes": 2 * MB, "lost_ms": 50.0}
    phases = [
        {
            "budget_bytes": budget,
            "inferences": 10,
            "latency_ms_median": 50.0,
            "latency_ms_min": 40.0,
            "peak_bytes": budget + (MB if number == 1 else -MB),
            "weights_streamed_bytes": 3 * MB,
            "weights_resident_bytes": 2 * MB,
            "switch": switch if number else None,
        }
        for number, budget in enumerate(cell.sequence_bytes)
    ]
    samples = [
        {"seconds": i * 0.06, "latency_ms": 50.0, "budget_bytes": budget, "held_bytes": budget - MB}
        for i, budget in enumerate(budget for budget in cell.sequence_bytes for _ in range(10))
    ]
    found = {"model": cell.model, "threads": 1, "phases": phases, "peak_exact": True}
    return {**found, "machine": machine, "samples": samples}


def filled(folder: Path, cells: list[Cell], *, busy: bool = False) -> Results:
    results = Results(folder, MACHINE)
    for cell in cells:
        results.append(cell, {"status": "measured", **made_up(cell, busy)})
    return results


def test_all_tables_and_figures(tmp_path: Path) -> None:
    models = ["vgg19", "realesrgan-x4plus", "vit_b16_mha"]
    cells = [cell for model in models for cell in cells_of("end-to-end", [model], [], Effort())]
    cells += cells_of("ablation", [], [], Effort()) + cells_of("overhead", ["vgg19"], [], Effort())
    cells += cells_of("adaptive", ["vgg19"], [], Effort()) + cells_of("peers", ["resnet152"], [], Effort())
    text = write_report(filled(tmp_path, cells), tmp_path).read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert shown == [
        *(f"end-to-end-{model}.png" for model in models),
        *(f"ablation-{model}-{budget * MB}.png" for model in ("vgg19", "resnet152") for budget in (100, 500)),
        "overhead.png",
        "adaptive-vgg19.png",
        "peers-resnet152.png",
    ]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == len(shown)
    assert page.count("<table>") == len(re.findall(r"^\| ---", text, re.MULTILINE))
    for name in shown:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 250
            assert np.asarray(picture.convert("L")).std() > 10
    row = "| flexnn | 200 | 200 | 209 | 800 | 450 | 150 [135, 180] | 1.50 | 11 | 0 | 1.0e-06 |"
    assert row.replace("[", r"\[").replace("]", r"\]") in text
    assert "| ort |  | onnxruntime is not installed |" in text
    assert "| flexnn | 60 | 55 | 123 | 77 |" in text
    assert "| 300 | 10 | 50 | 301 (exceeded) | 2 | 3 | 45.6 | 7.5 | 900 |" in text
    assert "| profile | 2.50 | 1.25 | 3 | 4 |  |" in text
    assert "| profile | 2.50 | 1.25 | 3 | 4 | 12.3 |" in text
    assert "The model's files have 7 MB." in text
    assert "224x224" in text.partition("### vit")[2]
    assert "A\\|core" in text
    table = [line for line in text.splitlines() if line.startswith("| flexnn-no-preload")]
    assert len(table) == 4


def test_a_busy_machine_is_told_in_every_row(tmp_path: Path) -> None:
    cells = cells_of("ablation", ["squeezenet"], [5 * MB], Effort())
    text = write_report(filled(tmp_path, cells, busy=True), tmp_path).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| (flexnn|stock|ondemand)", line)]
    assert len(rows) == 8
    assert all("(busy)" in row for row in rows)
    assert "busy with other things in 1 of 1 measurements" in text


def test_what_could_not_be_measured_is_told_with_its_reason(tmp_path: Path) -> None:
    cells = cells_of("end-to-end", ["tiny.param"], [MB], Effort()) + cells_of(
        "overhead", ["tiny.param"], [MB], Effort()
    )
    results = Results(tmp_path, MACHINE)
    for cell in cells:
        results.append(cell, {"status": "refused", "message": "1 MB | too little", "exit_status": 3})
    text = write_report(results, tmp_path).read_text(encoding="utf-8")
    assert "| stock+flexnn | 1 | refused: 1 MB \\| too little |" in text
    assert "\n\nrefused: 1 MB \\| too little" in text
    assert "](end" not in text
    assert list(tmp_path.glob("*.png")) == []


def test_nothing_measured_is_a_report_too(tmp_path: Path) -> None:
    text = write_report(Results(tmp_path, MACHINE), tmp_path).read_text(encoding="utf-8")
    assert "##" not in text.replace("# FlexNN", "", 1)


@pytest.mark.parametrize("loops", [(3, 10), (10, 3)])
def test_of_two_efforts_the_greater_counts(loops: tuple[int, int], tmp_path: Path) -> None:
    cells = [cell for one in loops for cell in cells_of("ablation", ["vgg19"], [100 * MB], Effort(loops=one))]
    (line,) = filled(tmp_path, cells).latest("ablation")
    assert line["cell"]["loops"] == 10


def test_only_this_package_has_budgets(tmp_path: Path) -> None:
    cells = cells_of("end-to-end", ["tiny.param"], [5 * MB], Effort())
    points = points_of(filled(tmp_path, cells).latest("end-to-end"))
    assert {point.config: point.budget_bytes for point in points} == {
        "shipped": None,
        "stock": None,
        "stock-no-winograd": None,
        "stock-direct": None,
        "ondemand": None,
        "flexnn": 5 * MB,
    }
