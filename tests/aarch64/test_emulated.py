"""Tests marked `arm`, run on an emulated Raspberry Pi 4 and Raspberry Pi 5 with the real aarch64 packages.

    python -m pytest tests/aarch64

needs a Debian on x86-64 that reaches its package archive, and no root; it takes half a minute and 150 MB in the folder
`$FLEXNN_ARM_CACHE`, by default in the user's cache, the first time. On a 64-bit Arm the tests run as they are.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from flexnn_ncnn import zoo
from tests.aarch64.emulation import BOARDS, ROOT, Emulation, NotHereError, make_emulation
from tests.integration.cli import flexnn

# Each imports little and takes seconds on an emulated CPU.
FILES = ("tests/aarch64/test_arm.py",)
MODELS = ("squeezenet11", "mobilenetv2")

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def cache() -> Path:
    named = os.environ.get("FLEXNN_ARM_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "flexnn-ncnn-tests" / "aarch64"


@pytest.fixture(scope="module")
def emulation(cache: Path) -> Emulation:
    if platform.machine() in ("aarch64", "arm64"):
        pytest.skip("this is a 64-bit Arm: tests/aarch64/test_arm.py runs on it")
    try:
        return make_emulation(cache)
    except (NotHereError, OSError) as error:
        pytest.skip(f"the Arm tests did not run: {error}")


@pytest.fixture(scope="module")
def bundle(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle made on this machine, with the models it and the tests need in the cache."""
    for model in MODELS:
        zoo.build(model, cache / "flexnn" / "models")
    target = tmp_path_factory.mktemp("bundle") / "b"
    arguments = ("bundle", "squeezenet11", "--budget", "8MB", "--for", "pi4", "-o", target)
    done = flexnn(*arguments, cache=cache / "flexnn")
    assert done.status == 0, done.err
    return target


@pytest.mark.parametrize("name", BOARDS)
def test_arm_tests_pass(name: str, emulation: Emulation, bundle: Path) -> None:
    environment = {
        **emulation.environment(BOARDS[name]),
        "FLEXNN_CACHE_DIR": str(emulation.folder / "flexnn"),
        "FLEXNN_ARM_BUNDLE": str(bundle),
    }
    options = ("-q", "-m", "arm", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib --strict-markers")
    done = subprocess.run(
        [emulation.python, "-m", "pytest", *options, *FILES],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]
