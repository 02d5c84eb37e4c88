"""Tests marked `arm`, run on an emulated Raspberry Pi 4 and Raspberry Pi 5 with the real aarch64 packages.

    FLEXNN_ARM_CACHE=~/.cache/flexnn-arm python -m pytest tests/aarch64

needs a Debian on x86-64 that reaches its package archive, and no root. It takes four minutes, and half a minute and
280 MB in that folder the first time, so it runs where it is asked for: there, and in CI. On a 64-bit Arm the tests run
as they are.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from flexnn_ncnn import zoo
from tests.aarch64.emulation import BOARDS, ROOT, Emulation, NotHereError, make_emulation
from tests.integration.cli import flexnn

# Each imports little and takes seconds on an emulated CPU.
FILES = ("tests/aarch64/test_arm.py",)
MODELS = ("squeezenet11", "mobilenetv2")


class Run(NamedTuple):
    """Tests that run on a board, and where they print."""

    process: subprocess.Popen[bytes]
    log: Path


pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(
        not ({"CI", "FLEXNN_ARM_CACHE"} & set(os.environ)), reason="takes minutes: set FLEXNN_ARM_CACHE to a folder"
    ),
]


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


@pytest.fixture(scope="module")
def runs(emulation: Emulation, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All boards at once: each computes on one thread."""
    started = {name: _start(emulation, name, bundle, tmp_path_factory.mktemp(name)) for name in BOARDS}
    yield started
    for run in started.values():
        run.process.kill()
        run.process.wait()


@pytest.mark.parametrize("name", BOARDS)
def test_arm_tests_pass(name: str, runs: dict[str, Run]) -> None:
    status = runs[name].process.wait(timeout=1800)
    printed = runs[name].log.read_text(encoding="utf-8", errors="replace")
    assert status == 0, printed[-8000:]
    last = printed.splitlines()[-1]
    assert " passed" in last
    assert "skipped" not in last


def _start(emulation: Emulation, name: str, bundle: Path, folder: Path) -> Run:
    environment = {
        **emulation.environment(BOARDS[name]),
        "FLEXNN_CACHE_DIR": str(emulation.folder / "flexnn"),
        "FLEXNN_ARM_BUNDLE": str(bundle),
    }
    options = ("-q", "-m", "arm", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib --strict-markers")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [emulation.python, "-m", "pytest", *options, f"--basetemp={folder / 'tmp'}", *FILES],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return Run(process, folder / "log")
