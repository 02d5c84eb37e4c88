"""The command on a system that lacks what is only sometimes there: glibc's switches, /proc/PID/clear_refs, affinity,
advice to the kernel, reads past the page cache, control groups and pressure. Every process of it is started bare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.errors import BudgetError, ProfileError
from flexnn_ncnn.planning.planner import workload
from flexnn_ncnn.preparing import preparation_worker
from flexnn_ncnn.preparing.trials import Trials
from flexnn_ncnn.profiling.profiler import profile_model
from flexnn_ncnn.records.machine import this_machine
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime.memory import process_memory
from param_tools.model_io import open_model
from tests.integration.cli import ROOT
from tests.integration.tiny_models import classifier

BUDGET_BYTES = 9_000_000
# Python imports a module of this name at every start.
SITE = """
import builtins, ctypes, io, mmap, os

for name in ("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "O_DIRECT", "RWF_NOWAIT", "preadv"):
    if name in MISSING:
        delattr(os, name)
for name in [name for name in dir(mmap) if name.startswith(("MADV_", "MAP_POPULATE"))]:
    delattr(mmap, name)

def no_library(name=None, *rest, **options):
    raise OSError("no C library that is known")

ctypes.PyDLL = ctypes.CDLL = no_library
plain_open = io.open

def hiding(path, *rest, **options):
    if str(path).startswith(("/proc/self/clear_refs", "/proc/pressure", "/proc/self/cgroup", "/sys/")):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return plain_open(path, *rest, **options)

builtins.open = io.open = hiding
"""
MISSING = ("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "O_DIRECT", "RWF_NOWAIT")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bare")
    (made / "site").mkdir()
    (made / "site" / "sitecustomize.py").write_text(f"MISSING = {MISSING!r}\n{SITE}")
    zoo.build("squeezenet11", made / "cache" / "models")
    return made


def bare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(folder / "site"), str(ROOT))),
        "FLEXNN_CACHE_DIR": str(folder / "cache"),
        # as musl's malloc does: what is large is mapped alone and goes back at once
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
    }
    command = [sys.executable, "-m", "flexnn_ncnn", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_a_model_runs_within_its_budget_with_stocks_answer(folder: Path) -> None:
    done = bare(folder, "compare", "squeezenet11", "--budget", f"{BUDGET_BYTES}", "--rounds", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["peak_exact"]
    assert found["flexnn"]["peak_bytes"] <= BUDGET_BYTES < found["stock"]["peak_bytes"]
    assert found["flexnn"]["weights_streamed_bytes"] > 0
    assert found["max_rel_diff"] < 1e-4


def test_the_doctor_says_what_is_missing(folder: Path) -> None:
    done = bare(folder, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    works = {part["name"]: part["works"] for part in json.loads(done.stdout)["parts"]}
    assert works["models within a budget"]
    assert works["peaks of memory"]
    assert not works["freed memory used again"]


def test_a_system_that_tells_no_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    param = classifier(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((3, 32, 32), np.float32))
    message = {
        "param": param,
        "bin": param.with_suffix(".bin"),
        "budget_bytes": BUDGET_BYTES,
        "options": asdict(RunOptions()),
        "inputs": {"in0": tmp_path / "x.npy"},
        "folder": tmp_path / "cache",
    }
    monkeypatch.setattr(process_memory, "peak_can_restart", lambda: False)
    with pytest.raises(ProfileError, match="does not tell how much memory"):
        preparation_worker._prepare(message, lambda *_: None)


def test_where_no_peak_can_be_trusted_a_plan_keeps_room_and_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    param = classifier(tmp_path)
    inputs = {"in0": np.zeros((3, 32, 32), np.float32)}
    monkeypatch.setattr(process_memory, "is_emulated", lambda: True)
    monkeypatch.setattr("flexnn_ncnn.preparing.trials.Worker", None)
    assert not process_memory.peak_is_exact()
    with open_model(param, param.with_suffix(".bin")) as model:
        work = workload(profile_model(model, "model", this_machine("1.0"), inputs, RunOptions()))
        trials = Trials(model, work, inputs, None, tmp_path)
        for budget_bytes in (3_500_000, 50_000_000):
            plan = trials.plan(budget_bytes, 2_500_000)
            assert plan.budget_bytes == budget_bytes
            assert plan.predicted_peak_bytes <= budget_bytes - 400_000
        with pytest.raises(BudgetError) as caught:
            trials.plan(1_000_000, 2_500_000)
        assert trials.plan(caught.value.smallest_bytes, 2_500_000).predicted_peak_bytes > 0
