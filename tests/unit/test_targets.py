"""What a bundle is made for: kinds of devices and fingerprint files, what they cannot do, and what is said of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flexnn_ncnn.bundles.targets import DEVICES, Target, check_target, find_target, notes
from flexnn_ncnn.errors import DeviceMemoryError, UsageError
from flexnn_ncnn.records.formats import device_document
from flexnn_ncnn.records.machine import Device
from tests.bundles import MACHINE

GIB = 1024**3
HERE = replace(MACHINE, architecture="x86_64", cpus=2)


def target_of(folder: Path, device: Device) -> Target:
    path = folder / "pi.json"
    path.write_text(json.dumps(device_document(device)))
    return find_target(str(path), HERE)


def test_without_a_name_it_is_the_machine_that_was_measured() -> None:
    assert find_target("", HERE).fingerprint == HERE.fingerprint
    assert find_target("", HERE, MACHINE).fingerprint == MACHINE.fingerprint
    assert find_target("pi5", HERE).fingerprint == ""
    assert find_target("pi5", HERE, MACHINE).fingerprint == MACHINE.fingerprint


def test_a_fingerprint_file_names_a_machine_and_its_memory(tmp_path: Path) -> None:
    found = target_of(tmp_path, Device(MACHINE, 4 * GIB, True))
    assert (found.fingerprint, found.ram_bytes, found.cpus) == (MACHINE.fingerprint, (4 * GIB,), MACHINE.cpus)
    assert target_of(tmp_path, Device(MACHINE, 0, True)).ram_bytes == ()


@pytest.mark.parametrize("name", DEVICES)
def test_kinds_of_devices_are_told_with_memory_in_order(name: str) -> None:
    device = DEVICES[name]
    assert list(device.ram_bytes) == sorted(device.ram_bytes)
    check_target(device, 100_000_000, 1)
    assert list(notes(device, 100_000_000, 1, 0)) == []


def test_a_budget_beyond_the_memory_of_every_such_device_is_refused(tmp_path: Path) -> None:
    check_target(DEVICES["pi4"], 8 * GIB, 1)
    with pytest.raises(DeviceMemoryError, match="8 GiB of memory at most") as caught:
        check_target(DEVICES["pi4"], 8 * GIB + 1, 1)
    assert caught.value.exit_code == 3
    with pytest.raises(DeviceMemoryError, match="it has 1 GiB of memory; give"):
        check_target(target_of(tmp_path, Device(MACHINE, GIB, True)), 2 * GIB, 1)


def test_more_threads_than_cpus_are_refused() -> None:
    check_target(DEVICES["pi4"], 1, 4)
    check_target(DEVICES["android"], 1, 64)  # nobody knows
    with pytest.raises(UsageError, match="5 threads are more than the 4 CPUs"):
        check_target(DEVICES["pi4"], 1, 5)


@pytest.mark.parametrize(
    ("name", "budget_bytes", "threads", "streamed_bytes", "said"),
    [
        ("pi4", GIB // 2, 1, 0, ""),
        ("pi4", GIB, 1, 0, "wants one with 2 GiB of memory or more"),
        ("pi5", 13 * GIB, 1, 0, "nearly all of its 16 GiB"),
        ("pi5", 8_000_000, 1, 160_000_000, "again: 2 s from a card of 80.0 MB/s"),
        ("pi4", 8_000_000, 1, 160_000_000, "again: 4 s from a card of 40.0 MB/s"),
        ("android", 8_000_000, 2, 160_000_000, "computes on one thread"),
    ],
)
def test_what_should_be_known_is_said(
    name: str, budget_bytes: int, threads: int, streamed_bytes: int, said: str
) -> None:
    found = list(notes(DEVICES[name], budget_bytes, threads, streamed_bytes))
    assert len(found) == bool(said)
    assert said in " ".join(found)
