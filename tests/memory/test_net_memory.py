"""What `Net` costs: idle, within its budget, and after thousands of inferences."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.runtime.memory.process_memory import peak_is_exact
from tests.integration import tiny_models
from tests.integration.cli import ROOT
from tests.integration.tiny_models import layer, write

pytestmark = pytest.mark.skipif(not peak_is_exact(), reason="needs a kernel that resets VmHWM")

# Measures by itself, as a user would.
CHILD = """
import json, os, sys
from pathlib import Path

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))

def load():
    net = flexnn_ncnn.Net(budget, cache_dir=cache)
    net.opt.num_threads = 1
    assert net.load_param(param) == 0
    assert net.load_model(param.removesuffix(".param") + ".bin") == 0
    return net

def infer(net, value):
    with net.create_extractor() as ex:
        assert ex.input("in0", value) == 0
        code, out = ex.extract("out0")
        assert code == 0
        return out

param, cache, budget, shape = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
"""
IDLE = """
import ncnn, numpy
bare_bytes = status("VmRSS") * 1024
import flexnn_ncnn
net = load()
infer(net, numpy.zeros(shape, numpy.float32))
net.clear()
print(json.dumps({"added_bytes": status("VmRSS") * 1024 - bare_bytes, "modules": sorted(sys.modules)}))
"""
PEAK = """
import ncnn, numpy, flexnn_ncnn
flexnn_ncnn.Net("1MB").clear()
array = numpy.zeros(shape, numpy.float32)
value = ncnn.Mat(array).clone()
idle_bytes = status("VmRSS") * 1024
Path("/proc/self/clear_refs").write_text("5")
net = load()
for _ in range(3):
    infer(net, value)
vehicle = net.plan.vehicle
print(json.dumps({"peak_bytes": status("VmHWM") * 1024 - idle_bytes, "vehicle": vehicle}))
"""
LEAK = """
import numpy, flexnn_ncnn
def held():
    return status("VmRSS") * 1024, len(os.listdir("/proc/self/fd")), status("Threads")
net, value = load(), numpy.zeros(shape, numpy.float32)
counts = []
for count in json.loads(sys.argv[5]):
    for _ in range(count):
        infer(net, value)
    counts.append(held())
print(json.dumps(counts))
"""


def child(program: str, *args: object) -> Any:
    command = [sys.executable, "-c", CHILD + program, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("net")


@pytest.fixture(scope="module")
def streamed(folder: Path) -> Path:
    """A network that a small budget streams."""
    layers = [
        layer("Input", "data", "", "in0", p0=2000),
        layer("InnerProduct", "one", "in0", "1", p0=300, p1=1, p2=2000 * 300, p9=1),
        layer("InnerProduct", "two", "1", "2", p0=300, p1=1, p2=300 * 300, p9=1),
        layer("InnerProduct", "three", "2", "out0", p0=10, p1=1, p2=3000),
    ]
    return write(layers, folder / "streamed.param")


def test_what_is_idle_is_small(folder: Path) -> None:
    param = tiny_models.classifier(folder)
    arguments = param, folder / "cache", "2.4MB", [3, 32, 32]
    child(IDLE, *arguments)  # makes the plan
    found = child(IDLE, *arguments)
    heavy = ("networkx", "click", "rich", "tqdm", "PIL", "hashlib", "asyncio")
    ours = ("flexnn_ncnn.planning.planner", "flexnn_ncnn.profiling.profiler", "flexnn_ncnn.zoo")
    assert set(found["modules"]).isdisjoint({*heavy, *ours})
    assert found["added_bytes"] <= 10_000_000


@pytest.mark.parametrize("budget", ["8MB", "60MB"])
def test_a_budget_is_kept_mats_included(budget: str, folder: Path) -> None:
    zoo.build("squeezenet11", folder)
    param, _ = zoo.model_paths("squeezenet11", folder)
    arguments = param, folder / "cache", budget, [3, 224, 224]
    for _ in range(2):  # the first makes the plan
        found = child(PEAK, *arguments)
        assert found["peak_bytes"] <= int(budget.removesuffix("MB")) * 1_000_000
    assert found["vehicle"] == ("layers" if budget == "8MB" else "net")


def test_large_outputs_are_held_once(folder: Path) -> None:
    layers = [
        layer("Input", "data", "", "in0", p0=500, p1=500, p2=3),
        layer("Convolution", "conv", "in0", "1", p0=12, p1=1, p6=36),
        layer("PixelShuffle", "up", "1", "out0", p0=2),
    ]
    param = write(layers, folder / "large.param")
    # 3 MB in, 12 MB between and 12 MB out; a copy of what comes out would be 12 MB more
    for _ in range(2):
        assert child(PEAK, param, folder / "cache", "45MB", [3, 500, 500])["peak_bytes"] <= 45_000_000


def assert_nothing_leaks(streamed: Path, folder: Path, rounds: list[int]) -> None:
    before, after = child(LEAK, streamed, folder / "cache", "3.1MB", [2000], rounds)
    assert after[0] - before[0] <= 1_000_000  # the heap may once need another place for its hole
    assert after[1:] == before[1:]  # descriptors and threads


def test_five_hundred_inferences_leave_nothing(streamed: Path, folder: Path) -> None:
    assert_nothing_leaks(streamed, folder, [50, 450])


@pytest.mark.slow
def test_ten_thousand_inferences_leave_nothing(streamed: Path, folder: Path) -> None:
    assert_nothing_leaks(streamed, folder, [500, 10_000])
