"""`flexnn adapt`: inferences within one budget after the other, and what each change takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.measuring.adaptation import Sample, adapt_model
from flexnn_ncnn.preparing.preparation import Request
from flexnn_ncnn.records.options import RunOptions
from tests.integration.cli import flexnn, flexnn_here

BUDGETS = (5_000_000, 9_000_000, 60_000_000, 5_000_000)
INPUTS = {"in0": np.zeros((3, 32, 32), np.float32)}


def request(folder: Path) -> Request:
    return Request(folder / "model.param", folder / "model.bin", 0, RunOptions())


def test_every_budget_is_kept_and_every_change_is_told(planned_folder: Path) -> None:
    seen: list[tuple[Sample, int]] = []
    found = adapt_model(
        request(planned_folder),
        INPUTS,
        BUDGETS,
        runs=4,
        watch=lambda sample, number: seen.append((sample, number)),
        folder=planned_folder / "cache",
    )
    found.check()
    assert tuple(phase.budget_bytes for phase in found.phases) == BUDGETS
    assert [sample for sample, _ in seen] == list(found.samples)
    assert len(found.samples) == sum(phase.inferences for phase in found.phases)
    begins = [sample.seconds for sample in found.samples]
    assert begins == sorted(begins)
    assert begins[0] == 0
    at = 0
    for number, phase in enumerate(found.phases):
        samples = found.samples[at : at + phase.inferences]
        assert {sample.budget_bytes for sample in samples} == {phase.budget_bytes}
        assert {number} == {shown for _, shown in seen[at : at + phase.inferences]}
        assert phase.inferences >= 4
        assert 0 < phase.latency_ms_min <= phase.latency_ms_median
        if phase.switch is not None:
            assert phase.switch.first_latency_ms == samples[0].latency_ms
            assert phase.switch.stopped_ms > 0
            waited_ms = phase.switch.delayed_ms + phase.switch.stopped_ms
            longer_ms = max(0.0, samples[0].latency_ms - phase.latency_ms_median)
            assert phase.switch.lost_ms == pytest.approx(waited_ms + longer_ms)
            assert phase.switch.inferences_meanwhile <= found.phases[number - 1].inferences - 4
        at += phase.inferences
    first, *changes = found.phases
    assert first.switch is None
    assert changes[0].switch is not None
    assert changes[0].switch.weights_loaded_bytes > 1_000_000
    assert [phase.weights_streamed_bytes == 0 for phase in found.phases] == [False, False, True, False]
    assert found.phases[3].weights_streamed_bytes == first.weights_streamed_bytes


def test_the_same_budget_twice_is_no_change(planned_folder: Path) -> None:
    found = adapt_model(request(planned_folder), INPUTS, BUDGETS[:1] * 2, runs=2, folder=planned_folder / "cache")
    assert [(phase.inferences, phase.switch) for phase in found.phases] == [(2, None), (2, None)]


def test_it_goes_on_as_long_as_wanted(planned_folder: Path) -> None:
    found = adapt_model(
        request(planned_folder), INPUTS, BUDGETS[:1], runs=1, seconds=0.2, folder=planned_folder / "cache"
    )
    assert found.samples[-1].seconds + found.samples[-1].latency_ms / 1e3 > 0.15


def test_without_a_budget_there_is_nothing_to_do(planned_folder: Path) -> None:
    with pytest.raises(UsageError, match="which budgets"):
        adapt_model(request(planned_folder), INPUTS, (), folder=planned_folder / "cache")


def test_the_command(planned_folder: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    arguments = ("adapt", planned_folder / "model.param", "--shape", "in0=3x32x32", "--runs-each", 2)
    done = flexnn(*arguments, "--budgets", "5MB,9MB", "--plot", plot, "--json", cache=planned_folder / "cache")
    assert done.status == 0, done.err
    assert done.err == ""
    found = json.loads(done.out)
    assert [phase["budget_bytes"] for phase in found["phases"]] == [5_000_000, 9_000_000]
    assert found["phases"][1]["switch"]["weights_loaded_bytes"] > 1_000_000
    assert plot.read_text(encoding="utf-8").startswith("<?xml")
    again = flexnn_here(*arguments, "--budgets", "5MB", "--plot", plot, cache=planned_folder / "cache")
    assert again.status == 1
    assert "exists already" in again.err
    text = flexnn_here(*arguments, "--budgets", "5MB,9MB", cache=planned_folder / "cache")
    assert text.status == 0, text.err
    assert "5.0 MB to 9.0 MB" in text.out


@pytest.mark.parametrize(
    ("budgets", "status", "words"),
    [("5MB,1kB", 3, "cannot work"), ("5MB,many", 2, "is not a size"), ("", 2, "is not a size")],
)
def test_budgets_that_are_none(budgets: str, status: int, words: str, planned_folder: Path) -> None:
    arguments = ("adapt", planned_folder / "model.param", "--shape", "in0=3x32x32", "--runs-each", 1)
    done = flexnn_here(*arguments, "--budgets", budgets, cache=planned_folder / "cache")
    assert done.status == status
    assert words in done.err
