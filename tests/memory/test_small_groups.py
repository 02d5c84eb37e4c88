"""Large models in memory control groups far smaller than they are: no kill, the right answer, each byte read once."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.cgroups import ControlGroup, control_group, why_unavailable
from flexnn_ncnn import zoo
from tests.integration.cli import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(bool(why := why_unavailable()), reason=why),
]

MB = 10**6
ROOM_BYTES = 10 * MB

# Tells when it is idle, then computes as often as it is told to, and measures by itself.
CHILD = """
import json, os, resource, sys
from pathlib import Path
import ncnn, numpy

def read_bytes():
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))

param, cache, budget, page_cache, count = sys.argv[1:]
array = numpy.load(param.replace(".param", ".npy"))
value = ncnn.Mat(array).clone()
if budget == "stock":
    net = ncnn.Net()
else:
    import flexnn_ncnn
    net = flexnn_ncnn.Net(int(budget), cache_dir=cache, page_cache=page_cache)
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
net.opt.num_threads = 1
print("idle", flush=True)
sys.stdin.readline()
assert net.load_param(param) == 0
assert net.load_model(param.replace(".param", ".bin")) == 0
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt

best, read, fetched = set(), [read_bytes()], [faults()]
for _ in range(int(count)):
    with net.create_extractor() as ex:
        assert ex.input("in0", value) == 0
        code, out = ex.extract("out0")
        assert code == 0
        best.add(int(numpy.array(out).argmax()))
    del out
    read.append(read_bytes())
    fetched.append(faults())
streamed = 0 if budget == "stock" else net.plan.streamed_bytes
print(json.dumps({"best": sorted(best), "read": read, "faults": fetched, "streamed": streamed}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("groups")
    yield made
    shutil.rmtree(made)  # pytest would keep three of them


def built(name: str, folder: Path) -> Path:
    zoo.build(name, folder)
    (picture,) = zoo.sample_input(zoo.entry(name)).values()
    np.save(folder / f"{name}.npy", picture)
    return zoo.model_paths(name, folder)[0]


def run_in(
    group: ControlGroup, more_bytes: int | None, param: Path, budget: object, count: int, page_cache: str = "mmap"
) -> tuple[int, Any]:
    """Compute with so much memory beyond the idle process: the exit status, and what the child tells."""
    descriptor = os.open(param.with_suffix(".bin"), os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    command = [sys.executable, "-c", CHILD, *map(str, (param, param.parent / "cache", budget, page_cache, count))]
    with subprocess.Popen(
        command, cwd=ROOT, preexec_fn=group.enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "idle\n"
        if more_bytes is not None:
            group.limit_memory(group.memory_bytes + more_bytes)
        told, _ = child.communicate("go\n", timeout=900)
    return child.returncode, json.loads(told) if told else None


@pytest.mark.parametrize(("name", "budget_bytes"), [("vgg19", 60 * MB), ("resnet152", 35 * MB)])
def test_a_hundred_inferences_where_stock_ncnn_is_killed(name: str, budget_bytes: int, folder: Path) -> None:
    param = built(name, folder)
    with control_group("flexnn-planned") as group:  # as a device gets it from a larger machine
        assert run_in(group, None, param, budget_bytes, 1)[0] == 0
    with control_group("flexnn-small") as group:
        status, found = run_in(group, budget_bytes + ROOM_BYTES, param, budget_bytes, 100)
        assert (status, group.kills) == (0, 0)
    assert len(found["best"]) == 1
    each = [after - before for before, after in itertools.pairwise(found["read"][1:])]
    print(name, budget_bytes, "read at most", max(each), "of", found["streamed"])
    assert max(each) <= 1.02 * found["streamed"]
    with control_group("flexnn-stock") as group:
        status, _ = run_in(group, budget_bytes + ROOM_BYTES, param, "stock", 1)
        assert (status, group.kills > 0) == (-9, True)


@pytest.mark.parametrize("page_cache", ["mmap", "direct"])
def test_what_stays_is_never_pushed_out_by_what_is_streamed(page_cache: str, folder: Path) -> None:
    param = built("resnet152", folder)
    with control_group("flexnn-planned") as group:
        assert run_in(group, None, param, 100 * MB, 1, page_cache)[0] == 0
    with control_group("flexnn-small") as group:
        status, found = run_in(group, 100 * MB + ROOM_BYTES, param, 100 * MB, 20, page_cache)
        assert (status, group.kills) == (0, 0)
    each = [after - before for before, after in itertools.pairwise(found["read"][1:])]
    faults = [after - before for before, after in itertools.pairwise(found["faults"][1:])]
    print(page_cache, "read", min(each), "to", max(each), "of", found["streamed"], "faults", sum(faults))
    # what is read ahead at the end of an inference is the next one's
    assert 0.95 * found["streamed"] <= min(each) <= max(each) <= 1.05 * found["streamed"]
    assert 0.99 * found["streamed"] <= sum(each) / len(each) <= 1.01 * found["streamed"]
    assert sum(faults) <= len(faults)  # of code, which is in the page cache as well
