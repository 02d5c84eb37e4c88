"""What is to be measured, how results are kept, and what is measured again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from eval import commands
from eval.cells import EXPERIMENTS, Cell, Effort, cells_of
from eval.contest_cell import SHIPPED
from eval.measuring import run_cells
from eval.peers.setups import PEERS
from eval.published import budgets_bytes, published_model
from eval.results import Results
from flexnn_ncnn import zoo
from flexnn_ncnn.errors import InputError, UsageError
from flexnn_ncnn.measuring.contestants import CONFIGS
from param_tools.errors import FlexnnError

MACHINE = {"fingerprint": "f" * 16, "cpus": 2}
MB = 1_000_000


def some_cells() -> list[Cell]:
    return cells_of("end-to-end", ["tiny.param"], [5 * MB, 7 * MB], Effort(loops=2))


def test_every_zoo_model_is_measured_end_to_end() -> None:
    cells = cells_of("end-to-end", [], [], Effort())
    assert {cell.model for cell in cells} == set(zoo.names())
    assert len({json.dumps(cell.key) for cell in cells}) == len(cells)
    for model in zoo.names():
        measured = {cell.budget_bytes for cell in cells if cell.model == model and "flexnn" in cell.configs}
        assert measured > set(budgets_bytes(model))
        contestants = {config for cell in cells if cell.model == model for config in cell.configs}
        assert contestants == {"shipped", "stock", "stock-no-winograd", "stock-direct", "ondemand", "flexnn"}


def test_the_papers_budgets() -> None:
    ends = {model: (budgets_bytes(model)[0] // MB, budgets_bytes(model)[-1] // MB) for model in zoo.names()[:5]}
    assert ends["vgg19"] == (60, 1000)
    assert ends["resnet152"] == (35, 600)
    assert ends["squeezenet"] == (10, 20)
    assert ends["mobilenetv2"] == (12, 20)
    assert budgets_bytes("realesrgan-x4plus") == ()


def test_published_points_are_within_what_is_said_of_them() -> None:
    for model in ("vgg19", "resnet152", "squeezenet", "mobilenetv2", "vit_b16_mha", "gpt2_124m"):
        found = published_model(model)
        assert found is not None
        assert len(found.devices) == 3
        for contestants in found.devices.values():
            budgets = [memory * MB for memory, _ in contestants["FlexNN"]]
            assert set(budgets) <= set(budgets_bytes(model))
            assert budgets == sorted(budgets)
    headline = published_model("resnet152")
    assert headline is not None
    pixel = headline.devices["Google Pixel 6 Pro"]
    (stock_mb, stock_ms), (least_mb, least_ms) = pixel["NCNN-Default"][0], pixel["FlexNN"][0]
    assert round(100 * (1 - least_mb / stock_mb), 1) == 93.8
    assert round(100 * (least_ms / stock_ms - 1), 1) == 3.6


def test_little_effort_takes_the_lowest_and_the_middle() -> None:
    cells = cells_of("end-to-end", ["vgg19"], [], Effort(is_quick=True))
    budgets = [cell.budget_bytes for cell in cells if cell.budget_bytes]
    assert budgets == [30 * MB, 100 * MB]


def test_other_experiments() -> None:
    ablation = cells_of("ablation", [], [], Effort())
    assert [(cell.model, cell.budget_bytes) for cell in ablation] == [
        (model, budget * MB) for model in ("vgg19", "resnet152") for budget in (100, 500)
    ]
    overhead = {cell.model: cell.budget_bytes for cell in cells_of("overhead", [], [], Effort())}
    assert overhead["vgg19"] == 60 * MB
    assert overhead.keys() == set(zoo.names())
    (demo, _) = cells_of("adaptive", [], [], Effort())
    assert (demo.model, demo.sequence_bytes) == ("vgg19", (100 * MB, 300 * MB, 200 * MB, 500 * MB))
    peers = cells_of("peers", [], [], Effort())
    assert {*PEERS, "stock-no-winograd", "shipped", "flexnn"} <= set(peers[0].configs)
    assert all(cell.limit_percent == 5 for cell in peers)
    assert {cell.device for cell in cells_of("peers", [], [], Effort(device="pi4-sd"))} == {"pi4-sd"}


def test_every_configuration_can_be_measured() -> None:
    known = {*CONFIGS, *PEERS, SHIPPED}
    for experiment in ("end-to-end", "ablation", "peers"):
        assert {config for cell in cells_of(experiment, [], [], Effort()) for config in cell.configs} <= known


def test_quick_is_about_every_experiment() -> None:
    for experiment in EXPERIMENTS:
        quick = {cell.model for cell in cells_of(experiment, [], [], Effort(is_quick=True))}
        assert quick
        assert quick <= {cell.model for cell in cells_of(experiment, [], [], Effort())}


def test_a_model_without_budgets() -> None:
    for experiment in ("end-to-end", "overhead"):
        with pytest.raises(UsageError, match=r"no budgets are known for mine\.param; give --budgets"):
            cells_of(experiment, ["mine.param"], [], Effort())
    assert all(cells_of(one, ["mine.param"], [MB], Effort()) for one in EXPERIMENTS)


class Fake:
    """Measures nothing; stops after some cells, as a machine that is switched off does."""

    def __init__(self, stops_after: int = 100, status: str = "measured") -> None:
        self.cells: list[Cell] = []
        self._stops_after, self._status = stops_after, status

    def __call__(self, cell: Cell) -> Mapping[str, Any]:
        if len(self.cells) == self._stops_after:
            raise KeyboardInterrupt
        self.cells.append(cell)
        return {"status": self._status, "found": {}, "message": "it broke"}


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    cells, first, second = some_cells(), Fake(stops_after=2), Fake()
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, Results(tmp_path, MACHINE), measured_by=first)
    assert run_cells(cells, Results(tmp_path, MACHINE), measured_by=second) == []
    assert first.cells + second.cells == cells
    kept = Results(tmp_path, MACHINE)
    assert [line["cell"] for line in kept.latest("end-to-end")] == [cell.key for cell in cells]
    assert kept.latest("ablation") == []


def test_more_loops_are_another_measurement(tmp_path: Path) -> None:
    run_cells(some_cells(), Results(tmp_path, MACHINE), measured_by=Fake())
    more = cells_of("end-to-end", ["tiny.param"], [5 * MB], Effort(loops=3))
    fake = Fake()
    run_cells(more, Results(tmp_path, MACHINE), measured_by=fake)
    assert fake.cells == more


def test_what_failed_is_measured_again_and_what_was_refused_is_not(tmp_path: Path) -> None:
    one, other = some_cells()[:2]
    assert run_cells([one], Results(tmp_path, MACHINE), measured_by=Fake(status="failed")) == ["it broke"]
    assert run_cells([other], Results(tmp_path, MACHINE), measured_by=Fake(status="refused")) == []
    again = Fake()
    results = Results(tmp_path, MACHINE)
    run_cells([one, other], results, measured_by=again)
    assert again.cells == [one]
    assert [line["status"] for line in results.latest("end-to-end")] == ["measured", "refused"]


@pytest.mark.parametrize("damage", [b'{"version": 1, "ce', b"\0\0\0", b"{}{\n"])
def test_a_last_line_that_was_cut_short_is_dropped(damage: bytes, tmp_path: Path) -> None:
    cells = some_cells()
    run_cells(cells[:2], Results(tmp_path, MACHINE), measured_by=Fake())
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + damage)
    fake = Fake()
    run_cells(cells, Results(tmp_path, MACHINE), measured_by=fake)
    assert fake.cells == cells[2:]
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line)["status"] == "measured" for line in path.read_text(encoding="utf-8").splitlines())


def test_damage_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    run_cells(some_cells()[:2], Results(tmp_path, MACHINE), measured_by=Fake())
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(InputError, match=r"results\.jsonl:1 is no result"):
        Results(tmp_path, MACHINE)


def test_results_of_another_machine_are_not_mixed_in(tmp_path: Path) -> None:
    Results(tmp_path, MACHINE)
    with pytest.raises(InputError, match="not about this machine"):
        Results(tmp_path, {"fingerprint": "e" * 16})
    (tmp_path / "file").touch()
    with pytest.raises(FlexnnError, match="cannot be made"):
        Results(tmp_path / "file", MACHINE)


def test_energy_is_summed_over_packages_and_survives_the_counter_starting_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(zone: str, microjoules: int) -> None:
        (tmp_path / zone).mkdir(exist_ok=True)
        (tmp_path / zone / "energy_uj").write_text(f"{microjoules}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("100000000\n")

    monkeypatch.setattr(commands, "_POWERCAP", tmp_path)
    for zone, value in (("intel-rapl:0", 1_000_000), ("intel-rapl:1", 99_000_000), ("intel-rapl:0:0", 500_000)):
        write(zone, value)
    before = commands._spent()
    write("intel-rapl:0", 3_000_000)
    write("intel-rapl:1", 4_000_000)
    write("intel-rapl:0:0", 900_000)
    assert commands._cost(1.0, before, commands._spent()).joules == pytest.approx(2 + 5)
    monkeypatch.setattr(commands, "_POWERCAP", tmp_path / "none")
    assert commands._cost(1.0, commands._spent(), commands._spent()).joules is None
