"""docs/formats/ncnn-model.md is in step with the schema."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from param_tools import schema_doc
from param_tools.encoding import Encoding
from param_tools.schema import LAYERS

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "ncnn-model.md"


def test_tables_are_made_from_the_schema() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert schema_doc.with_tables(page) == page, "run python -m param_tools.schema_doc docs/formats/ncnn-model.md"


def test_every_type_and_array_is_in_the_tables() -> None:
    tables = schema_doc.layer_tables()
    for schema in LAYERS.values():
        (row,) = (line for line in tables.splitlines() if line.startswith(f"| {schema.type} |"))
        assert re.findall(r"\*\*(\w+)\*\*", row) == [array.name for array in schema.arrays]
        assert all(f"`{param.id} {param.name}=" in row for param in schema.params)


def test_the_page_knows_every_tag() -> None:
    page = PAGE.read_text(encoding="utf-8")
    tags = {
        f"`{encoding.tag:08X}`" for encoding in Encoding if encoding.tag is not None and encoding is not Encoding.TABLE
    }
    assert {tag for tag in tags if f"| {tag} |" not in page} == set()


def test_main_rewrites_only_the_tables(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{schema_doc.BEGIN}\nstale\n{schema_doc.END}\nafter\n")
    schema_doc.main([str(page)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "stale" not in text
    assert "| Convolution |" in text


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="once each"):
        schema_doc.with_tables("# page\n")
