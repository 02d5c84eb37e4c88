from __future__ import annotations

import io
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.reporters.json_report import to_json
from flexnn_ncnn.reporters.tables import write_table


class Kernel(Enum):
    DIRECT = "direct"


@dataclass(frozen=True)
class Inner:
    peak_bytes: int
    ratio: float


@dataclass(frozen=True)
class Outer:
    inner: Inner
    shapes: tuple[tuple[int, ...], ...]
    path: Path
    kernel: Kernel
    counts: MappingProxyType[str, int]
    missing: None = None


def test_a_record_becomes_json_under_its_own_names() -> None:
    record = Outer(
        Inner(np.int64(5), np.float32(0.5)), ((1, 2), ()), Path("a/b"), Kernel.DIRECT, MappingProxyType({"conv": 2})
    )
    assert json.loads(to_json(record)) == {
        "inner": {"peak_bytes": 5, "ratio": 0.5},
        "shapes": [[1, 2], []],
        "path": "a/b",
        "kernel": "direct",
        "counts": {"conv": 2},
        "missing": None,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("-inf")])
def test_what_is_not_finite_becomes_null(value: float) -> None:
    assert to_json(Inner(1, value)) == '{\n  "peak_bytes": 1,\n  "ratio": null\n}'


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", Inner])
def test_other_values_are_a_bug_and_not_a_string(value: object) -> None:
    with pytest.raises(TypeError, match="has no JSON form"):
        to_json([value])


def table(rows: list[tuple[str, str]], right: tuple[str, ...] = ("size",)) -> str:
    stream = io.StringIO()
    write_table(("name", "size"), rows, stream, right=right)
    return stream.getvalue()


def test_a_table_is_aligned_and_has_no_trailing_blanks() -> None:
    assert table([("conv1", "1.0 kB"), ("a", "12.0 MB")]) == "name      size\nconv1   1.0 kB\na      12.0 MB\n"
    assert table([("a", "1 B"), ("b", "10 B")], right=()) == "name  size\na     1 B\nb     10 B\n"


def test_markup_emoji_and_long_names_are_shown_as_they_are() -> None:
    name = "[bold]x[/] :smile: " + 300 * "n"
    assert name in table([(name, "1 B")])


def test_control_characters_of_a_hostile_file_never_reach_the_terminal() -> None:
    shown = table([("\x1b[31mred\x07\r\N{RIGHT-TO-LEFT OVERRIDE}", "1 B")])
    assert r"\x1b[31mred\x07\r\u202e" in shown
    assert "\x1b" not in shown


def test_printable_keeps_ordinary_text() -> None:
    assert printable("Größe 3x3 ☃") == "Größe 3x3 ☃"
    assert printable("\ud800") == r"\ud800"
