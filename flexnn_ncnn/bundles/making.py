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
from flexnn_ncnn.bundles.targets import Target, check_target, notes
from flexnn_ncnn.device import here
from flexnn_ncnn.errors import BundleError, InputError, ProfileError
from flexnn_ncnn.paths import cache_dir
from flexnn_ncnn.planning.planner import workload
from flexnn_ncnn.preparing.preparation import PlanCache, Request, prepare
from flexnn_ncnn.preparing.trials import FIRST_BASE_BYTES, Trials
from flexnn_ncnn.records.fingerprint import model_identity
from flexnn_ncnn.records.formats import write_plan, write_profile
from flexnn_ncnn.records.input_spec import InputSpec
from flexnn_ncnn.records.machine import Machine
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.records.profile import ModelProfile
from flexnn_ncnn.scheduling.scheduler import profile_model_files
from param_tools.files import atomic_write, open_regular
from param_tools.model_io import open_model

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
        profile: what was measured there, for a plan that it can use as it is; None to measure here.
    """

    request: Request
    name: str
    zoo: str
    inputs: Sequence[InputSpec]
    target: Target
    profile: ModelProfile | None = None


@dataclass(frozen=True, slots=True)
class BundleReport:
    """A bundle that was made.

    Attributes:
        path: where it is.
        size_bytes: of its files together.
        manifest: what it says about itself.
        predicted_peak_bytes: what the plan holds where its profile was measured.
        is_ready: whether what it is made for can use the plan as it is.
        notes: what should be known before it is brought there.
    """

    path: Path
    size_bytes: int
    manifest: Manifest
    predicted_peak_bytes: int
    is_ready: bool
    notes: tuple[str, ...]


def make_bundle(
    wanted: Wanted, arrays: Mapping[str, npt.NDArray[Any]], out_path: Path, progress: Progress | None = None
) -> BundleReport:
    """Profile, plan and try a model here, and write a bundle of it, replacing what is at `out_path`.

    With a profile of another machine, it is planned for that one instead, and tried there.

    Args:
        wanted: what to put into it.
        arrays: an array per input blob, to profile with.
        out_path: a folder, or a file that ends in .tar.
        progress: called with (what, done, of).

    Raises:
        InputError: `out_path` is there and no bundle.
        DeviceMemoryError, UsageError: not on this device.
        ProfileError: the profile is not of this model with these options and inputs.
        FlexnnError: as `prepare`; or it cannot be written.
    """
    request = wanted.request
    check_target(wanted.target, request.budget_bytes, request.options.num_threads)
    _refuse_foreign(out_path)
    aside = _folder_beside(out_path)
    try:
        plan, profile = _planned_here(request, arrays, progress) if wanted.profile is None else _planned_there(wanted)
        write_plan(plan, aside / PLAN)
        write_profile(profile, aside / PROFILE)
        sources = {PARAM: request.param_path, WEIGHTS: request.bin_path, PLAN: aside / PLAN, PROFILE: aside / PROFILE}
        manifest = _fill(aside, wanted, sources, progress)
        if out_path.suffix == SUFFIX:
            with atomic_write(out_path) as file:
                pack(aside, file)
        else:
            _put_in_place(aside, out_path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    said = notes(wanted.target, request.budget_bytes, request.options.num_threads, plan.streamed_bytes)
    is_ready = plan.machine == wanted.target.fingerprint
    return BundleReport(out_path, manifest.size_bytes, manifest, plan.predicted_peak_bytes, is_ready, tuple(said))


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
        made_for_fingerprint=wanted.target.fingerprint,
        machine=_measured_on(wanted.profile),
        versions=tuple((name, _version(name)) for name in ("flexnn-ncnn", "ncnn", "numpy")),
        files=tuple(entries),
    )
    write_manifest(manifest, aside / MANIFEST)
    return manifest


def _planned_here(
    request: Request, arrays: Mapping[str, npt.NDArray[Any]], progress: Progress | None
) -> tuple[Plan, ModelProfile]:
    """The plan and the profile behind it, which is measured again where the plan was there and the profile is not."""
    plan, _ = prepare(request, arrays, progress)
    profile = PlanCache.of(request, arrays, cache_dir()).read_profile()
    return plan, profile or profile_model_files(request, arrays, progress)


def _planned_there(wanted: Wanted) -> tuple[Plan, ModelProfile]:
    """A plan for the machine that the profile was measured on."""
    assert wanted.profile is not None
    request, profile = wanted.request, wanted.profile
    shapes = {one.blob: one.shape for one in wanted.inputs}
    if profile.model_id != model_identity(request.param_path, request.bin_path):
        problem = f"not of {request.param_path}"
    elif profile.options != request.options:
        problem = f"for {profile.options.num_threads} threads, or other options"
    elif {blob: layout.numpy_shape for blob, layout in profile.inputs} != shapes:
        problem = "for inputs of other shapes"
    elif profile.machine_facts is None or profile.machine != wanted.target.fingerprint:
        problem = "of another machine than the one the bundle is for"
    else:
        with open_model(request.param_path, request.bin_path) as model:
            trials = Trials(model, workload(profile), {}, None, Path())
            return trials.untried(request.budget_bytes, FIRST_BASE_BYTES), profile
    raise ProfileError(f"the profile is {problem}", hint="make it with 'flexnn profile' on the device")


def _measured_on(profile: ModelProfile | None) -> Machine:
    return here() if profile is None or profile.machine_facts is None else profile.machine_facts


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
