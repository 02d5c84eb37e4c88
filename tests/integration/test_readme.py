"""The Python of the README, and of the page about ncnn's API, runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flexnn_ncnn import zoo
from tests.integration.cli import ROOT

PAGES = [(ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/net.md")]
BLOCKS = [block for page in PAGES for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("readme")
    zoo.build("squeezenet11", made)
    for path, suffix in zip(zoo.model_paths("squeezenet11", made), (".param", ".bin"), strict=True):
        path.rename(made / f"model{suffix}")
    return made


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_runs_and_prints(block: str, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLEXNN_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_there_are_blocks() -> None:
    assert any("open_session" in block for block in BLOCKS)
    assert any("open_model" in block for block in BLOCKS)
