"""The contract: inference holds no more than its budget beyond the idle process, the first one included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory.process_memory import peak_is_exact
from tests.integration.cli import ROOT, flexnn

# It measures by itself, as a user would: nothing of ours is asked what was held.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np
import flexnn_ncnn.sessions.session
from flexnn_ncnn import zoo
from flexnn_ncnn.zoo.registry import entry

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))

param, cache, budget_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
inputs = zoo.sample_input(entry("squeezenet11"))
idle_bytes = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
with flexnn_ncnn.sessions.session.open_session(param, budget=budget_bytes, cache_dir=cache) as session:
    for _ in range(3):
        outputs = session.run(inputs)
    peak_bytes = status("VmHWM") - idle_bytes
    facts = {"peak_bytes": peak_bytes, "streamed_bytes": session.trace.streamed_bytes}
print(json.dumps({**facts, "best": int(outputs["out0"].argmax())}))
"""

pytestmark = [pytest.mark.patched, pytest.mark.skipif(not peak_is_exact(), reason="needs a kernel that resets VmHWM")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("budget")
    zoo.build("squeezenet11", made)
    return made


def measured(folder: Path, budget_bytes: int) -> dict[str, int]:
    param, _ = zoo.model_paths("squeezenet11", folder)
    command = [sys.executable, "-c", CHILD, str(param), str(folder / "cache"), str(budget_bytes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_squeezenet_keeps_budgets_from_8_mb_to_more_than_it_needs(folder: Path) -> None:
    found = {budget_bytes: measured(folder, budget_bytes) for budget_bytes in (8_000_000, 12_000_000, 40_000_000)}
    assert {budget: facts["peak_bytes"] for budget, facts in found.items() if facts["peak_bytes"] > budget} == {}
    assert len({facts["best"] for facts in found.values()}) == 1
    streamed = [facts["streamed_bytes"] for facts in found.values()]
    assert streamed[0] > 3_000_000  # of 4.9 MB
    if not native.capabilities().saves_transformed_weights:  # what is transformed is larger, and faster
        assert streamed == sorted(streamed, reverse=True)
    assert streamed[-1] == 0


def test_a_plan_from_the_cache_keeps_the_budget_too(folder: Path) -> None:
    measured(folder, 9_000_000)
    assert measured(folder, 9_000_000)["peak_bytes"] <= 9_000_000


def test_compare_agrees_and_stock_needs_more(folder: Path) -> None:
    param, _ = zoo.model_paths("squeezenet11", folder)
    arguments = ("--budget", "8MB", "--rounds", 2, "--shape", "in0=3x224x224", "--json")
    done = flexnn("compare", param, *arguments, cache=folder / "cache")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["flexnn"]["peak_bytes"] <= 8_000_000 < found["stock"]["peak_bytes"]
    assert found["top1_equal"]


def test_the_smallest_budget_that_a_refusal_names_works(folder: Path) -> None:
    param, _ = zoo.model_paths("squeezenet11", folder)
    shape = ("--shape", "in0=3x224x224")
    refused = flexnn("run", param, "--budget", "2MB", *shape, cache=folder / "cache")
    assert refused.status == 3
    smallest = refused.err.split("; give ")[1].split(" or more")[0]
    done = flexnn("compare", param, "--budget", smallest, "--rounds", 1, *shape, cache=folder / "cache")
    assert done.status == 0, done.err


def test_run_reports_a_peak_within_the_budget_when_it_plans_and_when_it_does_not(folder: Path, tmp_path: Path) -> None:
    param, _ = zoo.model_paths("squeezenet11", folder)
    arguments = ("--budget", "8MB", "--image", ROOT / "models" / "chelsea.png", "--shape", "in0=3x224x224", "--json")
    for _ in ("planned", "cached"):
        done = flexnn("run", param, *arguments, cache=tmp_path)
        assert done.status == 0, done.err
        assert json.loads(done.out)["peak_bytes"] <= 8_000_000
