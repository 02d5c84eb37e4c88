"""Profiling within a bound holds no more than that beyond the idle process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.runtime.memory.process_memory import peak_is_exact
from tests.integration.cli import ROOT
from tests.integration.test_profiling_bound import LINES
from tests.property.slicing_stock import model_of, write_random

# It reads the peak by itself, before every time that profiling lets it start again.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np
import flexnn_ncnn.preparing.preparation_worker
from flexnn_ncnn.preparing.preparation import Request, open_part
from flexnn_ncnn.profiling.facts import ProfileLimits
from flexnn_ncnn.profiling.floor import least_bound
from flexnn_ncnn.profiling.profiler import profile_model
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime.memory import process_memory

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))

def noted():
    peaks.append(status("VmHWM"))
    return restart()

param, inputs, bound_bytes = Path(sys.argv[1]), {"in0": np.load(sys.argv[2])}, int(sys.argv[3])
restart, process_memory.reset_peak = process_memory.reset_peak, noted
idle_bytes = status("VmRSS")
restart()
peaks = []
with open_part(Request(param, param.with_suffix(".bin"), 0, RunOptions()), inputs) as model:
    least_bytes, _ = least_bound(model, inputs, RunOptions())
    bound_bytes = bound_bytes or least_bytes
    limits = ProfileLimits(bound_bytes=bound_bytes if bound_bytes > 0 else None, idle_bytes=idle_bytes)
    profile = profile_model(model, "model", None, inputs, RunOptions(), limits)
noted()
facts = {"peak": max(peaks) - idle_bytes, "told": profile.peak_bytes, "least": least_bytes, "of": profile.bound_bytes}
print(json.dumps(facts))
"""

pytestmark = pytest.mark.skipif(not peak_is_exact(), reason="needs a kernel that resets VmHWM")


def measured(param: Path, array: Path, bound_bytes: int) -> dict[str, int]:
    """What profiling held; a bound of 0 is the smallest that works, one below 0 none."""
    command = [sys.executable, "-c", CHILD, str(param), str(array), str(bound_bytes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_profiling_keeps_the_bounds_it_is_given(tmp_path: Path) -> None:
    param, array = tmp_path / "m.param", tmp_path / "in0.npy"
    write_random(model_of(LINES), param)
    np.save(array, np.random.default_rng(0).standard_normal((16, 128, 128)).astype(np.float32))
    tight = measured(param, array, 0)
    assert tight["of"] == tight["least"]
    assert tight["peak"] <= tight["least"]
    assert tight["told"] >= 0.95 * tight["peak"]
    between = measured(param, array, tight["least"] * 5 // 4)
    assert between["peak"] <= tight["least"] * 5 // 4
    free = measured(param, array, -1)
    assert free["of"] == 0
    assert free["peak"] > 1.3 * tight["least"], "the bound made a difference"
