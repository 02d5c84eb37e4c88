"""The way from a series of patches to an installed wheel: pip itself runs, offline, on a source that builds at once."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flexnn_ncnn.building import build, install
from flexnn_ncnn.building.process import reason, run_logged, steps_done
from flexnn_ncnn.building.recipe import Recipe, cmake_arguments, cpu_features, default_jobs, recipe_key
from flexnn_ncnn.building.series import Series, read_series
from flexnn_ncnn.building.source import prepare_source
from flexnn_ncnn.paths import patches_dir
from param_tools.errors import FlexnnError

VERSION = "1.0.20261020"

# A build backend that compiles nothing: it writes the answer of the patched file into the wheel.
BACKEND = """
import os, pathlib, zipfile

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    # as ncnn's setup.py does: a version that is not the file's, unless it is named
    version = os.environ.get("NCNN_PYTHON_VERSION", "1.0.20990101")
    found = pathlib.Path(folder, f"ncnn-{version}.dist-info")
    found.mkdir()
    (found / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: ncnn\\nVersion: {version}\\n")
    (found / "WHEEL").write_text("Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    return found.name

def build_wheel(folder, config_settings=None, metadata_directory=None):
    print("[1/2] Building CXX object")
    if os.path.exists("broken"):
        raise SystemExit(open("broken").read())
    print("[2/2] Linking")
    version = os.environ["NCNN_PYTHON_VERSION"]
    name = f"ncnn-{version}-py3-none-any.whl"
    answer = open("answer.txt").read().strip()
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("ncnn/__init__.py", f"__version__ = {version!r}\\nanswer = {answer!r}\\n"
                       f"arguments = {os.environ['EXTRA_CMAKE_ARGS']!r}\\n")
        info = f"ncnn-{version}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: ncnn\\nVersion: {version}\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
PATCH = """Answer with what the question was

---
diff --git a/answer.txt b/answer.txt
--- a/answer.txt
+++ b/answer.txt
@@ -1,1 +1,1 @@
-41
+{answer}
"""

Steps = list[tuple[str, int, int]]


def add_file(archive: tarfile.TarFile, name: str, text: str) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(text.encode())
    archive.addfile(info, io.BytesIO(text.encode()))


def write_series(folder: Path, archive: Path, **changes: object) -> None:
    folder.mkdir(exist_ok=True)
    fields: dict[str, object] = {
        "ncnn_version": VERSION,
        "archive": archive.name,
        "archive_sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "build_number": 3,
    }
    (folder / "series.json").write_text(json.dumps(fields | changes))
    (folder / "0001-right-answer.patch").write_text(PATCH.format(answer=42))


@pytest.fixture
def patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a series of one patch, and an index with the source it is for."""
    index = tmp_path / "index"
    index.mkdir()
    archive = index / f"ncnn-{VERSION}.tar.gz"
    with tarfile.open(archive, "w:gz") as sdist:
        top = f"ncnn-{VERSION}"
        add_file(sdist, f"{top}/PKG-INFO", f"Metadata-Version: 2.1\nName: ncnn\nVersion: {VERSION}\n")
        add_file(
            sdist,
            f"{top}/pyproject.toml",
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        )
        add_file(sdist, f"{top}/backend.py", BACKEND)
        add_file(sdist, f"{top}/answer.txt", "41\n")
    folder = tmp_path / "patches"
    write_series(folder, archive)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("PIP_REQUIRE_VIRTUALENV", raising=False)
    for module in (build, install):
        monkeypatch.setattr(module, "read_series", lambda: read_series(folder))
    return folder


def built(progress: Callable[[str, int, int], None] = lambda *_: None, **options: bool) -> build.BuiltWheel:
    return build.build_wheel(Recipe(), progress, jobs=1, **options)


def test_a_wheel_is_built_of_the_patched_source_and_kept(patches: Path, tmp_path: Path) -> None:
    seen: Steps = []
    wheel = built(lambda *step: seen.append(step))
    assert wheel.path.name == f"ncnn-{VERSION}+flexnn.3-py3-none-any.whl"
    assert wheel.path.is_relative_to(tmp_path / "cache")
    assert wheel.patches == ("right-answer",)
    assert wheel.is_current
    assert ("build ncnn", 1, 2) in seen
    assert not (wheel.path.parent / "source").exists()
    assert build.built_wheels() == [wheel]
    again: Steps = []
    assert built(lambda *step: again.append(step)) == wheel
    assert again == []


@pytest.mark.parametrize("tool", ["git", "patch"])
def test_patches_apply_by_either_tool(
    tool: str, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    only = tmp_path / "bin"
    only.mkdir()
    (only / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(only))
    source = prepare_source(read_series(patches), tmp_path, tmp_path / "log")
    assert (source / "answer.txt").read_text() == "42\n"


def test_without_git_and_patch_the_error_names_them(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlexnnError, match="neither git nor patch is installed"):
        prepare_source(read_series(patches), tmp_path, tmp_path / "log")


def test_a_patch_for_other_source_is_refused_and_leaves_none(patches: Path, tmp_path: Path) -> None:
    patch = patches / "0001-right-answer.patch"
    patch.write_text(patch.read_text().replace("-41", "-40"))
    with pytest.raises(FlexnnError, match=r"0001-right-answer\.patch does not apply"):
        prepare_source(read_series(patches), tmp_path, tmp_path / "log")
    assert not (tmp_path / "source").exists()


def test_another_source_than_the_pinned_one_is_refused(patches: Path, tmp_path: Path) -> None:
    (archive,) = (tmp_path / "index").iterdir()
    write_series(patches, archive, archive_sha256="0" * 64)
    with pytest.raises(FlexnnError, match="has the SHA-256"):
        built()


def test_without_the_source_pip_is_quoted(patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(FlexnnError, match=r"pip could not fetch the source of ncnn 1\.0\.20261020: Could not find"):
        built()


def test_a_source_that_names_files_outside_itself_is_refused(patches: Path, tmp_path: Path) -> None:
    (archive,) = (tmp_path / "index").iterdir()
    with tarfile.open(archive) as sdist:
        files = {member.name: sdist.extractfile(member).read().decode() for member in sdist}  # type: ignore[union-attr]
    with tarfile.open(archive, "w:gz") as sdist:
        for name, text in files.items():
            add_file(sdist, name, text)
        add_file(sdist, f"ncnn-{VERSION}/../../escaped", "")
    write_series(patches, archive)
    with pytest.raises(FlexnnError):  # by pip or by us
        built()
    assert not (tmp_path / "cache" / "escaped").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fatal error: Killed signal terminated program cc1plus", r"out of memory: try --jobs 1"),
        ("x.cpp:3:1: error: expected ';'", r"ncnn could not be built: .*expected ';'; .*build\.log has it all"),
    ],
)
def test_a_failing_compiler_is_quoted(words: str, expected: str, patches: Path, tmp_path: Path) -> None:
    patch = patches / "0001-right-answer.patch"
    diff = (
        f"diff --git a/broken b/broken\nnew file mode 100644\n--- /dev/null\n+++ b/broken\n@@ -0,0 +1,1 @@\n+{words}\n"
    )
    patch.write_text("Break it\n\n---\n" + diff)
    with pytest.raises(FlexnnError, match=expected):
        built()
    assert build.built_wheels() == []


def test_a_full_disk_is_the_systems_error(patches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_NEEDED_DISK_BYTES", 1 << 62)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        built()


def test_two_builds_of_one_wheel_do_not_meet(patches: Path) -> None:
    first = built()
    (first.path.parent / "built.json").unlink()
    with open(first.path.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FlexnnError, match="another build is at work"):
            built()


def test_without_a_compiler_the_error_says_how_to_get_one(
    patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(FlexnnError, match=r"no C\+\+ compiler is installed.*apt install g\+\+"):
        built()


def test_an_interrupted_build_keeps_what_it_has(patches: Path) -> None:
    def interrupt(what: str, done: int, of: int) -> None:
        if what == "build ncnn":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(interrupt)
    (source,) = build._root().glob("*/source")
    (source / "answer.txt").write_text("43\n")  # shows that it is not unpacked again
    wheel = built()
    assert not source.exists()
    assert b"'43'" in wheel.path.read_bytes()


def test_what_was_built_from_other_patches_is_not_current(patches: Path) -> None:
    old = built()
    (patches / "0001-right-answer.patch").write_text(PATCH.format(answer=44))
    assert [wheel.is_current for wheel in build.built_wheels()] == [False]
    new = built()
    assert old.path != new.path
    assert install.newest_wheel() == new


def test_nothing_to_install_is_an_error_that_says_what_to_do(patches: Path) -> None:
    with pytest.raises(FlexnnError, match="run 'flexnn runtime build' first"):
        install.newest_wheel()


def test_a_damaged_record_is_as_good_as_none(patches: Path) -> None:
    record = built().path.with_name("built.json")
    record.write_text("{")
    assert build.built_wheels() == []
    assert built().path.is_file()


# pure parts


def test_the_shipped_series_is_whole() -> None:
    series = read_series()
    assert [patch.path.name[:4] for patch in series.patches] == [f"{n:04}" for n in range(len(series.patches))]
    assert series.version == f"{series.ncnn_version}+flexnn.{series.build_number}"
    for patch in series.patches:
        header = patch.path.read_text(encoding="utf-8").partition("\n---\n")[0]
        assert "\nEffect: " in header
        assert "\nRisk: " in header
        assert max(map(len, header.splitlines())) <= 120


@pytest.mark.parametrize("text", ["", "{}", '{"ncnn_version": 1}', "[]"])
def test_a_broken_series_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "series.json").write_text(text)
    with pytest.raises(FlexnnError, match="cannot be read"):
        read_series(tmp_path)


def series_of(names: tuple[str, ...] = ()) -> Series:
    shipped = read_series(patches_dir())
    return Series(VERSION, "a.tar.gz", "0" * 64, 1, tuple(patch for patch in shipped.patches if patch.name in names))


AVX2 = "avx fma f16c avx2"
AVX512 = f"{AVX2} avx512f avx512cd avx512bw avx512dq avx512vl avx512_vnni"


@pytest.mark.parametrize(
    ("machine", "features", "there", "absent"),
    [
        ("x86_64", AVX512, {"AVX512=ON", "AVX512VNNI=ON", "AVX512BF16=OFF", "F16C=ON", "AVX=OFF"}, {"AVX2=ON"}),
        ("x86_64", AVX2, {"AVX512=OFF", "AVX2=ON", "FMA=ON", "AVXVNNI=OFF", "XOP=OFF"}, {"AVX=OFF"}),
        ("x86_64", "sse2", set(), {"AVX512=OFF"}),
        ("aarch64", "fp asimd asimdhp asimddp", {"ARM82=ON", "ARM82DOT=ON", "ARM86SVE=OFF"}, {"AVX512=OFF"}),
        ("armv7l", "neon vfpv4", set(), {"ARM82=OFF"}),
    ],
)
def test_a_native_build_has_this_cpus_kernels_alone(
    machine: str, features: str, there: set[str], absent: set[str]
) -> None:
    arguments = cmake_arguments(Recipe(native=True), series_of(), machine, features.split())
    assert {f"-DNCNN_{option}" for option in there} <= set(arguments)
    assert {f"-DNCNN_{option}" for option in absent}.isdisjoint(arguments)
    assert all(" " not in argument for argument in arguments)


def test_a_build_for_every_cpu_leaves_the_choice_to_ncnn() -> None:
    arguments = cmake_arguments(Recipe(), series_of(("release-gil",)), "x86_64", AVX512.split())
    assert not any("AVX" in argument for argument in arguments)
    assert "-DNCNN_VULKAN=OFF" in arguments
    assert "-DNCNN_VERSION=20261020" in arguments
    assert "-DNCNN_PYTHON_PATCHES=release-gil" in arguments


def test_features_are_those_of_the_first_cpu() -> None:
    assert cpu_features("processor : 0\nflags\t\t: fpu avx\n\nflags : sse\n") == {"fpu", "avx"}
    assert cpu_features("Features\t: fp asimd\n") == {"fp", "asimd"}
    assert cpu_features("") == frozenset()


@pytest.mark.parametrize(("cpus", "free_bytes", "jobs"), [(4, 8_000_000_000, 4), (4, 1_500_000_000, 2), (4, 0, 1)])
def test_jobs_follow_cpus_and_memory(cpus: int, free_bytes: int, jobs: int) -> None:
    assert default_jobs(cpus, free_bytes) == jobs


def test_a_build_is_named_by_all_it_is_made_of() -> None:
    whole, part = series_of(("release-gil", "zero-copy")), series_of(("release-gil",))
    keys = {
        recipe_key(whole, ["-DA=ON"], "cpython-311", "x86_64"),
        recipe_key(part, ["-DA=ON"], "cpython-311", "x86_64"),
        recipe_key(whole, ["-DA=OFF"], "cpython-311", "x86_64"),
        recipe_key(whole, ["-DA=ON"], "cpython-312", "x86_64"),
        recipe_key(whole, ["-DA=ON"], "cpython-311", "aarch64"),
    }
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("line", "expected"),
    [("[12/434] Building", (12, 434)), ("[  7%] Built", (7, 100)), ("[100%] Built", (100, 100)), ("-- Found", None)],
)
def test_progress_is_read_off_ninja_and_make(line: str, expected: tuple[int, int] | None) -> None:
    assert steps_done(line) == expected


def test_the_reason_is_the_cause_that_is_known_else_the_first_error() -> None:
    assert reason(["a.cpp: error: x", "write: No space left on device"]) == "write: No space left on device"
    assert reason(["warning: y", "a.cpp:1:2: error: x", "make: *** [all] Error 2"]) == "a.cpp:1:2: error: x"
    assert reason(["one", " two ", ""]) == "two"
    assert (
        reason(["CMake Error at x:", "  No CMAKE_CXX_COMPILER could be found."])
        == "No CMAKE_CXX_COMPILER could be found."
    )
    assert reason(["ERROR: no such package"]) == "no such package"
    assert reason([]) == "it said nothing"


def test_what_a_command_says_is_logged_line_by_line(tmp_path: Path) -> None:
    seen: list[str] = []
    status, lines = run_logged(
        ["sh", "-c", "echo $ANSWER; echo two >&2; exit 3"],
        tmp_path / "log",
        environment={"ANSWER": "one"},
        on_line=seen.append,
    )
    assert (status, lines, seen) == (3, ["one", "two"], ["one", "two"])
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
