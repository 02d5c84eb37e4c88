from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from flexnn_ncnn.cli.main import main
from flexnn_ncnn.inspection import Inspection, inspect_model
from flexnn_ncnn.reporters.text import write_inspection
from param_tools.model_io import open_model

FP32_TAG, FP16_TAG = (0).to_bytes(4, "little"), 0x01306B47.to_bytes(4, "little")

GRAPH = """7767517
6 6
Input        in0   0 1 in0 0=8 1=8 2=3
Convolution  c\x1b1   1 1 in0 1 0=6 1=1 5=1 6=18
Convolution  c1    1 1 1 2 0=4 1=1 6=24
InnerProduct fc    1 1 2 3 0=10 1=1 2=2560
MyLayer      mine  1 1 3 4
ReLU         relu  1 1 4 out0
"""
WEIGHTS = {
    "conv1": FP32_TAG + bytes(18 * 4) + bytes(6 * 4),
    "conv2": FP16_TAG + bytes(24 * 2),
    "fc": FP16_TAG + bytes(2560 * 2) + bytes(10 * 4),
}


@pytest.fixture
def param_path(tmp_path: Path) -> Path:
    path = tmp_path / "m.param"
    path.write_text(GRAPH)
    return path


@pytest.fixture
def whole(param_path: Path) -> Path:
    param_path.with_suffix(".bin").write_bytes(b"".join(WEIGHTS.values()))
    return param_path


def inspected(param_path: Path, **shapes: tuple[int, ...]) -> Inspection:
    with open_model(param_path, missing_bin_ok=True) as opened:
        return inspect_model(opened, shapes)


def test_weights_are_counted_as_they_lie_in_the_file(whole: Path) -> None:
    found = inspected(whole)
    assert found.bin_found
    assert [layer.weights_bytes for layer in found.layers] == [0, *map(len, WEIGHTS.values()), 0, 0]
    assert found.weights_bytes == whole.with_suffix(".bin").stat().st_size
    assert found.parameters == 18 + 6 + 24 + 2560 + 10
    assert [layer.encodings for layer in found.weighted] == [("fp32",), ("fp16",), ("fp16", "fp32")]
    assert [(one.encoding, one.arrays, one.weights_bytes) for one in found.encodings] == [
        ("fp16", 2, 4 + 24 * 2 + 4 + 2560 * 2),
        ("fp32", 3, 4 + 18 * 4 + 6 * 4 + 10 * 4),
    ]


def test_without_a_bin_the_sizes_are_those_of_fp32(param_path: Path) -> None:
    found = inspected(param_path)
    assert not found.bin_found
    assert found.parameters == 2618
    assert found.weights_bytes == 4 * 2618
    assert found.encodings == ()


def test_types_are_summed_and_the_largest_come_first(whole: Path) -> None:
    found = inspected(whole)
    assert [(one.type, one.known, one.layers, one.parameters) for one in found.types] == [
        ("InnerProduct", True, 1, 2570),
        ("Convolution", True, 2, 48),
        ("Input", True, 1, 0),
        ("MyLayer", False, 1, 0),
        ("ReLU", True, 1, 0),
    ]
    assert [layer.index for layer in found.largest(2)] == [3, 1]
    assert len(found.largest(100)) == 3


def test_what_can_be_sliced_says_how_and_how_far(whole: Path) -> None:
    slices = {layer.index: [(one.name, one.units) for one in layer.slices] for layer in inspected(whole).layers}
    assert slices[1] == [("outputs", 6)]
    assert slices[3] == [("outputs", 10)]
    assert slices[4] == slices[5] == []


def test_shapes_are_known_as_far_as_they_can_be(whole: Path) -> None:
    found = inspected(whole)
    assert [(one.name, one.shape) for one in found.inputs] == [("in0", (3, 8, 8))]
    shapes = [layer.outputs[0].shape for layer in found.layers]
    assert shapes == [(3, 8, 8), (6, 8, 8), (4, 8, 8), (10,), None, None]
    assert "'mine' (MyLayer)" in found.layers[4].outputs[0].unknown
    assert [(one.name, one.shape) for one in found.outputs] == [("out0", None)]


