"""A bundle brought to a device: `flexnn deploy`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flexnn_ncnn.bundles import Bundle
from flexnn_ncnn.bundles.manifest import MANIFEST
from flexnn_ncnn.errors import TransferError
from flexnn_ncnn.transfer.places import Place
from flexnn_ncnn.transfer.remote import BLOCK_BYTES, Remote

__all__ = ["DeployReport", "deploy_bundle", "part_name"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class DeployReport:
    """What was sent.

    Attributes:
        url: where to.
        files: of the bundle.
        sent_files: those that were not there yet, or were other ones.
        sent_bytes: what went over the wire.
        resumed_bytes: what an interrupted transfer had sent before.
        size_bytes: of the bundle.
    """

    url: str
    files: tuple[str, ...]
    sent_files: tuple[str, ...]
    sent_bytes: int
    resumed_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Local:
    """A file to be sent."""

    name: str
    path: Path
    size_bytes: int
    sha256: str

    @property
    def part(self) -> str:
        return part_name(self.sha256)


def part_name(sha256: str) -> str:
    """What a file is called while it is not whole: by its contents, so that parts of different ones never meet."""
    return f".{sha256[:16]}.part"


def deploy_bundle(bundle: Bundle, place: Place, progress: Progress | None = None) -> DeployReport:
    """Bring a bundle to a device.

    Files arrive under names of their own. When all are whole they get their final names, the manifest last: until then
    a bundle that was there stays as it was. What was sent before an interruption is not sent again.

    Args:
        bundle: a bundle that was checked.
        place: a folder, which is made where it is missing.
        progress: called with (what, done bytes, of bytes).

    Raises:
        TransferError: the device cannot be reached, has no room, or something arrived damaged.
    """
    files = _files(bundle)
    with Remote(place) as remote:
        sizes = remote.sizes([name for file in files for name in (file.name, file.part)])
        alike = [file.name for file in files if sizes.get(file.name) == file.size_bytes]
        hashes = remote.hashes(alike)
        changed = [file for file in files if hashes.get(file.name) != file.sha256]
        begins = {file.name: _blocks_there(file, sizes) for file in changed}
        sent = _Sent(sum(file.size_bytes for file in changed), progress)
        for file in changed:
            sent.add(begins[file.name] * BLOCK_BYTES, resumed=True)
            with open(file.path, "rb") as source:
                source.seek(begins[file.name] * BLOCK_BYTES)
                remote.put(source, file.part, begins[file.name], sent.add)
        _prove(remote, changed, place)
        if changed:
            remote.move([(file.part, file.name) for file in changed])
    return DeployReport(
        url=place.url,
        files=tuple(file.name for file in files),
        sent_files=tuple(file.name for file in changed),
        sent_bytes=sent.done_bytes - sent.resumed_bytes,
        resumed_bytes=sent.resumed_bytes,
        size_bytes=sum(file.size_bytes for file in files),
    )


def _files(bundle: Bundle) -> list[_Local]:
    """The bundle's files, the manifest last."""
    found = [
        _Local(entry.name, bundle.folder / entry.name, entry.size_bytes, entry.sha256)
        for entry in bundle.manifest.files
    ]
    path = bundle.folder / MANIFEST
    data = path.read_bytes()
    return [*found, _Local(MANIFEST, path, len(data), hashlib.sha256(data).hexdigest())]


def _blocks_there(file: _Local, sizes: dict[str, int]) -> int:
    """Whole blocks of a file that an earlier transfer brought."""
    there = sizes.get(file.part, 0)
    return there // BLOCK_BYTES if there <= file.size_bytes else 0


def _prove(remote: Remote, files: Sequence[_Local], place: Place) -> None:
    arrived = remote.hashes([file.part for file in files])
    damaged = [file for file in files if arrived.get(file.part) != file.sha256]
    if damaged:
        remote.remove([file.part for file in damaged])
        names = ", ".join(file.name for file in damaged)
        raise TransferError(f"{names} arrived damaged at {place.url}", hint="deploy it again")


class _Sent:
    """Counts what is sent."""

    def __init__(self, of_bytes: int, progress: Progress | None) -> None:
        self.done_bytes = self.resumed_bytes = 0
        self._of, self._progress = of_bytes, progress

    def add(self, count_bytes: int, *, resumed: bool = False) -> None:
        """So many bytes more."""
        self.done_bytes += count_bytes
        self.resumed_bytes += count_bytes if resumed else 0
        if self._progress is not None:
            self._progress("deploying", self.done_bytes, self._of)
