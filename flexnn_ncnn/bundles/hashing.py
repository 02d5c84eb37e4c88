"""Hashes of files that may be larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import IO

__all__ = ["PIECE_BYTES", "copy_hashed"]

PIECE_BYTES = 1024 * 1024


def copy_hashed(
    source: IO[bytes], size_bytes: int, target: IO[bytes] | None = None, report: Callable[[int], None] | None = None
) -> tuple[str, int]:
    """Reads `size_bytes` from where `source` is, writing them to `target` if there is one.

    Args:
        source: an open file.
        size_bytes: how much to read; less is read where it ends sooner.
        target: where the bytes go.
        report: called with the bytes of each piece.

    Returns:
        SHA-256 and count of what was read.
    """
    digest, left = hashlib.sha256(), size_bytes
    while left > 0 and (piece := source.read(min(PIECE_BYTES, left))):
        digest.update(piece)
        if target is not None:
            target.write(piece)
        if report is not None:
            report(len(piece))
        left -= len(piece)
    return digest.hexdigest(), size_bytes - left
