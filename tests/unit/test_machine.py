"""The facts a profile belongs to, read from the /proc and /sys of machines that are not here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flexnn_ncnn.errors import InputError
from flexnn_ncnn.records.formats import device_document, read_device
from flexnn_ncnn.records.machine import Device, Machine, core_name, this_machine
from param_tools.errors import FormatVersionError

X86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f\n\n"
PI_5 = "processor\t: {}\nFeatures\t: fp asimd asimdhp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n"
PHONE_LITTLE = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n\n"
DEVICE = Device(this_machine("1.0"), 8 * 1024**3, True)
PHONE_BIG = "processor\t: 1\nFeatures\t: fp asimd\nCPU implementer\t: 0x51\nCPU part\t: 0x804\n\n"


def machine_with(folder: Path, cpuinfo: str, l2: str = "") -> Machine:
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text(cpuinfo)
    cache = folder / "sys/devices/system/cpu/cpu0/cache/index2"
    cache.mkdir(parents=True)
    if l2:
        (cache / "size").write_text(f"{l2}\n")
    return this_machine("1.0", folder)


@pytest.mark.parametrize(
    ("cpuinfo", "cores", "features"),
    [
        (X86 * 2, ("AMD EPYC",), ("avx2", "avx512f", "fpu")),
        (PI_5.format(0) + PI_5.format(1), ("Cortex-A76",), ("asimd", "asimdhp", "fp")),
        (PHONE_LITTLE + PHONE_BIG, ("Cortex-A55", "core 0x51/0x804"), ("asimd", "fp")),
    ],
)
def test_cores_and_features_are_told(
    tmp_path: Path, cpuinfo: str, cores: tuple[str, ...], features: tuple[str, ...]
) -> None:
    found = machine_with(tmp_path, cpuinfo, "512K")
    assert (found.cores, found.features, found.l2_bytes) == (cores, features, 512 * 1024)


def test_a_machine_that_tells_nothing_still_has_a_fingerprint(tmp_path: Path) -> None:
    found = this_machine("1.0", tmp_path)
    assert (found.features, found.l2_bytes) == ((), 0)
    assert found.page_bytes > 0
    assert len(found.fingerprint) == 16


@pytest.mark.parametrize("size", ["", "much", "-1K", "9" * 20 + "K"])
def test_a_cache_of_no_known_size_is_none(tmp_path: Path, size: str) -> None:
    assert machine_with(tmp_path, X86, size).l2_bytes == 0


@pytest.mark.parametrize(
    ("implementer", "part", "name"),
    [("0x41", "0xd08", "Cortex-A72"), ("0x51", "0xd08", "core 0x51/0xd08"), ("?", "-", "core ?/-")],
)
def test_cores_have_names(implementer: str, part: str, name: str) -> None:
    assert core_name(implementer, part) == name


def test_every_fact_counts() -> None:
    here = this_machine("1.0")
    others = [
        replace(here, system="x"),
        replace(here, architecture="x"),
        replace(here, cores=("x",)),
        replace(here, features=("x",)),
        replace(here, cpus=here.cpus + 1),
        replace(here, l2_bytes=here.l2_bytes + 1),
        replace(here, page_bytes=here.page_bytes * 2),
        replace(here, ncnn_version="x"),
    ]
    assert len({here.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_a_fingerprint_in_a_file_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(device_document(DEVICE)))
    assert read_device(path) == DEVICE


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"cpus": 64}, "not that of its facts"),
        ({"fingerprint": "0" * 16}, "not that of its facts"),
        ({"format": "flexnn-plan"}, "not a flexnn-fingerprint"),
        ({"cpus": "four"}, "cpus"),
        ({"ram_bytes": "much"}, "ram_bytes"),
        ({"extra": 1}, "fields"),
    ],
)
def test_a_fingerprint_that_was_changed_is_refused(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(device_document(DEVICE) | changes))
    with pytest.raises(InputError, match=complaint):
        read_device(path)


def test_a_fingerprint_of_another_release_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(device_document(DEVICE) | {"version": 99}))
    with pytest.raises(FormatVersionError):
        read_device(path)
