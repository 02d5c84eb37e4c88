"""Memory while a budget changes and afterwards, measured in a process of its own."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.runtime.memory.process_memory import peak_is_exact
from tests.integration.cli import ROOT

# It measures by itself, as a user would: nothing of ours is asked what was held.
CHILD = """
import json, os, sys
from pathlib import Path
import flexnn_ncnn.sessions.session
from flexnn_ncnn import zoo
from flexnn_ncnn.zoo.registry import entry

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))

def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
param, cache, *budgets = sys.argv[1:]
inputs = zoo.sample_input(entry("squeezenet11"))
phases = []
idle_bytes = status("VmRSS")
forget_peak()
with flexnn_ncnn.sessions.session.open_session(param, budget=budgets[0], cache_dir=cache) as session:
    for budget in budgets:
        forget_peak()
        session.set_budget(budget)
        changing_bytes = status("VmHWM") - idle_bytes
        forget_peak()
        for _ in range(3):
            best = int(session.run(inputs)["out0"].argmax())
        phases.append({
            "budget": session.budget_bytes, "changing": changing_bytes, "running": status("VmHWM") - idle_bytes,
            "best": best, "streamed": session.plan.streamed_bytes,
        })
    session.close()
    closed_bytes = status("VmRSS") - idle_bytes
print(json.dumps({"phases": phases, "closed": closed_bytes}))
"""

pytestmark = pytest.mark.skipif(not peak_is_exact(), reason="needs a kernel that resets VmHWM")

BUDGETS = ("8MB", "13MB", "9MB", "13MB", "8MB", "40MB", "8MB")


def test_no_more_than_the_larger_budget_while_it_changes_and_than_the_new_one_afterwards(tmp_path: Path) -> None:
    zoo.build("squeezenet11", tmp_path)
    param, _ = zoo.model_paths("squeezenet11", tmp_path)
    command = [sys.executable, "-c", CHILD, str(param), str(tmp_path / "cache"), *BUDGETS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    phases = found["phases"]
    assert len({phase["best"] for phase in phases}) == 1
    assert [phase for phase in phases if phase["running"] > phase["budget"]] == []
    allowed = [max(a["budget"], b["budget"]) for a, b in itertools.pairwise(phases)]
    assert [phase for phase, most in zip(phases[1:], allowed, strict=True) if phase["changing"] > most] == []
    assert phases[0]["streamed"] > phases[5]["streamed"] == 0
    assert found["closed"] < 4_000_000
