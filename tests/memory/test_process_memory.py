"""Peaks of a part of a process's life, with and without a kernel that can forget them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flexnn_ncnn.runtime.memory import process_memory
from tests.integration.cli import ROOT

MB = 1_000_000
CHILD = """
import json, mmap, sys
from pathlib import Path
import numpy as np
from flexnn_ncnn.runtime.memory import process_memory

if sys.argv[1] == "forgets nothing":
    process_memory._CLEAR_REFS = Path("/proc/self/no such file")

def memory(size_mb):  # not malloc, which keeps what is freed
    pages = np.frombuffer(mmap.mmap(-1, size_mb * 1_000_000), np.uint8)
    pages[:] = 1
    return pages

grown, kept = [], []
for earlier, held, freed in ((60, 1, 24), (1, 12, 16), (1, 1, 4)):
    memory(earlier)
    meter = process_memory.GrowthMeter()
    idle = process_memory.resident_bytes()
    kept.append(memory(held))
    memory(freed)
    grown.append([meter.exact, meter.peak_bytes(), process_memory.resident_bytes() - idle])
print(json.dumps(grown))
"""


@pytest.mark.skipif(not process_memory.peak_is_exact(), reason="the system does not tell the peak")
@pytest.mark.parametrize("kernel", ["forgets", "forgets nothing"])
def test_each_part_of_a_life_has_its_own_peak(kernel: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kernel], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    grown = json.loads(done.stdout)
    assert all(exact for exact, _, _ in grown)
    assert [peak / MB for _, peak, _ in grown] == pytest.approx([25, 28, 5], abs=0.5)
    assert [held / MB for _, _, held in grown] == pytest.approx([1, 12, 1], abs=0.5)


def test_an_emulator_is_found_by_memory_that_is_in_no_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("status", "VmSize:\t  244140 kB\n"), ("maps", "1000-{:x} r-xp 0 00:00 0 /a\n")):
        (tmp_path / name).write_text(text.format(0x1000 + 22 * 1024 * 1024))
    monkeypatch.setattr(process_memory, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(process_memory, "_MAPS", tmp_path / "maps")
    assert process_memory.is_emulated.__wrapped__()
    (tmp_path / "status").write_text("VmSize:\t  22528 kB\n")
    assert not process_memory.is_emulated.__wrapped__()


def test_a_system_that_shows_no_maps_is_taken_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_memory, "_MAPS", tmp_path / "maps")
    assert not process_memory.is_emulated.__wrapped__()


def test_a_system_without_peaks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_memory, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(process_memory, "_CLEAR_REFS", tmp_path / "no folder" / "clear_refs")
    assert not process_memory.reset_peak()
    assert not process_memory.peak_is_exact()
    assert not process_memory.GrowthMeter().exact
    assert process_memory.resident_bytes() > 0
