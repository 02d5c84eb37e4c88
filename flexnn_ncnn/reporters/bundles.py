"""Bundles as text for people."""

from __future__ import annotations

from typing import TextIO

from flexnn_ncnn.bundles.making import BundleReport
from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.units import format_bytes

__all__ = ["write_bundle"]


def write_bundle(report: BundleReport, stream: TextIO) -> None:
    """Writes what was put where, and what the device will do with it."""
    manifest = report.manifest
    predicted = format_bytes(report.predicted_peak_bytes)
    plan = "used there once it has been tried" if report.is_ready else "a forecast: it is measured there"
    for label, text in (
        ("bundle", f"{report.path}, {format_bytes(report.size_bytes)}"),
        ("model", manifest.model),
        ("budget", f"{format_bytes(manifest.budget_bytes)}, of which {predicted} are held where it was measured"),
        ("made for", manifest.made_for),
        ("measured", manifest.machine.summary),
        ("plan", plan),
        *(("note", note) for note in report.notes),
    ):
        stream.write(f"{label:<9} {printable(text)}\n")
