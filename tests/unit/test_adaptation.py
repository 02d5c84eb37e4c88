"""What is said and drawn of budgets that change."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from flexnn_ncnn.errors import BudgetExceededError
from flexnn_ncnn.measuring.adaptation import Adaptation, Phase, Sample, SwitchCost
from flexnn_ncnn.measuring.machine_load import MachineLoad
from flexnn_ncnn.reporters.adaptations import plot_adaptation, write_adaptation

MB = 10**6
SWITCH = SwitchCost(1200.0, 4, 160.0, 52.5, 85.5, 310.25, 305.75, 99 * MB, 12 * MB, 180 * MB)
GOOD = Adaptation(
    model="vgg19",
    threads=1,
    phases=(
        Phase(100 * MB, 6, 300.0, 290.0, 95 * MB, 570 * MB, 10 * MB, None),
        Phase(300 * MB, 2, 250.0, 240.0, 290 * MB, 400 * MB, 200 * MB, SWITCH),
    ),
    peak_exact=True,
    machine=MachineLoad(0.1, 0.0, 2, False),
    samples=tuple(
        Sample(0.3 * i, 300.0 - 5 * i, (100 if i < 6 else 300) * MB, (90 if i < 6 else 280) * MB) for i in range(8)
    ),
)


def test_the_text() -> None:
    stream = io.StringIO()
    write_adaptation(GOOD, "noise", stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "vgg19 on noise, 1 thread"
    phase = "100.0 MB 6 300.0 ms 290.0 ms 95.0 MB 10.0 MB 570.0 MB"
    assert lines[3].split() == phase.split()
    change = "100.0 MB to 300.0 MB 1200 ms 4 160 ms 52.5 ms 85.5 ms 310.2 ms 306 ms 99.0 MB 12.0 MB 180.0 MB"
    assert lines[-1].split() == change.split()


def test_what_makes_figures_doubtful_is_said() -> None:
    stream = io.StringIO()
    busy = MachineLoad(3.0, 2.5, 2, True)
    same = replace(GOOD.phases[0], switch=None)
    write_adaptation(replace(GOOD, phases=(same, same), peak_exact=False, machine=busy), "noise", stream)
    assert "peaks are upper bounds" in stream.getvalue()
    assert "BUSY" in stream.getvalue()
    assert "100.0 MB to 100.0 MB" in stream.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_picture(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"plot{suffix}"
    plot_adaptation(GOOD, "two $budgets", path)
    assert path.stat().st_size > 5_000
    if suffix == ".svg":
        for kind in ("median", "inference stopped", "held", "peak", "budget"):
            assert path.read_text(encoding="utf-8").count(f"<!-- {kind} -->") == 1


def test_budgets_that_were_kept() -> None:
    GOOD.check()
    first, second = GOOD.phases
    # while it changes the larger one counts
    replace(GOOD, phases=(first, replace(second, switch=replace(SWITCH, peak_bytes=300 * MB)))).check()
    shrinking = (second, replace(first, switch=replace(SWITCH, peak_bytes=300 * MB)))
    replace(GOOD, phases=shrinking).check()


@pytest.mark.parametrize("number", [0, 1])
def test_a_budget_that_was_exceeded(number: int) -> None:
    phases = list(GOOD.phases)
    phases[number] = replace(phases[number], peak_bytes=phases[number].budget_bytes + 1)
    with pytest.raises(BudgetExceededError) as error:
        replace(GOOD, phases=tuple(phases)).check()
    assert error.value.budget_bytes == phases[number].budget_bytes
    replace(GOOD, phases=tuple(phases), peak_exact=False).check()


def test_a_change_that_took_more_than_both_budgets() -> None:
    first, second = GOOD.phases
    with pytest.raises(BudgetExceededError):
        replace(GOOD, phases=(first, replace(second, switch=replace(SWITCH, peak_bytes=300 * MB + 1)))).check()
