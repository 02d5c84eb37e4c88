"""Slicing and converting must not need the memory the model is too large for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from param_tools.model_io import open_model
from param_tools.schema import array_specs
from tests.property.slicing_stock import model_of

CHILD = """
import sys
from pathlib import Path
from param_tools.convert import convert_weights
from param_tools.encoding import Encoding
from param_tools.model_io import open_model
from param_tools.slicing.policy import WeightLimits
from param_tools.slicing.slicer import slice_model

def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))

what, path, out = sys.argv[1:]
before_bytes = peak_bytes()
with open_model(path) as original:
    if what == "slice":
        slice_model(original, out, WeightLimits(fc_bytes=2_000_000))
    else:
        convert_weights(original, out, Encoding.FP16)
print(peak_bytes() - before_bytes)
"""


def write_large(path: Path, words: int, inputs: int) -> int:
    """A model of an Embed and an InnerProduct whose .bin is a hole: all its weights are zero."""
    model = model_of(
        [
            "Input ids 0 1 ids 0=4",
            f"Embed e 1 1 ids x 0=768 1={words} 3={768 * words}",
            "Input y 0 1 y 0=4",
            f"InnerProduct f 1 1 y z 0=4096 1=1 2={4096 * inputs}",
        ]
    )
    size_bytes = sum(4 * spec.count + 4 * spec.tagged for layer in model.layers for spec in array_specs(layer))
    path.write_text("\n".join(["7767517", "4 4", *(layer.raw for layer in model.layers)]) + "\n")
    with path.with_suffix(".bin").open("wb") as file:
        file.truncate(size_bytes)
    return size_bytes


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("what", ["slice", "convert"])
@pytest.mark.parametrize(
    ("words", "inputs", "megabytes"), [(8_000, 4_000, 90), pytest.param(60_000, 25_088, 595, marks=pytest.mark.slow)]
)
def test_rewriting_takes_little_memory(what: str, words: int, inputs: int, megabytes: int, tmp_path: Path) -> None:
    size_bytes = write_large(tmp_path / "large.param", words, inputs)
    assert size_bytes > megabytes * 1_000_000
    command = [sys.executable, "-c", CHILD, what, str(tmp_path / "large.param"), str(tmp_path / "out.param")]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    with open_model(tmp_path / "out.param") as done:
        assert len(done.model.layers) > 4 or what == "convert"
    assert int(child.stdout) < 40_000_000
    (tmp_path / "out.bin").unlink()
