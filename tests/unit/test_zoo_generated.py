from __future__ import annotations

import io

import numpy as np

from flexnn_ncnn.zoo.entry import GeneratedSource
from flexnn_ncnn.zoo.generated import MASKED, array_recipes, values, write_generated
from flexnn_ncnn.zoo.noise import noise
from param_tools.graph import Layer, Model, ParamValue


def layer(kind: str, name: str, **params: int) -> Layer:
    numbered = {int(key[1:]): ParamValue(value) for key, value in params.items()}
    return Layer(kind, name, (), (f"{name}_out",), numbered)


MODEL = Model(
    (
        layer("MemoryData", "mask", p0=3, p1=3, p2=1),
        layer("LayerNorm", "norm", p0=8),
        layer("InnerProduct", "fc", p0=2, p1=1, p2=16),
    )
)
SOURCE = GeneratedSource(seed=5, exponents=(0, -4, -3, 1, -2), causal_masks=("mask",))


def test_bin_is_tags_and_arrays_in_order() -> None:
    sink = io.BytesIO()
    write_generated(MODEL, SOURCE, sink)
    mask = np.array([[0, MASKED, MASKED], [0, 0, MASKED], [0, 0, 0]], dtype="<f4")
    gamma = np.float32(1) + noise(5, 1, 8, -4)
    expected = [
        mask.tobytes(),
        gamma.astype("<f4").tobytes(),
        noise(5, 2, 8, -3).tobytes(),
        bytes(4) + noise(5, 3, 16, 1).tobytes(),
        noise(5, 4, 2, -2).tobytes(),
    ]
    assert sink.getvalue() == b"".join(expected)


def test_gamma_is_around_one() -> None:
    gamma = array_recipes(MODEL)[1]
    assert gamma.name == "gamma"
    (chunk,) = values(gamma, 5, -4)
    assert abs(chunk.mean() - 1) < 0.1
    assert chunk.std() > 0.01


def test_memory_data_that_is_no_mask_is_noise() -> None:
    recipe = array_recipes(MODEL)[0]
    (chunk,) = values(recipe, 5, -2)
    np.testing.assert_array_equal(chunk, noise(5, 0, 9, -2))
