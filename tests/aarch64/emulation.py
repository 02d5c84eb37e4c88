"""An emulated 64-bit Arm Python with the real aarch64 packages: `python3 tests/aarch64/emulation.py FOLDER`.

Without root, and without a trace outside the folder: qemu's user emulator and an arm64 Debian's Python come from the
package archive that this machine's own apt uses, through an apt state of their own; wheels come by the host's pip. The
emulated python is a script of two lines in a venv, so that `sys.executable` and its child processes are emulated too.
The folder must stay where it is: its path is written into it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BOARDS", "Board", "Emulation", "NotHereError", "make_emulation"]

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
_EMULATORS = ("qemu-user-static", "qemu-user")
_WHEEL_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_OLD_NUMPY = "numpy==1.24.4"
_APT_CONFIG = """
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; "{host}"; }};
Dir::State "{folder}";
Dir::State::status "{folder}/status";
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{folder}/sources";
Acquire::Languages "none";
"""
_PYTHON = """#!/bin/sh
exec "{folder}/qemu" -cpu "${{FLEXNN_ARM_CPU:-cortex-a72}}" -p "${{FLEXNN_ARM_PAGE:-4096}}" -L "{folder}/root" \
-0 "{folder}/venv/bin/python" "{folder}/root/usr/bin/{name}" "$@"
"""


class NotHereError(Exception):
    """This machine cannot emulate: its message says why."""


@dataclass(frozen=True)
class Board:
    """What is emulated.

    Attributes:
        cpu: qemu's name of the processor.
        page_bytes: a page of memory.
        old_numpy: whether the oldest numpy that the package admits is used.
    """

    cpu: str
    page_bytes: int
    old_numpy: bool


BOARDS = {"pi4": Board("cortex-a72", 4096, True), "pi5": Board("cortex-a76", 16384, False)}
"""A Raspberry Pi 4, and a Raspberry Pi 5 with its default kernel."""


@dataclass(frozen=True)
class Emulation:
    """The emulated Python.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "venv" / "bin" / "python"

    def environment(self, board: Board) -> dict[str, str]:
        """The environment in which the interpreter plays `board` and finds this package."""
        paths = [str(ROOT), *([str(self.folder / "old-numpy")] if board.old_numpy else [])]
        return {
            **os.environ,
            "FLEXNN_ARM_CPU": board.cpu,
            "FLEXNN_ARM_PAGE": str(board.page_bytes),
            "PYTHONPATH": os.pathsep.join(paths[::-1]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def make_emulation(folder: Path) -> Emulation:
    """Make it in `folder`, or find it there: about 25 seconds and 150 MB the first time.

    Raises:
        NotHereError: this machine has not what it takes, or the package archives do not answer.
    """
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise NotHereError(f"made for Linux on x86-64, not {platform.system()} on {platform.machine()}")
    for program in ("apt-get", "dpkg-deb", "dpkg"):
        if shutil.which(program) is None:
            raise NotHereError(f"no program {program}: a Debian is needed")
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    emulation = Emulation(folder)
    try:
        _once(folder / "root.done", lambda: _make_root(folder))
        _make_python(folder)
        _once(folder / "wheels.done", lambda: _install_wheels(folder))
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()[-1:]
        raise NotHereError(f"{error.cmd[0]} failed: {' '.join(said) or error.returncode}") from error
    return emulation


def _once(stamp: Path, make: object) -> None:
    """What was made whole is not made again."""
    if not stamp.exists():
        assert callable(make)
        make()
        stamp.touch()


def _make_root(folder: Path) -> None:
    """qemu, and the files of the arm64 packages, unpacked and not installed."""
    apt, root = folder / "apt", folder / "root"
    for old in (apt, root):
        shutil.rmtree(old, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "sources"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    for source in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("debian.*"))):
        if source.is_file():
            shutil.copy(source, apt / "sources" / ("main.list" if source.name == "sources.list" else source.name))
    host = _run("dpkg", "--print-architecture").strip()
    (apt / "apt.conf").write_text(_APT_CONFIG.format(folder=apt, host=host))
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
    if os.getuid() == 0:
        environment["APT_CONFIG"] = str(_as_root(apt / "apt.conf"))
    _run("apt-get", "-qq", "update", environment=environment, tries=2)
    get = ("apt-get", "-qq", "-y", "--no-install-recommends", "--download-only", "install")
    _run(*get, *_PACKAGES, environment=environment, tries=2)
    archives = apt / "cache" / "archives"
    for package in archives.glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), str(root))
    _find_qemu(folder, host, environment, get)
    shutil.rmtree(apt)


