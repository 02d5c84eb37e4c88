"""Bundles made: a model with the profile and the plan that this machine found for a budget."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.bundles.archive import SUFFIX, pack
from flexnn_ncnn.bundles.hashing import copy_hashed
from flexnn_ncnn.bundles.manifest import (
    FILES,
    MANIFEST,
    PARAM,
    PLAN,
    PROFILE,
    WEIGHTS,
    FileEntry,
    Manifest,
    write_manifest,
)
from flexnn_ncnn.bundles.opening import Progress
from flexnn_ncnn.bundles.targets import Target
from flexnn_ncnn.device import here
from flexnn_ncnn.errors import BundleError, InputError
from flexnn_ncnn.formats import write_profile
from flexnn_ncnn.input_spec import InputSpec
from flexnn_ncnn.paths import cache_dir
from flexnn_ncnn.preparation import PlanCache, Request, prepare
from flexnn_ncnn.scheduling import profile_model_files
from param_tools.files import atomic_write, open_regular

__all__ = ["BundleReport", "Wanted", "make_bundle"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to put into a bundle.

    Attributes:
        request: the model, the budget and how to compute.
        name: what to call the model.
        zoo: its name in the zoo, "" for none.
        inputs: what the network is fed, shapes included.
        target: what the bundle is meant to run on.
    """

    request: Request
    name: str
    zoo: str
    inputs: Sequence[InputSpec]
    target: Target


@dataclass(frozen=True, slots=True)
class BundleReport:
    """A bundle that was made.

    Attributes:
        path: where it is.
        size_bytes: of its files together.
        manifest: what it says about itself.
        predicted_peak_bytes: what the plan holds on this machine.
        is_ready: whether what it is made for can use the plan as it is.
    """

    path: Path
    size_bytes: int
    manifest: Manifest
    predicted_peak_bytes: int
    is_ready: bool


def make_bundle(
    wanted: Wanted, arrays: Mapping[str, npt.NDArray[Any]], out_path: Path, progress: Progress | None = None
) -> BundleReport:
    """Profile, plan and try a model here, and write a bundle of it, replacing what is at `out_path`.

    Args:
        wanted: what to put into it.
        arrays: an array per input blob, to profile with.
        out_path: a folder, or a file that ends in .tar.
        progress: called with (what, done, of).

    Raises:
        InputError: `out_path` is there and no bundle.
        FlexnnError: as `prepare`; or it cannot be written.
    """
    _refuse_foreign(out_path)
    plan, plan_path = prepare(wanted.request, arrays, progress)
    sources = {PARAM: wanted.request.param_path, WEIGHTS: wanted.request.bin_path, PLAN: plan_path}
    aside = _folder_beside(out_path)
    try:
        _write_profile(wanted.request, arrays, aside / PROFILE, progress)
        sources[PROFILE] = aside / PROFILE
        manifest = _fill(aside, wanted, sources, progress)
        if out_path.suffix == SUFFIX:
            with atomic_write(out_path) as file:
                pack(aside, file)
        else:
            _put_in_place(aside, out_path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return BundleReport(out_path, manifest.size_bytes, manifest, plan.predicted_peak_bytes, wanted.target.is_here)


def _fill(aside: Path, wanted: Wanted, sources: Mapping[str, Path], progress: Progress | None) -> Manifest:
    """Copies the files into the folder, and describes them."""
    entries = []
    for name in FILES:
        with open_regular(sources[name]) as source:
            size_bytes = os.fstat(source.fileno()).st_size
            copied = aside / f"{name}.copy"
            with open(copied, "xb") as target:
                sha256, count = copy_hashed(source, size_bytes, target)
        os.replace(copied, aside / name)
        if count != size_bytes:
            raise BundleError(f"{sources[name]} became shorter while it was read")
        entries.append(FileEntry(name, count, sha256))
        if progress is not None:
            progress("writing the bundle", len(entries), len(FILES))
    manifest = Manifest(
        model=wanted.name,
        zoo=wanted.zoo,
        budget_bytes=wanted.request.budget_bytes,
        options=wanted.request.options,
        inputs=tuple(wanted.inputs),
        made_for=wanted.target.summary,
        machine=here(),
        versions=tuple((name, _version(name)) for name in ("flexnn-ncnn", "ncnn", "numpy")),
        files=tuple(entries),
    )
    write_manifest(manifest, aside / MANIFEST)
    return manifest


def _write_profile(
    request: Request, arrays: Mapping[str, npt.NDArray[Any]], path: Path, progress: Progress | None
) -> None:
    """The profile behind the plan; measured again where the plan was there and the profile is not."""
    profile = PlanCache.of(request, arrays, cache_dir()).read_profile()
    write_profile(profile or profile_model_files(request, arrays, progress), path)


def _refuse_foreign(out_path: Path) -> None:
    """What is replaced must be a bundle: a folder goes with all that is in it."""
    if out_path.suffix == SUFFIX:
        is_ours = not out_path.is_dir()
    else:
        is_ours = not out_path.exists() or (
            out_path.is_dir() and {entry.name for entry in out_path.iterdir()} <= {MANIFEST, *FILES}
        )
    if not is_ours:
        raise InputError(f"{out_path} is there and no bundle", hint="give another name")


def _folder_beside(out_path: Path) -> Path:
    """A new folder on the same file system."""
    try:
        return Path(mkdtemp(prefix=".", dir=out_path.absolute().parent))
    except OSError as error:
        raise InputError(f"{out_path} cannot be written: {error.strerror}") from error


def _put_in_place(aside: Path, target: Path) -> None:
    """Makes a finished folder appear under its name; what was there goes as a whole."""
    aside.chmod(0o755)
    old = target.with_name(f"{aside.name}.old")
    with suppress(FileNotFoundError):
        os.replace(target, old)
    os.replace(aside, target)
    shutil.rmtree(old, ignore_errors=True)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
