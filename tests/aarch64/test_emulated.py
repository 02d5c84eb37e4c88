"""Tests marked `arm`, run on an emulated Raspberry Pi 4 and Raspberry Pi 5 with the real aarch64 packages.

    FLEXNN_ARM_CACHE=~/.cache/flexnn-arm python -m pytest tests/aarch64

needs a Debian on x86-64 that reaches its package archive, and no root. It takes four minutes, and half a minute and
280 MB in that folder the first time, so it runs where it is asked for: there, and in CI. On a 64-bit Arm the tests run
as they are.
"""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn import zoo
from tests.aarch64.emulation import BOARDS, ROOT, Emulation, NotHereError, make_emulation
from tests.integration.cli import flexnn

# Each imports little and takes seconds on an emulated CPU.
FILES = ("tests/aarch64/test_arm.py",)
MODELS = ("squeezenet11", "mobilenetv2")


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


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within the block, no other test worker makes something in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def emulation(cache: Path) -> Emulation:
    if platform.machine() in ("aarch64", "arm64"):
        pytest.skip("this is a 64-bit Arm: tests/aarch64/test_arm.py runs on it")
    try:
        with alone(cache):
            return make_emulation(cache)
    except (NotHereError, OSError) as error:
        pytest.skip(f"the Arm tests did not run: {error}")


@pytest.fixture(scope="module")
def bundle(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle made on this machine, with the models it and the tests need in the cache."""
    with alone(cache):
        for model in MODELS:
            zoo.build(model, cache / "flexnn" / "models")
    target = tmp_path_factory.mktemp("bundle") / "b"
    arguments = ("bundle", "squeezenet11", "--budget", "8MB", "--for", "pi4", "-o", target)
    done = flexnn(*arguments, cache=cache / "flexnn")
    assert done.status == 0, done.err
    return target


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_passes_its_tests_and_uses_what_is_planned_for_it_here(
    name: str, emulation: Emulation, bundle: Path, cache: Path, tmp_path: Path
) -> None:
    environment = {**emulation.environment(BOARDS[name]), "FLEXNN_CACHE_DIR": str(cache / "flexnn")}
    profile = tmp_path / "profile.json"
    options = ("-q", "-m", "arm", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib --strict-markers")
    done = emulated(
        (emulation.python, "-m", "pytest", *options, f"--basetemp={tmp_path / 'tests'}", *FILES),
        {**environment, "FLEXNN_ARM_BUNDLE": str(bundle), "FLEXNN_ARM_PROFILE": str(profile)},
    )
    assert done.returncode == 0, done.stdout[-8000:]
    last = done.stdout.splitlines()[-1]
    assert " passed" in last
    assert "skipped" not in last

    arguments = ("squeezenet11", "--budget", "12MB")
    made = flexnn("bundle", *arguments, "--profile", profile, "-o", tmp_path / "b", cache=cache / "flexnn")
    assert made.status == 0, made.err
    assert f"{BOARDS[name].page_bytes // 1024} KiB pages" in made.out
    there = emulated(
        (emulation.python, "-m", "flexnn_ncnn", "run", tmp_path / "b", "-o", tmp_path / "there.npy"),
        {**environment, "FLEXNN_CACHE_DIR": str(tmp_path / "there")},
    )
    assert (there.returncode, there.stderr) == (0, "")  # nothing was measured again
    here = flexnn("run", *arguments, "-o", tmp_path / "here.npy", cache=cache / "flexnn")
    assert here.status == 0, here.err
    ours, theirs = np.load(tmp_path / "here.npy"), np.load(tmp_path / "there.npy")
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(ours).max()


def emulated(command: Sequence[str | Path], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """How a command of the emulated Python ended, and what it printed."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
