"""What a file of transformed weights was made from: the very bytes of a .bin, not just one of its name and size.

The file is named after the SHA-256 of the .bin. Its index, beside it, also tells when the .bin was last looked at, so
that most often one system call shows that nothing has changed since.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from flexnn_ncnn.records.plan import TRANSFORMED_OFFSET_BYTES, Plan
from flexnn_ncnn.records.sha256 import sha256

__all__ = ["Stamp", "content_digest", "index_path", "is_made_from", "serves", "stamp_of", "transformed_path"]

_PREFIX = "transformed-"
_DIGEST_LENGTH = 32
_READ_BYTES = 1024 * 1024
# A file written to twice within a tick of the system's clock looks the same after both.
_SETTLED_NANOSECONDS = 1_000_000_000

Stamp = list[int]


def transformed_path(folder: Path, digest: str) -> Path:
    """The file in `folder` with what is made from a .bin of this content."""
    return folder / f"{_PREFIX}{digest}.weights"


def index_path(weights_path: str | os.PathLike[str]) -> Path:
    """What is in a file of transformed weights, and the stamp of the .bin."""
    return Path(weights_path).with_suffix(".json")


def content_digest(path: str | os.PathLike[str]) -> str:
    """A digest of all that is in a file."""
    digest = sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()[:_DIGEST_LENGTH]


def stamp_of(path: str | os.PathLike[str]) -> Stamp | None:
    """What changes whenever a file does; None just after it did, as it may once more without a trace."""
    found = os.stat(path)
    if time.time_ns() - max(found.st_ctime_ns, found.st_mtime_ns) < _SETTLED_NANOSECONDS:
        return None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def is_made_from(weights_path: str | os.PathLike[str], bin_path: str | os.PathLike[str]) -> bool:
    """Whether a file of transformed weights was made from a .bin as it is now.

    Reads the .bin only where it was copied, moved or written to since that was last found out.

    Raises:
        OSError: the .bin cannot be read.
    """
    stamp = stamp_of(bin_path)
    if stamp is not None and _known_stamp(weights_path) == stamp:
        return True
    return Path(weights_path).stem == _PREFIX + content_digest(bin_path)


def serves(plan: Plan, bin_path: str | os.PathLike[str]) -> bool:
    """Whether the transformed weights that a plan needs, if any, are there, whole, and made from this .bin."""
    ends = (
        part.pieces[0].offset_bytes - TRANSFORMED_OFFSET_BYTES + part.pieces[0].count
        for step in plan.steps
        for part in step.parts
        if part.transformed_count
    )
    needed_bytes = max(ends, default=0)
    if not needed_bytes:
        return True
    path = plan.transformed_path
    try:
        return os.stat(path).st_size >= needed_bytes and is_made_from(path, bin_path)
    except OSError:
        return False


def _known_stamp(weights_path: str | os.PathLike[str]) -> object:
    try:
        return json.loads(index_path(weights_path).read_text()).get("bin")
    except (OSError, ValueError, AttributeError):
        return None
