"""Files brought from a device: `flexnn fetch`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from flexnn_ncnn.bundles.hashing import copy_hashed
from flexnn_ncnn.errors import TransferError
from flexnn_ncnn.transfer.deploying import part_name
from flexnn_ncnn.transfer.places import Place
from flexnn_ncnn.transfer.remote import BLOCK_BYTES, Remote
from param_tools.files import open_regular

__all__ = ["FetchReport", "fetch"]

Progress = Callable[[str, int, int], None]

_LINE = re.compile(r"([0-9]{1,18}) ([0-9a-f]{64}) (.+)")
_PART = re.compile(r"\.[0-9a-f]{16}\.part")
_MOST_FILES = 10_000


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What was fetched.

    Attributes:
        url: where from.
        path: where to: a file, or a folder.
        files: all there are, by their names on the device.
        fetched_files: those that were not here yet, or were other ones.
        fetched_bytes: what came over the wire.
        resumed_bytes: what an interrupted transfer had brought before.
    """

    url: str
    path: Path
    files: tuple[str, ...]
    fetched_files: tuple[str, ...]
    fetched_bytes: int
    resumed_bytes: int


@dataclass(frozen=True, slots=True)
class _File:
    """A file on the device and where it goes."""

    remote_path: str
    name: str
    target: Path
    size_bytes: int
    sha256: str


def fetch(place: Place, path: Path, progress: Progress | None = None) -> FetchReport:
    """Bring a file, or all files below a folder.

    Each appears under its name when it is whole, replacing what was there. What was brought before an interruption is
    not brought again.

    Args:
        place: a file or a folder.
        path: where it goes; into it, where a file is fetched and `path` is a folder.
        progress: called with (what, done bytes, of bytes).

    Raises:
        TransferError: the device cannot be reached, has no such file, or something arrived damaged.
    """
    with Remote(place) as remote:
        files, target = _plan(place, path, remote.listing())
        missing = [file for file in files if not _is_here(file)]
        of_bytes, done, resumed = sum(file.size_bytes for file in missing), 0, 0

        def report(count_bytes: int) -> None:
            nonlocal done
            done += count_bytes
            if progress is not None:
                progress("fetching", done, of_bytes)

        for file in missing:
            file.target.parent.mkdir(parents=True, exist_ok=True)
            resumed += _fetch_one(remote, file, report)
    return FetchReport(
        url=place.url,
        path=target,
        files=tuple(file.name for file in files),
        fetched_files=tuple(file.name for file in missing),
        fetched_bytes=done - resumed,
        resumed_bytes=resumed,
    )


def _plan(place: Place, path: Path, listing: str) -> tuple[list[_File], Path]:
    """The files of a listing, and the file or folder they make."""
    lines = listing.splitlines()
    if lines[:1] == ["none"]:
        raise TransferError(f"{place.url}: no such file or folder")
    is_file = lines[:1] == ["file"]
    target = path / PurePosixPath(place.path).name if is_file and path.is_dir() else path
    if len(lines) > _MOST_FILES:
        raise TransferError(f"{place.url} has more than {_MOST_FILES} files", hint="fetch its folders one by one")
    files = []
    for line in lines[1:] if is_file else lines:
        matched = _LINE.fullmatch(line)
        if matched is None or not line.isprintable():
            raise TransferError(f"{place.url} has a file whose name cannot be handled: {line[:80]!r}")
        size, sha256, name = matched.groups()
        if is_file:
            files.append(_File(place.path, target.name, target, int(size), sha256))
            continue
        name = name.removeprefix("./")
        if not _PART.fullmatch(PurePosixPath(name).name):
            files.append(_File(f"{place.path.rstrip('/')}/{name}", name, target / _inside(name), int(size), sha256))
    if is_file and len(files) != 1:
        raise TransferError(f"{place.url} cannot be listed")
    return files, target


def _inside(name: str) -> Path:
    """A relative path that stays below the folder it is joined to: the device says what it likes."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or os.path.isabs(name) or "\\" in name:
        raise TransferError(f"the device has a file {name!r}, which would lie elsewhere here")
    return Path(*parts)


def _is_here(file: _File) -> bool:
    """Whether the very file is there already."""
    try:
        with open_regular(file.target) as here:
            if os.fstat(here.fileno()).st_size != file.size_bytes:
                return False
            return copy_hashed(here, file.size_bytes)[0] == file.sha256
    except FileNotFoundError:
        return False


def _fetch_one(remote: Remote, file: _File, report: Callable[[int], None]) -> int:
    """Brings one file; how many bytes of it were here before."""
    part = file.target.with_name(part_name(file.sha256))
    with _open_part(part) as out:
        there = os.fstat(out.fileno()).st_size
        block = there // BLOCK_BYTES if there <= file.size_bytes else 0
        begin = block * BLOCK_BYTES
        out.truncate(begin)
        out.seek(begin)
        report(begin)
        remote.get(file.remote_path, block, out, file.size_bytes - begin, report)
        out.flush()
        out.seek(0)
        if copy_hashed(out, file.size_bytes + 1)[0] != file.sha256:
            os.unlink(part)
            raise TransferError(f"{file.name} arrived damaged, or changed on the way", hint="fetch it again")
        os.fsync(out.fileno())
    os.replace(part, file.target)
    return begin


def _open_part(path: Path) -> IO[bytes]:
    """The part, as far as it is there; not through a link that somebody put there."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return open(os.open(path, flags, 0o644), "r+b")
