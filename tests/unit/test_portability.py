"""What other systems lack or do otherwise, played here: nothing on the run path counts on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexnn_ncnn.runtime import cpu


@pytest.fixture
def affinity(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Eight CPUs that this process may use, and what it asked to be kept on."""
    asked: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: asked.append(set(cpus)), raising=False)
    return asked


def capacities(folder: Path, monkeypatch: pytest.MonkeyPatch, found: dict[int, str]) -> None:
    for number, text in found.items():
        (folder / f"cpu{number}").write_text(text)
    monkeypatch.setattr(cpu, "_CAPACITY", f"{folder}/cpu{{}}")


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ({}, 7),
        (dict.fromkeys(range(8), "1024\n"), 7),
        ({0: "1024", 1: "1024", **dict.fromkeys(range(2, 8), "400")}, 1),
        ({**dict.fromkeys(range(7), "250"), 7: "no number"}, 6),
    ],
)
def test_one_thread_stays_on_a_big_cpu(
    affinity: list[set[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: dict[int, str], best: int
) -> None:
    capacities(tmp_path, monkeypatch, found)
    cpu.stay_on_one_cpu()
    assert affinity == [{best}]


def test_a_sandbox_that_forbids_it_is_taken_as_it_is(affinity: list[set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int, cpus: set[int]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    cpu.stay_on_one_cpu()
    with cpu.born_on_one_cpu(True):
        pass


def test_a_system_that_knows_no_affinity_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    cpu.stay_on_one_cpu()
    cpu.load_elsewhere()
    assert cpu.usable_cpus() == ""
    with cpu.born_on_one_cpu(True):
        pass
