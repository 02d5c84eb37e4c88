"""What of ncnn's options decides results."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from flexnn_ncnn.profiling.kernels import candidate_kernels
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import SWITCHES, RunOptions
from param_tools.graph import Layer


def test_switches_are_kept_in_one_order() -> None:
    one = RunOptions(off=("use_winograd_convolution", "use_sgemm_convolution"))
    other = RunOptions(off=("use_sgemm_convolution", "use_winograd_convolution", "use_sgemm_convolution"))
    assert one == other
    assert hash(one) == hash(other)
    assert RunOptions(off=SWITCHES).off == SWITCHES


def test_options_survive_json() -> None:
    options = RunOptions(num_threads=3, fp16=True, off=("use_fp16_arithmetic",))
    assert RunOptions(**json.loads(json.dumps(asdict(options)))) == options


def test_no_other_attribute_can_be_turned_off() -> None:
    with pytest.raises(ValueError, match="'__class__' is no option"):
        RunOptions(off=("__class__",))


@pytest.mark.parametrize(
    ("off", "expected"),
    [
        ((), ("default", "winograd23", "sgemm")),
        (("use_winograd_convolution",), ("default",)),
        (("use_winograd23_convolution",), ("default", "sgemm")),
        (("use_sgemm_convolution", "use_winograd63_convolution"), ("default", "winograd23")),
    ],
)
def test_kernels_that_are_turned_off_are_not_measured(off: tuple[str, ...], expected: tuple[str, ...]) -> None:
    convolution = Layer("Convolution", "c", ("a",), ("b",)).with_params({0: 16, 1: 3, 6: 16 * 16 * 9})
    small = BlobLayout(3, 16, 16, 1, 16, 4, 1)
    assert candidate_kernels(convolution, small, RunOptions(off=off)) == expected
