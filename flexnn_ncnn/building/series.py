"""The series of patches this package ships, and the source it is made for."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from flexnn_ncnn.paths import patches_dir
from param_tools.errors import FlexnnError

__all__ = ["Patch", "Series", "read_series"]

_NAME = re.compile(r"(\d{4})-([a-z0-9-]+)\.patch")


@dataclass(frozen=True)
class Patch:
    """One patch.

    Attributes:
        name: such as "release-gil"; what `ncnn.patches` of a build lists.
        path: the file, a header and a diff for `git apply`.
        sha256: of the file.
        title: the header's first line.
    """

    name: str
    path: Path
    sha256: str
    title: str


@dataclass(frozen=True)
class Series:
    """Patches in order, and the source distribution they apply to.

    Attributes:
        ncnn_version: version of the source.
        archive: its file name.
        archive_sha256: of that file.
        build_number: raised whenever the patches change.
        patches: in the order to apply.
    """

    ncnn_version: str
    archive: str
    archive_sha256: str
    build_number: int
    patches: tuple[Patch, ...]

    @property
    def version(self) -> str:
        """The version of a wheel with these patches, such as "1.0.20261020+flexnn.1"."""
        return f"{self.ncnn_version}+flexnn.{self.build_number}"


def read_series(folder: Path | None = None) -> Series:
    """The series in a folder, the shipped one when None.

    Raises:
        FlexnnError: the folder's series.json is missing or says nonsense.
    """
    folder = patches_dir() if folder is None else folder
    try:
        fields = json.loads((folder / "series.json").read_text(encoding="utf-8"))
        patches = tuple(_read_patch(path) for path in sorted(folder.glob("*.patch")))
        return Series(
            ncnn_version=str(fields["ncnn_version"]),
            archive=str(fields["archive"]),
            archive_sha256=str(fields["archive_sha256"]),
            build_number=int(fields["build_number"]),
            patches=patches,
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FlexnnError(
            f"the patches in {folder} cannot be read: {error}", hint="install flexnn-ncnn again"
        ) from error


def _read_patch(path: Path) -> Patch:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name} is no patch's name")
    content = path.read_bytes()
    title = content.partition(b"\n")[0].decode("utf-8")
    return Patch(match[2], path, hashlib.sha256(content).hexdigest(), title)
