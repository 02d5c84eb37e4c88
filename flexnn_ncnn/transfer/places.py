"""Where files go to or come from: ssh://user@host:port/dir and adb://SERIAL/dir."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from flexnn_ncnn.errors import UsageError

__all__ = ["Place", "parse_place"]

_FORMS = "give ssh://[user@]host[:port]/folder, ssh://host/~/folder, or adb://SERIAL/folder"
# What a program could take for an option, or a shell for more than a name, is no name.
_USER, _HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.$-]{0,63}"), re.compile(r"[A-Za-z0-9:][A-Za-z0-9_.:%-]{0,254}")
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder or file on a device.

    Attributes:
        url: as it was given.
        scheme: "ssh" or "adb".
        host: of ssh, or the serial number of an adb device, "" for the only one there is.
        user: of ssh, "" for whoever ssh takes.
        port: of ssh, 0 for ssh's own choice.
        path: absolute, or beginning with "./" where it is below the user's home folder.
    """

    url: str
    scheme: str
    host: str
    user: str
    port: int
    path: str


def parse_place(url: str) -> Place:
    """The place that `url` names.

    Raises:
        UsageError: it names none.
    """
    if not url.isprintable():
        raise UsageError("a place cannot have control characters in its name", hint=_FORMS)
    try:
        parts = urlsplit(url)
        port = parts.port if parts.scheme == "ssh" else 0
    except ValueError as error:
        raise UsageError(f"{url!r} is no place: {error}", hint=_FORMS) from error
    if parts.scheme not in ("ssh", "adb") or parts.query or parts.fragment:
        raise UsageError(f"{url!r} is no place on a device", hint=_FORMS)
    path = _path(url, parts)
    if parts.scheme == "adb":
        if parts.netloc and not _SERIAL.fullmatch(parts.netloc):
            raise UsageError(f"{parts.netloc!r} is no serial number", hint="'adb devices' lists them")
        return Place(url, "adb", parts.netloc, "", 0, path)
    if parts.password is not None:
        raise UsageError("a password does not belong into a command", hint="use a key, or let ssh ask for it")
    user, host = parts.username or "", parts.hostname or ""
    if "@" in parts.netloc and not _USER.fullmatch(user):
        raise UsageError(f"{user!r} is no name of a user", hint=_FORMS)
    if not _HOST.fullmatch(host):
        raise UsageError(f"{host!r} is no name of a host", hint=_FORMS)
    return Place(url, "ssh", host, user, port or 0, path)


def _path(url: str, parts: SplitResult) -> str:
    path = unquote(parts.path, errors="surrogateescape")
    if "\0" in path or not path.isprintable():
        raise UsageError("a path cannot have control characters", hint=_FORMS)
    if not path.strip("/"):
        raise UsageError(f"{url!r} names no folder", hint=_FORMS)
    if parts.scheme == "ssh" and (path == "/~" or path.startswith("/~/")):
        return f"./{path[3:]}"
    return path
