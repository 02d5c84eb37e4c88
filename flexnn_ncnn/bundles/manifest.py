"""What a bundle's bundle.json says; the format is described in docs/formats/bundle.md."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass

from flexnn_ncnn.errors import BundleError
from flexnn_ncnn.records.formats import decode_record, read_document
from flexnn_ncnn.records.input_spec import InputSpec
from flexnn_ncnn.records.machine import Machine
from flexnn_ncnn.records.options import RunOptions
from param_tools.files import atomic_write

__all__ = ["FILES", "FORMAT", "FORMAT_VERSION", "MANIFEST", "FileEntry", "Manifest", "read_manifest", "write_manifest"]

FORMAT, FORMAT_VERSION = "flexnn-bundle", 2
MANIFEST = "bundle.json"
PARAM, WEIGHTS, PROFILE, PLAN = "model.param", "model.bin", "profile.json", "plan.json"
FILES = (PARAM, WEIGHTS, PROFILE, PLAN)
"""The files of a bundle beside its manifest; there are no others, so no name in a manifest can lead elsewhere."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 2**62
_MOST_THREADS = 1024


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file.

    Attributes:
        name: one of `FILES`.
        size_bytes: its size.
        sha256: its hash.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a bundle.

    Attributes:
        model: what to call the model.
        zoo: its name in the zoo, which knows how to feed it pictures and what its outputs mean; "" for none.
        budget_bytes: what an inference may hold beyond the idle process.
        options: how to compute.
        inputs: what the network is fed.
        made_for: what it is meant to run on, for people.
        made_for_fingerprint: of the machine it is meant for, "" for a kind of machine.
        machine: where the profile was measured.
        versions: of the packages that made it.
        files: size and hash of every file, in the order of `FILES`.
    """

    model: str
    zoo: str
    budget_bytes: int
    options: RunOptions
    inputs: tuple[InputSpec, ...]
    made_for: str
    made_for_fingerprint: str
    machine: Machine
    versions: tuple[tuple[str, str], ...]
    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """Hash of all it says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def write_manifest(manifest: Manifest, path: str | os.PathLike[str]) -> None:
    """Write a manifest with its own hash, replacing the file as a whole."""
    fields = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(manifest), "sha256": manifest.sha256}
    with atomic_write(path, "w") as file:
        json.dump(fields, file, indent=1, allow_nan=False)
        file.write("\n")


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read a manifest.

    Raises:
        FormatVersionError: another release's format.
        BundleError: no manifest, or one that says what cannot be.
    """
    document = read_document(FORMAT, FORMAT_VERSION, path, BundleError)
    stated = document.pop("sha256", None)
    found = decode_record(Manifest, document, FORMAT, path, BundleError)
    problem = _problem(found) or ("" if stated == found.sha256 else "it has not the hash that it states")
    if problem:
        raise BundleError(f"{os.fspath(path)}: {problem}", hint="make the bundle again with 'flexnn bundle'")
    return found


def _problem(manifest: Manifest) -> str:
    """What is wrong, "" where nothing is."""
    if tuple(file.name for file in manifest.files) != FILES:
        return f"its files are not {', '.join(FILES)}"
    for file in manifest.files:
        if not 0 <= file.size_bytes <= _MOST_BYTES or not _SHA256.fullmatch(file.sha256):
            return f"{file.name} has no size or hash that a file can have"
    if not 1 <= manifest.budget_bytes <= _MOST_BYTES:
        return f"its budget is {manifest.budget_bytes} bytes"
    if not 1 <= manifest.options.num_threads <= _MOST_THREADS:
        return f"it computes on {manifest.options.num_threads} threads"
    if not manifest.inputs or any(not 1 <= len(one.shape) <= 4 or min(one.shape) < 1 for one in manifest.inputs):
        return "its inputs have no shapes"
    return ""
