"""Whether the machine was busy with other things."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from flexnn_ncnn.measuring import machine_load
from flexnn_ncnn.measuring.machine_load import LoadMeter, MachineLoad, running_now
from flexnn_ncnn.reporters.machine import write_machine_load


@pytest.mark.parametrize(
    ("running", "cpus", "threads", "others", "busy"),
    [
        ([1, 1, 1, 1], 2, 1, 0.0, False),
        ([1, 2, 1, 2], 2, 1, 0.5, False),
        ([2, 2, 1, 2], 2, 1, 0.75, True),
        ([2, 2, 2, 2], 4, 1, 1.0, False),
        ([2, 2, 2, 2], 4, 4, 1.0, True),
        ([3], 1, 1, 2.0, True),
        ([0], 1, 1, 0.0, False),
    ],
)
def test_others_matter_as_far_as_there_is_no_room_for_them(
    running: list[int], cpus: int, threads: int, others: float, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_load, "_usable_cpus", lambda: cpus)
    seen: Iterator[int] = iter(running)
    meter = LoadMeter(lambda: next(seen))
    for _ in running:
        meter.look()
    found = meter.load(threads)
    assert (found.others_running, found.cpus, found.busy) == (others, cpus, busy)


@pytest.mark.parametrize(("average", "busy"), [(0.4, False), (3.0, True)])
def test_where_only_an_average_is_told_that_counts(average: float, busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_load, "_usable_cpus", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (average, 0.0, 0.0))
    meter = LoadMeter(lambda: None)
    meter.look()
    assert meter.load(1) == MachineLoad(average, None, 2, busy)


def test_where_nothing_is_told_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.getloadavg")
    found = LoadMeter(lambda: None).load(1)
    assert (found.load_average, found.others_running, found.busy) == (None, None, False)


def test_this_system_counts_us() -> None:
    running = running_now()
    if running is None:
        pytest.skip("no /proc/loadavg")
    assert running >= 1


def test_what_is_written() -> None:
    def written(found: MachineLoad) -> str:
        stream = io.StringIO()
        write_machine_load(found, stream)
        return stream.getvalue()

    assert written(MachineLoad(0.1, 0.0, 2, False)) == ""
    assert "BUSY: 1.5 threads of others ran on its 2 CPUs" in written(MachineLoad(0.1, 1.5, 2, True))
    assert "BUSY: its load was 3.0 on 1 CPU;" in written(MachineLoad(3.0, None, 1, True))