def _as_root(config: Path) -> Path:
    """apt would let go of root's rights to download, and could then not write here."""
    config.write_text(config.read_text() + 'APT::Sandbox::User "root";\n')
    return config


def _find_qemu(folder: Path, host: str, environment: dict[str, str], get: Sequence[str]) -> None:
    """The machine's own qemu, or the package's, without installing it."""
    installed = shutil.which("qemu-aarch64-static")
    if installed:
        shutil.copy(installed, folder / "qemu")
        return
    known = _run("apt-cache", "pkgnames", "qemu-user", environment=environment).split()
    package = next((name for name in _EMULATORS if name in known or f"{name}:{host}" in known), _EMULATORS[0])
    archives, unpacked = folder / "apt" / "cache" / "archives", folder / "apt" / "qemu"
    before = set(archives.glob("*.deb"))
    _run("apt-get", "-qq", "download", f"{package}:{host}", environment=environment, tries=2, folder=archives)
    for downloaded in set(archives.glob("*.deb")) - before:
        _run("dpkg-deb", "-x", str(downloaded), str(unpacked))
    found = [unpacked / "usr/bin" / name for name in ("qemu-aarch64-static", "qemu-aarch64")]
    shutil.copy(next(path for path in found if path.is_file()), folder / "qemu")


def _make_python(folder: Path) -> None:
    """A venv whose python is a script: Python takes `sys.executable` from the name it is given."""
    name = _python_name(folder)
    binaries = folder / "venv" / "bin"
    binaries.mkdir(parents=True, exist_ok=True)
    _site(folder).mkdir(parents=True, exist_ok=True)
    (folder / "venv" / "pyvenv.cfg").write_text(
        f"home = {folder}/root/usr/bin\ninclude-system-site-packages = false\nversion = {name[6:]}\n"
    )
    (binaries / "python").write_text(_PYTHON.format(folder=folder, name=name))
    (binaries / "python").chmod(0o755)


def _install_wheels(folder: Path) -> None:
    """The package's own requirements and pytest for aarch64, and the oldest numpy aside."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    requirements = [*re.findall(r'"([^"]+)"', listed[1]), "pytest>=8"]
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--upgrade"]
    pip += ["--only-binary=:all:", "--implementation", "cp", "--python-version", _python_name(folder)[6:]]
    pip += [word for name in _WHEEL_PLATFORMS for word in ("--platform", name)]
    _run(*pip, "--target", str(_site(folder)), *requirements, tries=2)
    _run(*pip, "--target", str(folder / "old-numpy"), "--no-deps", _OLD_NUMPY, tries=2)


def _python_name(folder: Path) -> str:
    """Such as "python3.11": what the archive's release has."""
    names = [path.name for path in (folder / "root" / "usr" / "bin").glob("python3.*")]
    return next(name for name in sorted(names) if re.fullmatch(r"python3\.[0-9]+", name))


def _site(folder: Path) -> Path:
    return folder / "venv" / "lib" / _python_name(folder) / "site-packages"


def _run(*command: str, environment: dict[str, str] | None = None, tries: int = 1, folder: Path | None = None) -> str:
    """What a program prints; an archive that is being mirrored fails once in a while, and works a little later."""
    for left in range(tries - 1, -1, -1):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
        if done.returncode == 0:
            return done.stdout
        if left == 0:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    raise AssertionError


if __name__ == "__main__":
    print(make_emulation(Path(sys.argv[1])).python)
