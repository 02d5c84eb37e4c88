"""The errors a user can cause: each names what, where and the way out."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["FlexnnError", "FormatVersionError", "ModelFormatError", "UnsupportedLayerError"]


class FlexnnError(Exception):
    """Base of every error that is the input's fault and not ours.

    Attributes:
        exit_code: exit status of a command that ends with this error.
        hint: the way out, one clause, or an empty string.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with args alone, which fails where keywords are required: errors cross processes.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[FlexnnError], args: tuple[Any, ...], attributes: dict[str, Any]) -> FlexnnError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ModelFormatError(FlexnnError):
    """A .param or .bin file that ncnn could not load, or that lies about itself.

    Args:
        message: what is wrong.
        path: the file it is wrong in.
        line: 1-based line of a text file.
        offset_bytes: position in a binary file.
        hint: the way out.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        line: int | None = None,
        offset_bytes: int | None = None,
        hint: str = "",
    ) -> None:
        self.path = os.fspath(path) if path is not None else None
        self.line = line
        self.offset_bytes = offset_bytes
        place = self.path or ""
        if line is not None:
            place += f":{line}" if place else f"line {line}"
        if offset_bytes is not None:
            place += f" at byte {offset_bytes}" if place else f"byte {offset_bytes}"
        super().__init__(f"{place}: {message}" if place else message, hint=hint)


class FormatVersionError(ModelFormatError):
    """A file of ours, written by a version this one does not read."""

    def __init__(self, what: str, *, found: object, supported: tuple[int, ...], path: str | None = None) -> None:
        self.found, self.supported = found, supported
        versions = ", ".join(map(str, supported))
        super().__init__(
            f"{what} has format version {found!r}, this release reads {versions}", path=path, hint="make the file again"
        )


class UnsupportedLayerError(FlexnnError):
    """A layer type, or a variant of one, that a tool cannot handle."""
