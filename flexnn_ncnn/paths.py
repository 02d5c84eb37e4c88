"""Where this package keeps what it makes, and where the files it ships are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from param_tools.errors import FlexnnError

__all__ = ["cache_dir", "data_dir", "patches_dir", "python_path"]

_APPLICATION = "flexnn-ncnn"


def cache_dir() -> Path:
    """The folder for files that can be made again: built weights, profiles, plans.

    `$FLEXNN_CACHE_DIR` where it is set, else the platform's convention:
    `$XDG_CACHE_HOME` or `~/.cache` on Linux, `~/Library/Caches` on macOS,
    `%LOCALAPPDATA%` on Windows. It need not exist yet.

    Raises:
        FlexnnError: no home folder can be found and nothing names another one.
    """
    named = os.environ.get("FLEXNN_CACHE_DIR")
    return Path(named).expanduser() if named else _platform_cache_root() / _APPLICATION


def data_dir() -> Path:
    """The folder with the zoo's graphs, manifest, labels and photo.

    `models/` beside the package in a checkout, `flexnn_ncnn/_models` once installed.

    Raises:
        FlexnnError: neither is there.
    """
    package = Path(__file__).resolve().parent
    candidates = (package / "_models", package.parent / "models")
    for folder in candidates:
        if (folder / "manifest.json").is_file():
            return folder
    raise FlexnnError(
        f"the zoo's manifest.json is in neither {candidates[0]} nor {candidates[1]}", hint="install flexnn-ncnn again"
    )


def patches_dir() -> Path:
    """The folder with the patches against ncnn.

    `patches/` beside the package in a checkout, `flexnn_ncnn/_patches` once installed.

    Raises:
        FlexnnError: neither is there.
    """
    package = Path(__file__).resolve().parent
    candidates = (package / "_patches", package.parent / "patches")
    for folder in candidates:
        if (folder / "series.json").is_file():
            return folder
    raise FlexnnError(
        f"series.json is in neither {candidates[0]} nor {candidates[1]}", hint="install flexnn-ncnn again"
    )


def python_path() -> str:
    """$PYTHONPATH for a child process: where this package is comes first, so that it imports the same one."""
    here = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))


def _platform_cache_root() -> Path:
    # The XDG specification says that a relative path is to be ignored.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if sys.platform.startswith("win") and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local)
    if not sys.platform.startswith(("win", "darwin")) and xdg.is_absolute():
        return xdg
    try:
        home = Path.home()
    except RuntimeError as error:
        raise FlexnnError("no home folder to keep a cache in", hint="set FLEXNN_CACHE_DIR") from error
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    return home / ("AppData/Local" if sys.platform.startswith("win") else ".cache")
