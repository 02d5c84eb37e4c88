"""Control groups: the files of version 2 as the kernel documents them, and those of this machine where it has any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eval.cgroups import ControlGroup, control_group, why_unavailable

MB = 1_000_000
MISSING = why_unavailable()


@pytest.fixture
def second(tmp_path: Path) -> ControlGroup:
    files = {
        "cgroup.procs": "",
        "memory.current": "4096\n",
        "memory.peak": "12288\n",
        "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n",
        "io.stat": "254:0 rbytes=1000 wbytes=5 rios=1 wios=1\n8:0 rbytes=234 wbytes=0\n",
        "cpuset.cpus.effective": "0-2,6\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return ControlGroup(tmp_path, tmp_path, tmp_path, 2)


def test_limits_of_version_2(second: ControlGroup, tmp_path: Path) -> None:
    second.limit_memory(350 * MB)
    second.limit_reads("254:0", 22 * MB)
    second.limit_cpus(3)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert (written["memory.max"], written["memory.swap.max"]) == ("350000000", "0")
    assert written["io.max"] == "254:0 rbps=22000000"
    assert written["cpuset.cpus"] == "0,1,2"
    second.limit_cpus(8)
    assert (tmp_path / "cpuset.cpus").read_text() == "0,1,2,6"
    second.limit_memory(None)
    second.limit_reads("254:0", None)
    assert (tmp_path / "memory.max").read_text() == "max"
    assert (tmp_path / "io.max").read_text() == "254:0 rbps=max"
    second.add(123)
    assert (tmp_path / "cgroup.procs").read_text() == "123"


def test_what_version_2_tells(second: ControlGroup, tmp_path: Path) -> None:
    assert (second.memory_bytes, second.memory_peak_bytes) == (4096, 12288)
    assert (second.kills, second.read_bytes) == (1, 1234)
    (tmp_path / "memory.peak").unlink()  # before Linux 5.19
    assert second.memory_peak_bytes is None


@pytest.mark.root
@pytest.mark.skipif(bool(MISSING), reason=MISSING or "-")
def test_the_groups_of_this_machine_count_and_kill() -> None:
    hold = f"import sys; print(len(bytearray({30 * MB}))); sys.stdin.read()"
    with control_group("flexnn-test") as group:
        group.limit_cpus(1)
        for limit_bytes, status in ((100 * MB, 0), (20 * MB, -9)):
            group.limit_memory(limit_bytes)
            done = subprocess.run(
                [sys.executable, "-c", hold], preexec_fn=group.enter, input="", capture_output=True, text=True
            )
            assert done.returncode == status
        assert group.kills == 1
        assert group.memory_peak_bytes is not None
        assert group.memory_peak_bytes >= 30 * MB
    assert not any(folder.exists() for folder in group.folders)
