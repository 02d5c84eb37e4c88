"""Bundles opened: in a folder where they lie, or in one file that is unpacked into the cache; checked either way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from flexnn_ncnn.bundles.archive import SUFFIX, unpack
from flexnn_ncnn.bundles.hashing import copy_hashed
from flexnn_ncnn.bundles.manifest import MANIFEST, PARAM, PLAN, PROFILE, WEIGHTS, Manifest, read_manifest
from flexnn_ncnn.errors import BundleError
from flexnn_ncnn.paths import cache_dir
from param_tools.files import atomic_write, open_regular

__all__ = ["Bundle", "Progress", "is_bundle", "open_bundle"]

Progress = Callable[[str, int, int], None]

_AGAIN = "copy or make the bundle again"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were found whole.

    Attributes:
        folder: where they are.
        manifest: what it says about itself.
    """

    folder: Path
    manifest: Manifest

    @property
    def param_path(self) -> Path:
        """The .param."""
        return self.folder / PARAM

    @property
    def bin_path(self) -> Path:
        """The .bin."""
        return self.folder / WEIGHTS

    @property
    def plan_path(self) -> Path:
        """The plan."""
        return self.folder / PLAN

    @property
    def profile_path(self) -> Path:
        """The profile."""
        return self.folder / PROFILE


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is meant to be a bundle: a folder with a manifest, or a .tar."""
    where = Path(path)
    return where.suffix == SUFFIX or (where.is_dir() and os.path.lexists(where / MANIFEST))


def open_bundle(
    path: str | os.PathLike[str], progress: Progress | None = None, *, folder: Path | None = None
) -> Bundle:
    """Open a bundle and check its files against the hashes in its manifest.

    A file is hashed when it is first seen and whenever its size or time of change is another than then.

    Args:
        path: a folder, or a .tar, which is unpacked into the cache once.
        progress: called with (what, done bytes, of bytes).
        folder: cache folder, by default the platform's.

    Raises:
        FormatVersionError: of another release.
        BundleError: it is none, or damaged.
    """
    where = Path(path)
    known = _Known((folder or cache_dir()) / "bundles")
    if not where.is_dir():
        where = _unpacked(where, known, progress)
    manifest = read_manifest(_regular(where / MANIFEST))
    facts = _facts(where, manifest)
    if known.facts(where) != facts:
        _check(where, manifest, progress)
        known.remember(where, facts)
    return Bundle(where, manifest)


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found whole before.

    Attributes:
        folder: where that is noted, and where archives are unpacked.
    """

    folder: Path

    def path(self, bundle: Path) -> Path:
        """A path of its own for each bundle."""
        return self.folder / hashlib.sha256(os.fsencode(bundle.resolve())).hexdigest()[:24]

    def facts(self, bundle: Path) -> str:
        """How the bundle was when it was found whole; "" where it was not seen yet."""
        try:
            return self.path(bundle).with_suffix(".checked").read_text(encoding="utf-8")
        except (OSError, ValueError):
            return ""

    def remember(self, bundle: Path, facts: str) -> None:
        """Note that the bundle is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path(bundle).with_suffix(".checked"), "w") as file:
            file.write(facts)


def _check(folder: Path, manifest: Manifest, progress: Progress | None) -> None:
    """Proves that the files have the hashes that the manifest states."""
    report = _Total("checking the bundle", manifest.size_bytes, progress)
    for entry in manifest.files:
        path = folder / entry.name
        with open_regular(path) as file:
            sha256, _ = copy_hashed(file, entry.size_bytes, None, report.add)
        if sha256 != entry.sha256:
            raise BundleError(f"{path} is damaged: it has not the hash that {MANIFEST} states", hint=_AGAIN)


def _facts(folder: Path, manifest: Manifest) -> str:
    """What tells whether a file was changed, after checking that each is a plain one of the right size."""
    facts: list[list[int | str]] = []
    for entry in manifest.files:
        path = _regular(folder / entry.name)
        status = path.stat()
        if status.st_size != entry.size_bytes:
            raise BundleError(
                f"{path} is damaged: it has {status.st_size} bytes, not the {entry.size_bytes} that {MANIFEST} states",
                hint=_AGAIN,
            )
        facts.append([entry.sha256, status.st_ino, status.st_mtime_ns])
    return json.dumps(facts)


def _unpacked(path: Path, known: _Known, progress: Progress | None) -> Path:
    """The folder in the cache that the archive at `path` is unpacked in, now or before."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    facts, target = json.dumps([status.st_ino, status.st_size, status.st_mtime_ns]), known.path(path)
    if target.is_dir() and known.facts(path) == facts:
        return target
    known.folder.mkdir(parents=True, exist_ok=True)
    aside = Path(mkdtemp(prefix=".", dir=known.folder))
    try:
        manifest = unpack(path, aside, _Total("unpacking the bundle", status.st_size, progress).add)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    known.remember(path, facts)
    known.remember(target, _facts(target, manifest))
    return target


def _regular(path: Path) -> Path:
    """`path`, if a plain file is there and not a link to one."""
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", hint=_AGAIN) from error
    if not stat.S_ISREG(mode):
        raise BundleError(f"{path} is no plain file", hint=_AGAIN)
    return path


class _Total:
    """Adds up pieces into progress."""

    def __init__(self, what: str, of_bytes: int, progress: Progress | None) -> None:
        self._what, self._of, self._done, self._progress = what, of_bytes, 0, progress

    def add(self, count_bytes: int) -> None:
        """So many bytes more."""
        self._done += count_bytes
        if self._progress is not None:
            self._progress(self._what, min(self._done, self._of), self._of)
