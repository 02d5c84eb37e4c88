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

import numpy as np
import pytest

from flexnn_ncnn import zoo
from tests.aarch64.emulation import BOARDS, ROOT, Emulation, NotHereError, make_emulation
from tests.integration.cli import flexnn

# Each imports little and takes seconds on an emulated CPU.
FILES = ("tests/aarch64/test_arm.py",)
MODELS = ("squeezenet11", "mobilenetv2")


class Run(NamedTuple):
    """Tests that run on a board, where they print, and where the profile goes that they make of the bundle's model."""

    process: subprocess.Popen[bytes]
    log: Path
    profile: Path


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


def test_what_a_board_measured_is_planned_for_here_and_used_there(
    emulation: Emulation, runs: dict[str, Run], cache: Path, tmp_path: Path
) -> None:
    run = runs["pi5"]
    assert run.process.wait(timeout=1800) == 0
    arguments = ("bundle", "squeezenet11", "--budget", "12MB", "--profile", run.profile, "-o", tmp_path / "b")
    made = flexnn(*arguments, cache=cache / "flexnn")
    assert made.status == 0, made.err
    assert "16 KiB pages" in made.out
    done = subprocess.run(
        [emulation.python, "-m", "flexnn_ncnn", "run", tmp_path / "b", "-o", tmp_path / "there.npy"],
        cwd=ROOT,
        env={**emulation.environment(BOARDS["pi5"]), "FLEXNN_CACHE_DIR": str(tmp_path / "there")},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert (done.returncode, done.stderr) == (0, "")  # nothing was measured again
    here = flexnn("run", "squeezenet11", "--budget", "12MB", "-o", tmp_path / "here.npy", cache=cache / "flexnn")
    assert here.status == 0, here.err
    ours, theirs = np.load(tmp_path / "here.npy"), np.load(tmp_path / "there.npy")
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(ours).max()


def _start(emulation: Emulation, name: str, bundle: Path, folder: Path) -> Run:
    environment = {
        **emulation.environment(BOARDS[name]),
        "FLEXNN_CACHE_DIR": str(emulation.folder / "flexnn"),
        "FLEXNN_ARM_BUNDLE": str(bundle),
        "FLEXNN_ARM_PROFILE": str(folder / "profile.json"),
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
    return Run(process, folder / "log", folder / "profile.json")
