"""Which models of the zoo are built, and the stamp beside a .bin that says so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from flexnn_ncnn.zoo.entry import InputSpec, ZooEntry
from flexnn_ncnn.zoo.registry import entry, model_paths, names

__all__ = ["ModelStatus", "is_built", "stamp", "stamp_path", "statuses"]


@dataclass(frozen=True)
class ModelStatus:
    """One row of the list of models.

    Attributes:
        name: what commands call it.
        summary: one line for people.
        inputs: the blobs to feed.
        output: the blob that is the answer.
        parameters: number of weights.
        bin_bytes: size of the .bin.
        built: whether this release's .param and .bin are there.
        param_path: where the .param is or would be.
        bin_path: where the .bin is or would be.
    """

    name: str
    summary: str
    inputs: tuple[InputSpec, ...]
    output: str
    parameters: int
    bin_bytes: int
    built: bool
    param_path: Path
    bin_path: Path


def statuses(directory: Path | None = None) -> tuple[ModelStatus, ...]:
    """Every model of the zoo, and whether it is built in `directory` (`default_directory()` when None)."""
    return tuple(_status(entry(name), directory) for name in names())


def is_built(name: str, directory: Path | None = None) -> bool:
    """Whether this release's `name` is in `directory`.

    Looks at the sizes and at the hash recorded when the .bin was written, so it
    is quick; a .bin that was changed later and kept its size is not found out.

    Raises:
        UsageError: the zoo has no such model.
    """
    known = entry(name)
    param_path, bin_path = model_paths(name, directory)
    try:
        return (
            bin_path.stat().st_size == known.bin_bytes
            and stamp_path(bin_path).read_bytes() == stamp(known)
            and hashlib.sha256(param_path.read_bytes()).hexdigest() == known.param_sha256
        )
    except OSError:
        return False


def stamp_path(bin_path: Path) -> Path:
    """The file that vouches for a .bin."""
    return bin_path.with_name(f"{bin_path.name}.sha256")


def stamp(known: ZooEntry) -> bytes:
    """What the stamp of a good .bin holds: the line that `sha256sum --check` reads."""
    return f"{known.bin_sha256}  {known.name}.bin\n".encode("ascii")


def _status(known: ZooEntry, directory: Path | None) -> ModelStatus:
    return ModelStatus(
        known.name,
        known.summary,
        known.inputs,
        known.output,
        known.parameters,
        known.bin_bytes,
        is_built(known.name, directory),
        *model_paths(known.name, directory),
    )
