"""`flexnn compare`: both sides on the same input, and what counts as a difference."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexnn_ncnn.cli.main import main
from flexnn_ncnn.errors import BudgetExceededError, MismatchError
from flexnn_ncnn.measuring import comparison
from flexnn_ncnn.measuring.comparison import Comparison, Measured, MeasuredFlexnn
from flexnn_ncnn.measuring.machine_load import MachineLoad
from flexnn_ncnn.records.formats import read_plan, write_plan
from tests.integration import tiny_models
from tests.integration.cli import flexnn, flexnn_here
from tests.integration.quick_plans import plans_made_here

GOOD = Comparison(
    model="m",
    budget_bytes=1000,
    threads=1,
    rounds=3,
    machine=MachineLoad(0.1, 0.0, 2, False),
    stock=Measured(2.0, 1.0, 5.0, 5000),
    flexnn=MeasuredFlexnn(3.0, 2.0, 4.0, 900, 10, 20, 950),
    latency_ratio=1.5,
    peak_exact=True,
    max_abs_diff=0.0,
    max_rel_diff=0.0,
    top1_equal=True,
)


def changed(**fields: Any) -> Comparison:
    return dataclasses.replace(GOOD, **fields)


def with_peak(peak_bytes: int, **fields: Any) -> Comparison:
    return changed(flexnn=dataclasses.replace(GOOD.flexnn, peak_bytes=peak_bytes), **fields)


def test_json_has_the_documented_fields(tmp_path: Path) -> None:
    param = tiny_models.classifier(tmp_path)
    done = flexnn("compare", param, "--budget", "2.4MB", "--rounds", 3, "--json", cache=tmp_path / "cache")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert (found["model"], found["budget_bytes"], found["threads"]) == (str(param), 2_400_000, 1)
    for side in (found["stock"], found["flexnn"]):
        assert 0 < side["latency_ms_min"] <= side["latency_ms_median"]
        assert side["peak_bytes"] >= 0
    assert found["flexnn"]["weights_resident_bytes"] > 0
    assert found["flexnn"]["weights_streamed_bytes"] == 0
    assert found["latency_ratio"] == pytest.approx(
        found["flexnn"]["latency_ms_median"] / found["stock"]["latency_ms_median"]
    )
    assert 0 <= found["max_abs_diff"] < 1e-5
    assert 0 <= found["max_rel_diff"] < 1e-5
    assert found["top1_equal"] is True
    assert found["machine"].keys() == {"load_average", "others_running", "cpus", "busy"}


def test_a_plan_that_holds_more_than_its_budget_is_found_out(tmp_path: Path) -> None:
    param, cache = tiny_models.classifier(tmp_path), tmp_path / "cache"
    with plans_made_here(stock_more_bytes=5_000_000):
        assert flexnn_here("run", param, "--budget", "2.4MB", cache=cache).status == 0
    (path,) = cache.glob("plans/*/2400000.plan.json")
    lying = dataclasses.replace(read_plan(path), budget_bytes=50_000, predicted_peak_bytes=40_000)
    write_plan(lying, path.with_name("50000.plan.json"))
    done = flexnn("compare", param, "--budget", "50kB", "--rounds", 1, cache=cache)
    assert done.status == 4
    assert "budget   50.0 kB, EXCEEDED" in done.out
    assert "more than the budget" in done.err


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (changed(max_rel_diff=2e-3), "differ from stock ncnn's: by 0.002 of the largest magnitude, where 0.001"),
        (changed(top1_equal=False), "and another top-1"),
        (changed(max_rel_diff=float("inf")), "by inf of"),
        (with_peak(1001), "the run held 1.0 kB, 1 B more than the budget"),
    ],
)
def test_a_bad_comparison_is_shown_and_ends_with_status_4(
    found: Comparison,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(comparison, "compare_models", lambda *args, **kwargs: found)
    param = tiny_models.classifier(tmp_path)
    assert main(["compare", str(param), "--budget", "1kB"]) == 4
    out, err = capsys.readouterr()
    assert "latency, median" in out
    assert sentence in err


def test_a_good_comparison_passes_and_peaks_that_cannot_be_told_are_not_judged() -> None:
    GOOD.check()
    changed(max_rel_diff=1e-3).check()
    with_peak(1000).check()
    with_peak(10_000, peak_exact=False).check()
    with pytest.raises(MismatchError):
        changed(max_rel_diff=1.1e-3).check()
    with pytest.raises(BudgetExceededError):
        with_peak(1001).check()


def test_peaks_that_cannot_be_told_are_said_to_be_bounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(comparison, "compare_models", lambda *args, **kwargs: with_peak(9999, peak_exact=False))
    assert main(["compare", str(tiny_models.classifier(tmp_path)), "--budget", "1kB"]) == 0
    assert "not judged: this system does not tell peaks exactly" in capsys.readouterr().out


def arrays(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("stock", "ours", "absolute", "relative"),
    [
        (arrays(1, -4), arrays(1, -4), 0, 0),
        (arrays(1, -4), arrays(1.5, -4), 0.5, 0.125),
        (arrays(0, 0), arrays(0, 0.5), 0.5, np.inf),
        (arrays(1, np.nan), arrays(1, np.nan), 0, 0),
        (arrays(1, np.inf), arrays(1, np.inf), 0, 0),
        (arrays(1, np.nan), arrays(1, 2), np.inf, np.inf),
        (arrays(1, 2), arrays(1, np.nan), np.inf, np.inf),
        (arrays(1, np.inf), arrays(1, -np.inf), np.inf, np.inf),
        (arrays(2, np.inf), arrays(1, np.inf), 1, 0.5),
        (arrays(1, 2), arrays(1, 2, 3), np.inf, np.inf),
        (arrays(), arrays(), 0, 0),
    ],
)
def test_differences(stock: Any, ours: Any, absolute: float, relative: float) -> None:
    assert comparison._difference(stock, ours) == (absolute, relative)


def test_top1_is_about_rows_of_scores() -> None:
    same = comparison._same_top1
    matrix = np.array([[1, 2, 3], [6, 5, 4]], np.float32)
    assert same(arrays(1, 3, 2), arrays(1, 9, 2))
    assert not same(arrays(1, 3, 2), arrays(4, 3, 2))
    assert same(matrix, matrix + 1)
    assert not same(matrix, matrix[:, ::-1])
    assert not same(arrays(1, 3, 2).reshape(3, 1, 1), arrays(4, 3, 2).reshape(3, 1, 1))
    assert same(matrix.reshape(2, 3, 1).repeat(2, 2), matrix[::-1].reshape(2, 3, 1).repeat(2, 2))  # a map
    assert not same(arrays(1, 2), arrays(1, 2, 3))
