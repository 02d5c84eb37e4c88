"""Plain tables for people: aligned columns, one line a row, safe to show whatever a file calls its layers."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flexnn_ncnn.reporters.escape import printable

__all__ = ["write_table"]

_PIPED_WIDTH = 10_000
"""Columns of an output that is no terminal: rows are for grep there, so they are never folded."""


def write_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], stream: TextIO, *, right: Collection[str] = ()
) -> None:
    """Writes `rows` under `headings`.

    Args:
        headings: one a column.
        rows: cells; as many as there are headings. Control characters in them are shown, not sent.
        stream: where to; a terminal's width is kept by folding cells.
        right: the headings of the columns aligned to the right.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    to_terminal = stream.isatty()
    console = Console(file=io.StringIO(), force_terminal=to_terminal, width=None if to_terminal else _PIPED_WIDTH)
    with console.capture() as captured:
        console.print(table)
    stream.writelines(line.rstrip() + "\n" for line in captured.get().splitlines())
