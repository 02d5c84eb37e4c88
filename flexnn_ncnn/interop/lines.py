"""Reading and writing FlexNN's text files line by line; what is read is hostile until it matches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from param_tools.errors import FlexnnError
from param_tools.model_io import atomic_write

__all__ = ["INTEGER", "NUMBER", "matches", "prefixed", "read_lines", "write_lines"]

INTEGER = r"(\d{1,19})"
"""A whole number that is not negative, as a group."""
NUMBER = r"(-?\d{1,19}(?:\.\d{1,19})?)"
"""A decimal number, as a group."""

_MAX_FILE_BYTES = 64_000_000
_MAX_LINE = 255  # FlexNN reads lines into 256 bytes


def prefixed(prefix: str | os.PathLike[str], suffix: str) -> Path:
    """The file of a set that share a path but for the suffix."""
    return Path(f"{os.fspath(prefix)}.{suffix}")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a file, replacing it as a whole."""
    with atomic_write(path, "w") as file:
        file.writelines(f"{line}\n" for line in lines)


def matches(
    path: Path, pattern: re.Pattern[str], error: type[FlexnnError], header: str = ""
) -> Iterator[tuple[str, re.Match[str]]]:
    """Where each line is, and what it says.

    Args:
        path: the file.
        pattern: what a line must be.
        error: what to raise where it is not, or the file cannot be read.
        header: a first line that says nothing.
    """
    for where, line in read_lines(path, error):
        if header and line == header:
            continue
        found = pattern.fullmatch(line)
        if found is None:
            raise error(f"{where}: {line[:80]!r} is not a line of a .{path.suffix.removeprefix('.')} file")
        yield where, found


def read_lines(path: Path, error: type[FlexnnError]) -> Iterator[tuple[str, str]]:
    """Lines that are no comments, each with where it is.

    Args:
        path: the file.
        error: what to raise where it cannot be read, or is not FlexNN's.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES or not path.is_file():
            raise error(f"{path}: no file, or larger than any of FlexNN's")
        text = path.read_bytes().decode("ascii")
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not a text file of FlexNN's") from problem
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > _MAX_LINE:
            raise error(f"{path}:{number}: a line of more than {_MAX_LINE} characters")
        stripped = line.rstrip("\r ")
        if stripped and not stripped.startswith("#"):
            yield f"{path}:{number}", stripped
