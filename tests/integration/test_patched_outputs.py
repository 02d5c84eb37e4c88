"""A patched ncnn answers as the stock wheel does: to the bit where the same compiler made both."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native
from param_tools.model_io import read_param
from tests.property.slicing_stock import write_random

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.skipif(not native.capabilities().releases_gil, reason="this is a stock ncnn"),
]

ROOT = Path(__file__).resolve().parents[2]
# what another order of additions may make of an output, beside its largest value
ROUNDING = 1e-5

RUN = """
import sys
import numpy as np
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native

param, weights, image, result, kernel, options = sys.argv[1:]
inputs = dict(np.load(image))
net = native.StockNet(param, weights, eval(options), kernel)
np.savez(result, patched=native.capabilities().releases_gil, **net.run(inputs, tuple(net._net.output_names())))
"""

WAYS: dict[str, tuple[RunOptions, str]] = {
    "one thread": (RunOptions(), "default"),
    "two threads": (RunOptions(2), "default"),
    "half precision": (RunOptions(fp16=True), "default"),
    "unpacked": (RunOptions(packing=False), "default"),
    "sgemm": (RunOptions(), "sgemm"),
}


@pytest.fixture(scope="module")
def stock_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stock wheel of the same version, in a folder of its own."""
    folder = tmp_path_factory.mktemp("stock")
    release = version("ncnn").partition("+")[0]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "--target",
        str(folder),
    ]
    done = subprocess.run([*command, f"ncnn=={release}"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no stock wheel to be had: {done.stderr[-200:]}")
    return folder


def compiler(module_path: Path) -> str:
    """The newest GCC, by its major version, that a shared object names; "" for none."""
    names = re.findall(rb"GCC: \([^)]*\) (\d+)\.", module_path.read_bytes())
    return max((name.decode() for name in names), key=int, default="")


def outputs(
    folder: Path | None, model: Path, image: Path, result: Path, way: str
) -> tuple[bool, Mapping[str, npt.NDArray[np.float32]]]:
    """Whether the ncnn in `folder`, or else the one in use, is patched, and what it answers."""
    options, kernel = WAYS[way]
    paths = [str(ROOT)] if folder is None else [str(folder), str(ROOT)]
    arguments = [str(model), str(model.with_suffix(".bin")), str(image), str(result), kernel, repr(options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-c", RUN, *arguments], env=environment, check=True, timeout=600)
    found = dict(np.load(result))
    return bool(found.pop("patched")), found


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "models").glob("*.param")))
def test_every_model_of_the_zoo_has_the_same_outputs(name: str, stock_folder: Path, tmp_path: Path) -> None:
    import ncnn

    model = tmp_path / f"{name}.param"
    write_random(read_param(ROOT / "models" / f"{name}.param"), model)
    random = np.random.default_rng(0)
    words = random.integers(0, 50257, 64).astype(np.int32)
    image = tmp_path / "input.npz"
    np.savez(image, in0=words if name == "gpt2_124m" else random.uniform(-1, 1, (3, 224, 224)).astype(np.float32))
    ours = next(Path(ncnn.__file__).parent.glob("ncnn*.so"))
    same_compiler = compiler(ours) == compiler(next((stock_folder / "ncnn").glob("ncnn*.so")))
    for way in WAYS:
        stock_is_patched, stock = outputs(stock_folder, model, image, tmp_path / "stock.npz", way)
        is_patched, patched = outputs(None, model, image, tmp_path / "patched.npz", way)
        assert (stock_is_patched, is_patched) == (False, True)
        assert stock.keys() == patched.keys()
        for blob, expected in stock.items():
            assert np.isfinite(expected).all()
            if same_compiler:
                np.testing.assert_array_equal(patched[blob], expected, err_msg=f"{name} {way} {blob}")
            else:
                assert np.abs(patched[blob] - expected).max() <= ROUNDING * np.abs(expected).max()
