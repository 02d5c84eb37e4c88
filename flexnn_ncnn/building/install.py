"""A built wheel in place of the ncnn of this Python, and what the ncnn in use can do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flexnn_ncnn.building.build import BuiltWheel, built_wheels
from flexnn_ncnn.building.process import reason, run_logged
from flexnn_ncnn.building.series import read_series
from flexnn_ncnn.records.capabilities import Capabilities
from param_tools.errors import FlexnnError

__all__ = ["Installed", "RuntimeInfo", "install_wheel", "newest_wheel", "runtime_info", "way_back"]


@dataclass(frozen=True)
class Installed:
    """What an installation did.

    Attributes:
        before: version of ncnn that was there, or "" for none.
        after: the one that is there now.
        wheel: where it came from.
        way_back: the command that installs the stock wheel again.
    """

    before: str
    after: str
    wheel: Path
    way_back: str


@dataclass(frozen=True)
class RuntimeInfo:
    """The ncnn in use.

    Attributes:
        version: its version.
        path: the folder it lies in.
        patches: names of the patches it says it has.
        capabilities: what it can do beyond the stock wheel.
        built: patched wheels in the cache, the newest first.
    """

    version: str
    path: Path
    patches: tuple[str, ...]
    capabilities: Capabilities
    built: tuple[BuiltWheel, ...]


def runtime_info() -> RuntimeInfo:
    """What the ncnn that this process imports can do."""
    from flexnn_ncnn.runtime import native
    from flexnn_ncnn.runtime.native.capabilities import ncnn_folder, patch_names

    return RuntimeInfo(
        version=native.ncnn_version(),
        path=ncnn_folder(),
        patches=patch_names(),
        capabilities=native.capabilities(),
        built=tuple(built_wheels()),
    )


def newest_wheel() -> BuiltWheel:
    """The wheel to install: the newest of those this package would build now, else the newest of all.

    Raises:
        FlexnnError: none is built.
    """
    found = built_wheels()
    if not found:
        raise FlexnnError("no patched ncnn is built for this Python", hint="run 'flexnn runtime build' first")
    return next((wheel for wheel in found if wheel.is_current), found[0])


def way_back() -> str:
    """The command that installs the stock wheel."""
    return f"{sys.executable} -m pip install --force-reinstall --no-deps ncnn=={read_series().ncnn_version}"


def install_wheel(wheel: BuiltWheel) -> Installed:
    """Puts a built wheel in place of the ncnn of this Python, by pip.

    Raises:
        FlexnnError: pip cannot, or the new ncnn cannot be imported.
    """
    before = _imported_version()
    command = [sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-deps", "--no-index", "--no-input"]
    command += ["--disable-pip-version-check", str(wheel.path)]
    status, lines = run_logged(command, wheel.path.with_name("install.log"))
    if status != 0:
        why = reason(lines)
        hint = "pip has to work here: python -m pip --version"
        if "externally-managed-environment" in why:
            hint = "install flexnn-ncnn into a virtual environment (python3 -m venv), and run it from there"
        raise FlexnnError(f"pip could not install {wheel.path.name}: {why}", hint=hint)
    after = _imported_version()
    if after != wheel.version:
        found = f"says it is {after}" if after else "cannot be imported"
        raise FlexnnError(f"ncnn {wheel.version} is installed but {found}", hint=f"to go back: {way_back()}")
    return Installed(before=before, after=after, wheel=wheel.path, way_back=way_back())


def _imported_version() -> str:
    """The version a new process finds; this one may have imported another before."""
    program = "import ncnn; print(ncnn.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, errors="replace", check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
