"""Bundles of bytes that no ncnn could run: for what is proved before anything runs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from flexnn_ncnn.bundles.manifest import FILES, MANIFEST, FileEntry, Manifest, write_manifest
from flexnn_ncnn.records.input_spec import InputSpec
from flexnn_ncnn.records.machine import Machine
from flexnn_ncnn.records.options import RunOptions

__all__ = ["CONTENTS", "MACHINE", "contents_of", "write_bundle"]

CONTENTS = {
    "model.param": b"7767517\n1 1\nInput in0 0 1 in0\n",
    "model.bin": bytes(range(256)) * 5,
    "profile.json": b"{}",
    "plan.json": b"",
}
MACHINE = Machine("Linux", "aarch64", ("Cortex-A76",), ("asimd", "fp"), 4, 524288, 16384, "1.0")


def write_bundle(folder: Path, contents: dict[str, bytes] | None = None, **changes: object) -> Manifest:
    """A bundle with these files in `folder`; `changes` to its manifest."""
    files = CONTENTS | (contents or {})
    manifest = Manifest(
        model="m",
        zoo="",
        budget_bytes=8_000_000,
        options=RunOptions(),
        inputs=(InputSpec("in0", (3, 4, 4), "float32"),),
        made_for="tests",
        made_for_fingerprint="",
        machine=MACHINE,
        versions=(("ncnn", "1.0"),),
        files=tuple(FileEntry(name, len(files[name]), hashlib.sha256(files[name]).hexdigest()) for name in FILES),
    )
    manifest = replace(manifest, **changes)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    write_manifest(manifest, folder / MANIFEST)
    return manifest


def contents_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
