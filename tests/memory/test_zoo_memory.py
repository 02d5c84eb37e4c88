"""Building a model must not need the memory the model is too large for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import sys
from pathlib import Path
from flexnn_ncnn import zoo

def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))

folder = Path(sys.argv[1])
zoo.build("squeezenet11", folder)
Path("/proc/self/clear_refs").write_text("5")
before_bytes = peak_bytes()
zoo.build("resnet152", folder)
print(peak_bytes() - before_bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_building_240_mb_of_weights_takes_under_32_mb(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=True, capture_output=True, text=True)
    assert (tmp_path / "resnet152.bin").stat().st_size == 240_469_008
    assert int(child.stdout) < 32_000_000
