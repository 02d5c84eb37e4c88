"""Opening a model costs neither its size nor the largest array, and what was read can be given back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from param_tools.model_io import read_param
from param_tools.schema import array_specs

CHILD = """
import json, sys
from pathlib import Path
from param_tools.model_io import open_model

def field(name):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(name)))

idle = field("VmRSS")
with open_model(sys.argv[1]) as model:
    weights = model.weights
    arrays = [array for layer in weights.arrays for array in layer]
    opened = field("VmHWM") - idle
    total = sum(float(weights.view(array).flat[0]) for array in arrays)
    touched = field("VmRSS") - idle
    largest = max(arrays, key=lambda array: array.stored_bytes)
    total += float(weights.view(largest).sum())
    read = field("VmRSS") - idle
    weights.release_pages()
    released = field("VmRSS") - idle
grown = {"opened": opened, "touched": touched, "read": read, "released": released}
print(json.dumps(grown | {"largest": largest.stored_bytes}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_opening_600_megabytes_takes_little_memory(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "models" / "gpt2_124m.param"
    model = read_param(source)
    (tmp_path / "m.param").write_bytes(source.read_bytes())
    with open(tmp_path / "m.bin", "wb") as file:  # a hole: all weights are zero
        file.truncate(sum(4 * spec.tagged + 4 * spec.count for layer in model.layers for spec in array_specs(layer)))
    command = [sys.executable, "-c", CHILD, str(tmp_path / "m.param")]
    child = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    grown = json.loads(child.stdout)
    assert grown["opened"] < 4_000_000
    assert grown["touched"] < 16_000_000  # the kernel maps pages around those that are touched
    assert grown["read"] > grown["largest"] > 150_000_000, "the mapping counts while it is resident"
    assert grown["released"] < 16_000_000
