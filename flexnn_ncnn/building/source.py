"""ncnn's source distribution: fetched by pip, proved by its hash, unpacked, patched."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from flexnn_ncnn.building.process import reason, run_logged
from flexnn_ncnn.building.series import Series
from param_tools.errors import FlexnnError

__all__ = ["prepare_source"]


def prepare_source(series: Series, folder: Path, log_path: Path) -> Path:
    """The patched source in `folder`, which is left as it is where it is there already.

    Args:
        series: source and patches.
        folder: where the source goes, beside what is needed on the way.
        log_path: what pip and patch say goes there.

    Returns:
        The folder with setup.py.

    Raises:
        FlexnnError: it cannot be fetched, has another hash, or a patch does not apply.
    """
    target = folder / "source"
    if target.is_dir():
        return target
    with tempfile.TemporaryDirectory(prefix=".source-", dir=folder, ignore_cleanup_errors=True) as scratch:
        archive = _fetch(series, Path(scratch), log_path)
        unpacked = _unpack(archive, Path(scratch) / "unpacked")
        for patch in series.patches:
            _apply(patch.path, unpacked, log_path)
        unpacked.rename(target)
    return target


def _fetch(series: Series, folder: Path, log_path: Path) -> Path:
    # ncnn's setup.py makes a version of today's date, and pip's newer resolver refuses that; nothing is resolved here.
    command = [sys.executable, "-m", "pip", "download", "--use-deprecated=legacy-resolver", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--no-binary", "ncnn", "--dest", str(folder)]
    status, lines = run_logged([*command, f"ncnn=={series.ncnn_version}"], log_path)
    archive = folder / series.archive
    if status != 0 or not archive.is_file():
        raise FlexnnError(
            f"pip could not fetch the source of ncnn {series.ncnn_version}: {reason(lines)}",
            hint="pip has to work here (python -m pip --version) and needs a network, an index or PIP_FIND_LINKS",
        )
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != series.archive_sha256:
        raise FlexnnError(
            f"{series.archive} has the SHA-256 {found}, not {series.archive_sha256}",
            hint="the package index gave another file than the one the patches were made for",
        )
    return archive


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpacks files and folders only, and inside `folder` only; returns the one folder at the top."""
    with tarfile.open(archive) as sdist:
        for member in sdist.getmembers():
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise FlexnnError(f"{archive.name} names a file outside itself: {member.name}")
            target = folder / path
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isfile() and (stream := sdist.extractfile(member)) is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                with stream, open(target, "wb") as file:
                    shutil.copyfileobj(stream, file)
    (top,) = folder.iterdir()
    return top


def _apply(patch: Path, source: Path, log_path: Path) -> None:
    if git := shutil.which("git"):
        # The folder may lie inside somebody's repository, where git would skip what is not tracked.
        command = [git, "apply", "--whitespace=nowarn", str(patch)]
        environment = {"GIT_CEILING_DIRECTORIES": str(source.parent), "GIT_DIR": str(source / ".git")}
    elif tool := shutil.which("patch"):
        command, environment = [tool, "-p1", "--batch", "--fuzz=0", "--input", str(patch)], {}
    else:
        raise FlexnnError(
            "neither git nor patch is installed", hint="install one of them, such as by 'apt install git'"
        )
    status, lines = run_logged(command, log_path, environment=environment, folder=source)
    if status != 0:
        raise FlexnnError(f"{patch.name} does not apply: {reason(lines)}", hint="install flexnn-ncnn again")
