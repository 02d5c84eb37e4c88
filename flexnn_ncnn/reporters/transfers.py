"""Transfers as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.transfer.deploying import DeployReport
from flexnn_ncnn.transfer.fetching import FetchReport
from flexnn_ncnn.transfer.places import Place
from flexnn_ncnn.units import format_bytes

__all__ = ["write_deployed", "write_fetched"]


def write_deployed(report: DeployReport, place: Place, stream: TextIO) -> None:
    """Writes what was sent, and how to run it there."""
    sent = _moved(report.sent_bytes, report.sent_files, report.files, report.resumed_bytes)
    _write(stream, ("bundle", f"{report.url}, {format_bytes(report.size_bytes)}"), ("sent", sent))
    _write(stream, ("run", f"flexnn run {place.path}"))


def write_fetched(report: FetchReport, stream: TextIO) -> None:
    """Writes what was fetched."""
    fetched = _moved(report.fetched_bytes, report.fetched_files, report.files, report.resumed_bytes)
    _write(stream, ("from", report.url), ("to", str(report.path)), ("fetched", fetched))


def _moved(count_bytes: int, moved: Sequence[str], files: Sequence[str], resumed_bytes: int) -> str:
    resumed = f", {format_bytes(resumed_bytes)} were there from before" if resumed_bytes else ""
    return f"{format_bytes(count_bytes)} in {len(moved)} of {len(files)} files{resumed}"


def _write(stream: TextIO, *rows: tuple[str, str]) -> None:
    for label, text in rows:
        stream.write(f"{label:<8} {printable(text)}\n")
