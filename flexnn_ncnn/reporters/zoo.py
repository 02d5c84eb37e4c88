"""The zoo as text for people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.reporters.tables import write_table
from flexnn_ncnn.units import format_bytes
from flexnn_ncnn.zoo.status import ModelStatus

__all__ = ["write_models"]


def write_models(models: Iterable[ModelStatus], directory: Path, stream: TextIO) -> None:
    """Writes a table of the models, and the folder they are built in."""
    write_table(
        ("name", "inputs", "parameters", ".bin", "built", "what it is"),
        [_row(model) for model in models],
        stream,
        right=("parameters", ".bin"),
    )
    stream.write(f"\nBuilt models are in {printable(str(directory))}\n")


def _row(model: ModelStatus) -> tuple[str, ...]:
    inputs = ", ".join(f"{one.blob} {'x'.join(map(str, one.shape))} {one.dtype}" for one in model.inputs)
    built = "yes" if model.built else "no"
    return (model.name, inputs, f"{model.parameters:,}", format_bytes(model.bin_bytes), built, model.summary)
