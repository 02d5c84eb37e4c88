"""The package as its users get it: a wheel in an environment that has nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.network]


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    """What a command prints; without this process's own import paths."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["FLEXNN_CACHE_DIR"] = str(cwd / "cache")
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the console scripts of an environment into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True, symlinks=os.name != "nt")
    found = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(found / "python", "-m", "pip", "install", wheel, cwd=folder)
    return found


def test_the_installed_command_knows_itself_and_its_zoo(scripts: Path, tmp_path: Path) -> None:
    assert run(scripts / "flexnn", "--version", cwd=tmp_path).startswith("flexnn-ncnn 0.")
    models = json.loads(run(scripts / "flexnn", "models", "list", "--json", cwd=tmp_path))
    assert "squeezenet" in [model["name"] for model in models]


def test_the_wheel_carries_no_weights_and_no_scripts(scripts: Path) -> None:
    (wheel,) = scripts.parents[1].glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    models = {PurePosixPath(name) for name in names if name.startswith("flexnn_ncnn/_models/")}
    assert {model.suffix for model in models}.isdisjoint({".bin", ".py", ".pyc"})
    assert {"manifest.json", "vgg19.param"} <= {model.name for model in models}
    assert {"flexnn_ncnn/py.typed", "param_tools/py.typed", "flexnn_ncnn/_patches/series.json"} <= set(names)


def test_an_installed_graph_can_be_built_and_inspected(scripts: Path, tmp_path: Path) -> None:
    run(scripts / "flexnn", "models", "build", "squeezenet11", cwd=tmp_path)
    found = json.loads(run(scripts / "python", "-m", "flexnn_ncnn", "inspect", "squeezenet11", "--json", cwd=tmp_path))
    assert found["bin_found"]
    assert found["parameters"] == 1_235_496


def test_every_module_imports_without_the_optional_packages(scripts: Path, tmp_path: Path) -> None:
    program = (
        "import importlib, pkgutil, flexnn_ncnn, param_tools\n"
        "for package in (flexnn_ncnn, param_tools):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not found.name.endswith('__main__'):\n"
        "            importlib.import_module(found.name)\n"
    )
    run(scripts / "python", "-c", program, cwd=tmp_path)
