"""`flexnn profile` and `flexnn schedule` on a small network, profiled by the real package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexnn_ncnn.cli.main import main
from flexnn_ncnn.interop.plan_files import read_flexnn_plan
from flexnn_ncnn.interop.profile_files import read_flexnn_profile
from flexnn_ncnn.records.formats import read_plan, read_profile, write_profile
from tests.integration import tiny_models
from tests.unit.test_expansion import NETWORK as WITH_ATTENTION


class Setting:
    """A model that is profiled once, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.param = tiny_models.classifier(folder)
        self.profile = folder / "p.json"


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    made = Setting(tmp_path_factory.mktemp("schedule"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEXNN_CACHE_DIR", str(made.cache))
        export = str(made.folder)
        assert main(["profile", str(made.param), "-o", str(made.profile), "--export-flexnn", export, "-q"]) == 0
    return made


@pytest.fixture(autouse=True)
def _cache(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(setting.cache))


def answer(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    assert main([*map(str, args), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_profile_is_written_and_exported(setting: Setting) -> None:
    profile = read_profile(setting.profile)
    assert [layer.name for layer in profile.layers] == ["conv", "pool", "fc", "prob"]
    exported = read_flexnn_profile(setting.folder / "classifier")
    assert len(exported.times) == 5  # the Input, too
    assert sum(one.size_bytes - 64 for one in exported.objects if one.kind == "weight") >= 10_000


def test_a_table_names_the_dearest_layers_and_all_their_kernels(
    setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", str(setting.param), "--top", "1", "-q"]) == 0
    out = capsys.readouterr().out
    assert "Dearest 1 of 4 layers" in out
    kernels = {one.kernel for layer in read_profile(setting.profile).layers for one in layer.kernels}
    assert len([line for line in out.splitlines() if any(f" {kernel} " in line for kernel in kernels)]) >= 1


def test_the_smallest_budget_can_be_scheduled_and_no_less(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "schedule", setting.profile, "--smallest")
    assert found["is_of_this_machine"] is True
    least = found["smallest"]["budget_bytes"]
    plan = answer(capsys, "schedule", setting.profile, "--budget", least)
    assert sum(plan["schedule"]["memory"].values()) <= least
    assert main(["plan", str(setting.profile), "--budget", str(least - 1)]) == 3
    assert found["smallest"]["culprit"].split("'")[1] in capsys.readouterr().err


def test_a_plan_is_written_drawn_exported_and_explained(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["schedule", setting.param, "--budget", "10MB", "--explain", "--export-flexnn", tmp_path]
    args += ["-o", tmp_path / "plan.json", "--plot", tmp_path / "plan.png"]
    assert main([*map(str, args), "-q"]) == 0
    out = capsys.readouterr().out
    assert "All weights stay resident" in out
    assert "code and objects, assumed" in out
    plan = read_plan(tmp_path / "plan.json")
    assert plan.model_id == read_profile(setting.profile).model_id
    assert plan.predicted_peak_bytes <= 10_000_000
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    assert len(read_flexnn_plan(tmp_path / "classifier").dependencies) == 5


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(WITH_ATTENTION, tmp_path / "attention.json")
    args = ["schedule", str(tmp_path / "attention.json"), "--export-flexnn", str(tmp_path), "--budget"]
    assert main([*args, "2.56MB", "--plot", str(tmp_path / "plan.png")]) == 1
    assert "what attention does inside as layers of their own (1 times)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["attention.json"]
    assert main([*args, "3MB"]) == 0
    assert (tmp_path / "attention.malloc").exists()


def test_a_sweep_gives_every_budget_in_order(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swept = answer(capsys, "schedule", setting.profile, "--sweep", "10MB,1kB,5MB", "--plot", tmp_path / "s.png")
    assert [(one["budget_bytes"], one["feasible"]) for one in swept["points"]] == [
        (1000, False),
        (5_000_000, True),
        (10_000_000, True),
    ]
    assert (tmp_path / "s.png").exists()
    with_stock = answer(capsys, "schedule", setting.param, "--sweep", "10MB", "--stock", "-q")
    (stock,) = with_stock["stock"]
    assert stock["seconds"] > 0
    assert stock["peak_bytes"] > 0


def test_flexnns_profile_can_be_scheduled(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "schedule", setting.folder / "classifier.memprof", "--budget", "10MB")
    assert found["is_of_this_machine"] is False
    assert len(found["schedule"]["layers"]) == 5


def test_a_profile_of_another_machine_is_flagged_and_makes_no_plan(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = read_profile(setting.profile)
    assert ours.machine_facts is not None
    machine = replace(ours.machine_facts, cpus=99)
    foreign = tmp_path / "foreign.json"
    write_profile(replace(ours, machine=machine.fingerprint, machine_facts=machine), foreign)
    assert main(["schedule", str(foreign), "--smallest"]) == 0
    assert "measured on another machine" in capsys.readouterr().err
    assert main(["schedule", str(foreign), "--budget", "10MB", "-o", str(tmp_path / "plan.json")]) == 2
    assert "give the model, not its profile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "status", "complaint"),
    [
        ([], 2, "give one of --budget, --smallest, --sweep"),
        (["--budget", "1MB", "--smallest"], 2, "give one of"),
        (["--smallest", "--explain"], 2, "give --budget"),
        (["--smallest", "--plot", "a.png"], 2, "nothing to draw"),
        (["--budget", "1MB", "--stock"], 2, "give --sweep"),
        (["--sweep", "1MB,often"], 2, "'often' is not a size"),
        (["--budget", "1MB", "--plot", "a.gif"], 1, "does not end in"),
        (["--budget", "1MB", "--export-flexnn", "missing"], 1, "missing: no such folder"),
        (["--budget", "1MB", "--shape", "in0=3x8x8"], 2, "a profile says already"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    args: list[str], status: int, complaint: str, setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schedule", str(setting.profile), *args]) == status
    assert complaint in capsys.readouterr().err


def test_files_are_not_replaced_unasked(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(setting.param), "-o", str(setting.profile)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_damaged_profile_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.json"
    for text in ("", "[]", '{"format": "flexnn-profile", "version": 99}', '{"format": "flexnn-profile", "version": 1}'):
        path.write_text(text)
        assert main(["schedule", str(path), "--smallest"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
