"""Which CPUs threads run on."""

from __future__ import annotations

import os
import threading

import pytest

from flexnn_ncnn.runtime import cpu

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads are not bound to CPUs here")


def affinity_of_loader() -> set[int]:
    found: list[set[int]] = []

    def run() -> None:
        cpu.load_elsewhere()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def one_cpu() -> object:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # beyond the one that a test worker has
    usable = os.sched_getaffinity(0)
    if len(usable) < 2:
        pytest.skip("there is only one CPU")
    cpu.stay_on_one_cpu()
    yield usable
    os.sched_setaffinity(0, before)


def test_a_loader_runs_where_the_process_does_not(one_cpu: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.CPUS_VARIABLE, ",".join(map(str, one_cpu)))
    assert affinity_of_loader() == one_cpu - os.sched_getaffinity(0)


@pytest.mark.parametrize("value", ["", "nonsense", "-1", "4095"])
def test_cpus_that_are_not_there_change_nothing(value: str, one_cpu: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.CPUS_VARIABLE, value)
    assert affinity_of_loader() == os.sched_getaffinity(0)


def test_usable_cpus_are_this_processes() -> None:
    assert {int(word) for word in cpu.usable_cpus().split(",")} == os.sched_getaffinity(0)
