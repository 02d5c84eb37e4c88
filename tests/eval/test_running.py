"""`python -m eval` with real ncnn and a tiny model, killed half-way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration import tiny_models

ROOT = Path(__file__).resolve().parents[2]


# as `python -m eval`, in which the power fails when the third measurement is to begin
KILLED_AFTER_TWO = """
import os, signal, sys
from eval import __main__, measuring

count, measure = 0, measuring.measure

def measure_or_die(cell):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return measure(cell)

measuring.measure = measure_or_die
sys.exit(__main__.main(sys.argv[1:]))
"""


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return spawn(folder, "-m", "eval", *arguments)


def spawn(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLEXNN_CACHE_DIR": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, complaints = process.communicate(timeout=300)
    return process.returncode, complaints


def lines(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def test_killed_half_way_it_goes_on_where_it_was(tmp_path: Path) -> None:
    param, out = tiny_models.classifier(tmp_path), tmp_path / "out"
    arguments = ("end-to-end", "--models", param, "--budgets", "1kB,5MB", "--quick", "--out", out)
    killed = finish(spawn(tmp_path, "-c", KILLED_AFTER_TWO, *arguments))
    assert killed[0] == -signal.SIGKILL, killed[1]
    before = (out / "results.jsonl").read_text(encoding="utf-8")
    assert len(lines(out)) == 2
    assert not (out / "report.md").exists()
    status, complaints = finish(start(tmp_path, *arguments))
    assert status == 0, complaints
    assert (out / "results.jsonl").read_text(encoding="utf-8").startswith(before)
    reference, refused, within = lines(out)
    shares = {one["config"]: one for one in reference["found"]["measured"]}
    assert list(shares) == ["stock", "shipped", "stock-no-winograd", "stock-direct", "ondemand"]
    assert all(len(one["latencies_ms"]) == 4 for one in shares.values())
    assert shares["stock"]["difference"] == 0
    assert shares["ondemand"]["difference"] < 1e-5 < shares["shipped"]["difference"] < 0.1
    assert refused["status"] == "refused"
    assert "a budget of 1.0 kB cannot work" in refused["message"]
    assert [one["config"] for one in within["found"]["measured"]] == ["stock", "flexnn"]
    assert within["found"]["measured"][1]["peak_bytes"] <= 5_000_000
    assert within["found"]["machine"]["cpus"] >= 1
    assert json.loads((out / "machine.json").read_text())["fingerprint"] == within["machine"]
    assert "a budget of 1.0 kB cannot work" in (out / "report.md").read_text(encoding="utf-8")
    assert (out / "end-to-end-classifier.png").stat().st_size > 10_000


def test_overhead_in_an_empty_cache(tmp_path: Path) -> None:
    param, out = tiny_models.classifier(tmp_path), tmp_path / "out"
    status, complaints = finish(
        start(tmp_path, "overhead", "--models", param, "--budgets", "5MB", "--out", out, "--quiet")
    )
    assert (status, complaints) == (0, "")
    (line,) = lines(out)
    steps = {step["step"]: step for step in line["found"]["steps"]}
    assert list(steps) == ["start", "profile", "plan", "first run", "later run", "slice"]
    assert line["found"]["model_bytes"] == param.stat().st_size + param.with_suffix(".bin").stat().st_size
    assert steps["start"]["left_bytes"] == steps["later run"]["left_bytes"] == 0
    assert steps["profile"]["left_bytes"] > 0
    assert steps["slice"]["left_bytes"] >= line["found"]["model_bytes"]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (
            ("end-to-end", "--models", "nowhere.param", "--budgets", "5MB", "--quick"),
            1,
            "2 of 2 measurements failed",
        ),
        (("end-to-end", "--models", "nowhere.param"), 2, "give --budgets"),
        (("report", "--out", "/dev/null/out"), 1, "/dev/null/out"),
        (("ablation", "--budgets", "much"), 2, "--budgets"),
        (("everything",), 2, "end-to-end"),
    ],
)
def test_what_cannot_work_is_said(arguments: tuple[str, ...], status: int, complaint: str, tmp_path: Path) -> None:
    found, complaints = finish(start(tmp_path, arguments[0], "--out", tmp_path / "out", *arguments[1:]))
    assert found == status
    assert complaint in complaints
    if status == 1:
        assert all(
            line["status"] == "failed" and "nowhere.param" in line["message"] for line in lines(tmp_path / "out")
        )
