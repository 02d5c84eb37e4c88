from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from flexnn_ncnn.errors import FlexnnError, InputError, MissingPackageError
from flexnn_ncnn.planning.planner import schedule, workload
from flexnn_ncnn.reporters import plots
from flexnn_ncnn.scheduling.forecast import SweepPoint, sweep, sweep_budgets
from flexnn_ncnn.scheduling.memory_map import MapBlob, MemoryMap, memory_map
from flexnn_ncnn.scheduling.scheduler import StockPoint
from tests.unit.small_profiles import BASE_BYTES, small_profile

WORK = workload(small_profile())


def small_map() -> MemoryMap:
    return memory_map(schedule(WORK, 30_000, BASE_BYTES), BASE_BYTES)


def size_of(png: Path) -> tuple[int, int]:
    data = png.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_a_layout_is_drawn(tmp_path: Path) -> None:
    plots.plot_layout(small_map(), "small", tmp_path / "a.png")
    width, height = size_of(tmp_path / "a.png")
    assert width > height > 500
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_sweep_is_drawn_with_points_of_stock(tmp_path: Path) -> None:
    points = sweep(WORK, BASE_BYTES, [100, *sweep_budgets(WORK, BASE_BYTES)])
    plots.plot_sweep(points, [StockPoint("stock ncnn", 60_000, 0.014)], "small", tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "<svg" in text
    assert text.count("<path") > 20


def test_names_from_files_are_not_read_as_mathematics(tmp_path: Path) -> None:
    found = small_map()
    evil = MapBlob(r"$\frac{1}$ \x1b", False, 0, 3, 0, found.memory.arena_bytes)
    plots.plot_layout(
        MemoryMap(30_000, found.memory, found.layers, (evil,), found.heap_bytes, found.mapped_bytes),
        r"$\nonsense{$",
        tmp_path / "a.png",
    )
    assert size_of(tmp_path / "a.png")[0] > 500


def test_nothing_feasible_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        plots.plot_sweep([SweepPoint(5, False)], [], "small", tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_plot_that_cannot_be_made_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plots.check_plot_path(tmp_path / "a.pdf")
    with pytest.raises(InputError, match=r"does not end in \.png"):
        plots.check_plot_path(tmp_path / "a.gif")
    with pytest.raises(InputError, match="no such folder"):
        plots.check_plot_path(tmp_path / "missing" / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'flexnn-ncnn\[plot\]'"):
        plots.check_plot_path(tmp_path / "a.png")


def test_a_failing_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    (tmp_path / "a.png").write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(FlexnnError, match="No space"):
        plots.plot_layout(small_map(), "small", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
