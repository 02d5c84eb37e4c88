"""Budgets that hold little more than the widest layer's blobs: weights come a slice at a time, attention's too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.runtime.memory.process_memory import peak_is_exact
from tests.integration.cli import flexnn
from tests.integration.tiny_models import layer, write

pytestmark = pytest.mark.skipif(not peak_is_exact(), reason="needs a kernel that resets VmHWM")

SMALLEST = {
    "squeezenet11": "5MB",
    "mobilenetv2": "8MB",
    "resnet152": "14MB",
    "vgg19": "32MB",
    "vit_b16_mha": "12MB",
    "vit_b16_sdpa": "12MB",
    "gpt2_124m": "24MB",
}


def peak_and_difference(model: Path | str, budget: str, cache: Path, *shape: str) -> tuple[int, float]:
    done = flexnn("compare", model, "--budget", budget, "--rounds", 1, *shape, "--json", cache=cache)
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["flexnn"]["peak_bytes"] <= found["budget_bytes"]
    return found["flexnn"]["peak_bytes"], found["max_rel_diff"]


def test_attention_runs_in_less_than_its_weights(tmp_path: Path) -> None:
    width, tokens = 640, 50
    attention = {"p0": width, "p1": 8, "p2": width * width, "p6": 0.02}
    layers = [layer("Input", "data", "", "in0", p0=width, p1=tokens)]
    for i in range(3):  # softmax of large values would tell roundings apart
        layers.append(layer("LayerNorm", f"norm{i}", layers[-1].outputs[0], f"normed{i}", p0=width, p2=0))
        layers.append(layer("MultiHeadAttention", f"mha{i}", f"normed{i}", f"out{i}", **attention))
    param = write(layers, tmp_path / "attention.param")
    weights_bytes = 4 * width * width * 4
    peak_bytes, difference = peak_and_difference(param, "9MB", tmp_path, "--shape", f"in0={tokens}x{width}")
    assert peak_bytes < 9_000_000 < weights_bytes + 3_000_000
    assert difference <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_the_zoo_runs_in_what_was_asked_of_it(name: str, tmp_path: Path) -> None:
    zoo.build(name, tmp_path / "models")
    _, difference = peak_and_difference(name, SMALLEST[name], tmp_path)
    assert difference <= 1e-5
