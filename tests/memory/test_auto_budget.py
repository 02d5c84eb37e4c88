"""`budget="auto"` in a real memory control group that fills up: it shrinks before the kernel kills, and grows again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import flexnn_ncnn
from tests.integration import tiny_models
from tests.integration.cli import ROOT

MB = 10**6
# as auto_budget has them
LEVELS = (63 * MB, 40 * MB, 25 * MB, 16 * MB, 10 * MB, 6_300_000)
SECONDS = 60

FOLLOWER = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
import numpy as np
import flexnn_ncnn.sessions.session
from flexnn_ncnn.sessions import auto_budget
auto_budget._SETTLED_SECONDS, auto_budget._LOOK_SECONDS = 1.0, 0.05
print("idle", flush=True)
sys.stdin.readline()
picture = {"in0": np.zeros((3, 16, 16), np.float32)}
with flexnn_ncnn.sessions.session.open_session(sys.argv[2], budget="auto", cache_dir=sys.argv[3]) as session:
    while True:
        session.run(picture)
        print(session.budget_bytes, flush=True)
        time.sleep(0.02)
"""

HOG = """
import os, sys
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
held = []
print("idle", flush=True)
for line in sys.stdin:
    held.append(bytearray(b"x") * int(line))
    print("held", flush=True)
"""


class Group:
    """A memory control group of our own, of whichever version this system has."""

    def __init__(self, folder: Path, version: int) -> None:
        self._folder, self._version = folder, version
        folder.mkdir()
        self.procs = folder / "cgroup.procs"

    def limit(self, size_bytes: int) -> None:
        name = "memory.limit_in_bytes" if self._version == 1 else "memory.max"
        (self._folder / name).write_text(str(size_bytes))

    def used_bytes(self) -> int:
        """What cannot be reclaimed."""
        stat = dict(line.split() for line in (self._folder / "memory.stat").read_text().splitlines())
        return int(stat["total_rss"]) if self._version == 1 else int(stat["anon"])

    def kills(self) -> int:
        name = "memory.oom_control" if self._version == 1 else "memory.events"
        facts = dict(line.split() for line in (self._folder / name).read_text().splitlines())
        return int(facts["oom_kill"])

    def remove(self) -> None:
        for _ in range(100):
            with suppress(OSError):
                self._folder.rmdir()
                return
            time.sleep(0.05)


@pytest.fixture
def group() -> Iterator[Group]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    name = f"flexnn-test-{os.getpid()}"
    for version, parent in ((1, Path("/sys/fs/cgroup/memory")), (2, Path("/sys/fs/cgroup"))):
        with suppress(OSError, KeyError, ValueError):
            made = Group(parent / name, version)
            try:
                made.kills()
            except OSError:
                made.remove()
                raise
            yield made
            made.remove()
            return
    pytest.skip("no memory control group can be made here")


@pytest.fixture
def start(group: Group) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a program as a process of the group; it is idle then."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, str(group.procs), *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "idle\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def wait_for(process: subprocess.Popen[str], wanted: Callable[[int], bool]) -> int:
    """The first budget the process reports that is wanted."""
    assert process.stdout is not None
    end = time.monotonic() + SECONDS
    for line in process.stdout:
        if wanted(int(line)):
            return int(line)
        assert time.monotonic() < end, f"still at {line}"
    pytest.fail(f"ended with status {process.wait()}")


@pytest.mark.root
@pytest.mark.slow
def test_it_gives_way_to_a_process_that_takes_memory_and_grows_when_that_ends(
    group: Group, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    param, cache = tiny_models.convolutions(tmp_path), tmp_path / "cache"
    with flexnn_ncnn.open_session(param, budget=LEVELS[0], cache_dir=cache) as session:
        session.prepare({"in0": np.zeros((3, 16, 16), np.float32)})
        for level in LEVELS[1:]:
            session.set_budget(level)
    follower, hog = start(FOLLOWER, param, cache), start(HOG)
    group.limit(group.used_bytes() + 70 * MB)
    assert follower.stdin is not None
    follower.stdin.write("go\n")
    follower.stdin.flush()
    before = wait_for(follower, lambda budget: True)
    assert before >= 40 * MB
    assert hog.stdin is not None
    assert hog.stdout is not None
    budgets = [before]
    for _ in range(9):
        hog.stdin.write(f"{5 * MB}\n")
        hog.stdin.flush()
        assert hog.stdout.readline() == "held\n"
        time.sleep(0.3)
        # what it prints while it sleeps lies in the pipe: read on to what is true now
        end = time.monotonic() + 0.3
        budgets.append(wait_for(follower, lambda budget, end=end: time.monotonic() > end))  # type: ignore[misc]
    assert follower.poll() is None
    assert group.kills() == 0
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-1] <= 16 * MB
    hog.kill()
    hog.wait()
    wait_for(follower, lambda budget: budget >= 25 * MB)
    assert group.kills() == 0


@pytest.mark.root
@pytest.mark.slow
def test_a_fixed_budget_is_killed_where_auto_is_not(
    group: Group, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    param, cache = tiny_models.convolutions(tmp_path), tmp_path / "cache"
    with flexnn_ncnn.open_session(param, budget=LEVELS[0], cache_dir=cache) as session:
        session.prepare({"in0": np.zeros((3, 16, 16), np.float32)})
    fixed, hog = start(FOLLOWER.replace('"auto"', '"63MB"'), param, cache), start(HOG)
    group.limit(group.used_bytes() + 70 * MB)
    assert fixed.stdin is not None
    fixed.stdin.write("go\n")
    fixed.stdin.flush()
    assert wait_for(fixed, lambda budget: True) == 63 * MB
    assert hog.stdin is not None
    hog.stdin.write(f"{60 * MB}\n")
    hog.stdin.flush()
    for process in (fixed, hog):  # one of them it will be
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
    assert group.kills() >= 1
