"""A bundle in one file: an uncompressed tar with the manifest first, the files in their order, and nothing else."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from flexnn_ncnn.bundles.hashing import copy_hashed
from flexnn_ncnn.bundles.manifest import FILES, MANIFEST, Manifest, read_manifest
from flexnn_ncnn.errors import BundleError
from param_tools.files import open_regular

__all__ = ["SUFFIX", "pack", "unpack"]

SUFFIX = ".tar"

_BLOCK_BYTES = tarfile.BLOCKSIZE
_MOST_MANIFEST_BYTES = 1024 * 1024
_MOST_PADDING_BYTES = 2 * tarfile.RECORDSIZE


def pack(folder: Path, file: IO[bytes], report: Callable[[int], None] | None = None) -> None:
    """Write the bundle in `folder` to `file`; the same bundle gives the same bytes.

    Args:
        folder: a bundle.
        file: where to, opened for writing.
        report: called with the bytes of each piece.
    """
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in (MANIFEST, *FILES):
            with open(folder / name, "rb") as source:
                member = tarfile.TarInfo(name)
                member.size = os.fstat(source.fileno()).st_size
                archive.addfile(member, _Reporting(source, report))


def unpack(path: str | os.PathLike[str], folder: Path, report: Callable[[int], None] | None = None) -> Manifest:
    """Unpack the bundle at `path` into `folder`, checking every byte on the way.

    Nothing but the files of a bundle is written, under their own names, and no header makes anything be allocated.

    Args:
        path: the archive.
        folder: an empty folder.
        report: called with the bytes of each piece.

    Raises:
        BundleError: it is no bundle, or a damaged one.
    """
    where = os.fspath(path)
    with open_regular(path) as file:
        size_bytes = _begin_member(file, MANIFEST, where)
        if size_bytes > _MOST_MANIFEST_BYTES:
            raise BundleError(f"{where}: its {MANIFEST} is larger than any")
        _unpack_member(file, size_bytes, folder / MANIFEST, where, report)
        manifest = read_manifest(folder / MANIFEST)
        for entry in manifest.files:
            if _begin_member(file, entry.name, where) != entry.size_bytes:
                raise _damaged(where, f"{entry.name} has not the size that {MANIFEST} states")
            if _unpack_member(file, entry.size_bytes, folder / entry.name, where, report) != entry.sha256:
                raise _damaged(where, f"{entry.name} has not the hash that {MANIFEST} states")
        rest = file.read(_MOST_PADDING_BYTES)
        if rest.strip(b"\0") or file.read(1):
            raise _damaged(where, "something follows after its files")
    return manifest


def _begin_member(file: IO[bytes], name: str, where: str) -> int:
    """Reads the header of the member that must come next; its size."""
    block = file.read(_BLOCK_BYTES)
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise _damaged(where, f"no {name} where it should be") from error
    if member.name != name or member.type != tarfile.REGTYPE or member.size < 0:
        raise _damaged(where, f"no {name} where it should be")
    return member.size


def _unpack_member(
    file: IO[bytes], size_bytes: int, target: Path, where: str, report: Callable[[int], None] | None
) -> str:
    """Copies a member; its hash."""
    with open(target, "xb") as out:
        sha256, count = copy_hashed(file, size_bytes, out, report)
    padding = bytes(-size_bytes % _BLOCK_BYTES)
    if count != size_bytes or file.read(len(padding)) != padding:
        raise _damaged(where, f"{target.name} does not end where it should")
    return sha256


def _damaged(where: str, what: str) -> BundleError:
    return BundleError(f"{where} is damaged, or no bundle: {what}", hint="copy or make it again")


class _Reporting:
    """A file that tells how much is read from it."""

    def __init__(self, file: IO[bytes], report: Callable[[int], None] | None) -> None:
        self._file, self._report = file, report

    def read(self, count: int = -1, /) -> bytes:
        """As a file's."""
        piece = self._file.read(count)
        if self._report is not None:
            self._report(len(piece))
        return piece