def test_a_shape_the_param_does_not_tell_can_be_given(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole.write_text(GRAPH.replace(" 0=8 1=8 2=3", ""))
    assert "inputs      in0 (shape unknown)" in text_of(inspected(whole), top=0)
    assert "'in0' on: " in text_of(inspected(whole), top=0)
    assert "(--shape in0=CxHxW)" in text_of(inspected(whole), top=0)
    assert inspected(whole, in0=(3, 8, 8)).layers[3].outputs[0].shape == (10,)
    assert main(["inspect", str(whole), "--shape", "in0=3x8x8"]) == 0
    assert "inputs      in0 3x8x8" in capsys.readouterr().out
    assert main(["inspect", str(whole), "--shape", "data=3x8x8"]) == 1
    assert "no blob 'data'" in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["3x8x8", "in0=", "in0=3x", "in0=0x8", "in0=3x-8", "in0=1x1x1x1x1", "in0=axb", "=3"])
def test_a_malformed_shape_is_a_usage_error(shape: str, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(whole), "--shape", shape]) == 2
    assert "is not BLOB=CxHxW" in capsys.readouterr().err


def text_of(found: Inspection, top: int) -> str:
    stream = io.StringIO()
    write_inspection(found, stream, top=top)
    return stream.getvalue()


def test_the_text_names_what_matters(whole: Path) -> None:
    text = text_of(inspected(whole), top=1)
    assert "6, 3 with weights, 3 of these can be sliced" in text
    assert "layer types that ncnn does not have: MyLayer" in text
    assert "Largest 1 of 3 layers with weights" in text
    assert "outputs (10)" in text
    assert "shapes from blob '4' on: " in text
    assert "c1 " not in text
    assert "\x1b" not in text_of(inspected(whole), top=10)
    assert "Largest" not in text_of(inspected(whole), top=0)


def test_the_text_says_that_the_bin_is_missing(param_path: Path) -> None:
    assert f"no {param_path.with_suffix('.bin')}; 10.5 kB as fp32" in text_of(inspected(param_path), top=1)


def test_the_command_prints_text_or_the_whole_record(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(whole), "--top", "2"]) == 0
    assert "Largest 2 of 3" in capsys.readouterr().out
    assert main(["inspect", str(whole), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["weights_bytes"] == sum(map(len, WEIGHTS.values()))
    assert len(record["layers"]) == 6
    assert record["layers"][3]["slices"][0]["name"] == "outputs"


@pytest.mark.parametrize(
    ("suffix", "content", "complaint"),
    [
        (".param", b"7767518\n", "m.param:1: not an ncnn .param"),
        (".param", bytes(range(256)) * 9, "m.param:1: "),
        (".param", GRAPH.replace("1 1 2 3", "1 1 x 3").encode(), "m.param:6: layer 'fc' reads blob 'x'"),
        (".bin", WEIGHTS["conv1"], "m.bin at byte 100: ends inside 'weight'"),
    ],
)
def test_bad_files_end_in_one_sentence(
    whole: Path, suffix: str, content: bytes, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole.with_suffix(suffix).write_bytes(content)
    assert main(["inspect", str(whole)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("flexnn: error: ")
    assert complaint in err


def test_a_missing_param_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "m.param")]) == 1
    assert "m.param: cannot be read: No such file or directory" in capsys.readouterr().err


def test_a_named_bin_must_be_there(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(whole), "--bin", "none.bin"]) == 1
    assert "none.bin: the weights are missing" in capsys.readouterr().err


def test_a_sliced_model_says_what_it_was_sliced_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, cut = tmp_path / "m.param", tmp_path / "cut.param"
    whole.write_text("7767517\n2 2\nInput in0 0 1 in0 0=16\nInnerProduct fc 1 1 in0 out0 0=64 2=1024\n")
    whole.with_suffix(".bin").write_bytes(FP32_TAG + bytes(1024 * 4))
    assert main(["slice", str(whole), "-o", str(cut), "--max-fc", "1kB"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(cut)]) == 0
    text = capsys.readouterr().out
    assert f"Sliced from {whole.name}: 1 of its layers, the largest 1:" in text
    assert main(["inspect", str(cut), "--json"]) == 0
    (layer,) = json.loads(capsys.readouterr().out)["sliced"]["layers"]
    assert (layer["name"], layer["axis"]) == ("fc", "outputs")
    assert len(layer["slices"]) > 1


def test_a_damaged_manifest_is_an_error(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole.with_suffix(".slices.json").write_text("{")
    assert main(["inspect", str(whole)]) == 1
    assert ".slices.json" in capsys.readouterr().err
