"""Bundles made, carried and run: on a machine like the one they were made on, and on another one."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.bundles import making, open_bundle
from flexnn_ncnn.bundles.adoption import adopt_plan, bundle_request, difference
from flexnn_ncnn.bundles.manifest import MANIFEST, read_manifest, write_manifest
from flexnn_ncnn.device import here
from flexnn_ncnn.preparing.preparation import prepare
from flexnn_ncnn.records.formats import read_plan, read_profile, write_profile
from tests.integration import tiny_models
from tests.integration.cli import Done, flexnn, flexnn_here
from tests.integration.quick_plans import plans_made_here

BUDGET_BYTES = 12_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundles")
    zoo.build("squeezenet11", made / "cache" / "models")
    return made


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    done = flexnn("bundle", "squeezenet11", "--budget", "12MB", "-o", folder / "b", "--json", cache=folder / "cache")
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["is_ready"]
    assert report["predicted_peak_bytes"] <= BUDGET_BYTES
    return folder / "b"


def ran(bundle: Path, cache: Path, *arguments: object) -> tuple[Done, dict[str, object]]:
    done = flexnn("run", bundle, "--json", *arguments, cache=cache)
    assert done.status == 0, done.err
    return done, json.loads(done.out)


def ran_here(bundle: Path, cache: Path, *arguments: object) -> tuple[Done, dict[str, object]]:
    """With a plan that is made in this process, if one has to be, and keeps the budget as far as is foreseen."""
    with plans_made_here():
        done = flexnn_here("run", bundle, "--json", *arguments, cache=cache)
    assert done.status == 0, done.err
    return done, json.loads(done.out)


def changed(bundle: Path, target: Path, **changes: object) -> Path:
    """The same bundle with another manifest."""
    target.mkdir()
    for path in bundle.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    write_manifest(replace(read_manifest(bundle / MANIFEST), **changes), target / MANIFEST)  # type: ignore[arg-type]
    return target


def test_a_bundle_runs_on_its_own_machine_without_measuring(bundle: Path, tmp_path: Path) -> None:
    done, found = ran(bundle, tmp_path, "-o", tmp_path / "y.npy")
    assert found["budget_bytes"] == BUDGET_BYTES
    assert done.err == ""
    (plans,) = (tmp_path / "plans").iterdir()
    assert json.loads((plans / f"{BUDGET_BYTES}.plan.json").read_text()) == json.loads(
        (bundle / "plan.json").read_text()
    )
    direct = flexnn("run", "squeezenet11", "--budget", "12MB", "-o", tmp_path / "z.npy", cache=bundle.parent / "cache")
    assert direct.status == 0, direct.err
    assert np.array_equal(np.load(tmp_path / "y.npy"), np.load(tmp_path / "z.npy"))


def test_a_bundle_in_a_file_runs_and_compares(bundle: Path, folder: Path, tmp_path: Path) -> None:
    done = flexnn_here("bundle", "squeezenet11", "--budget", "12MB", "-o", tmp_path / "b.tar", cache=folder / "cache")
    assert done.status == 0, done.err
    found = flexnn("compare", tmp_path / "b.tar", "--rounds", 1, "--json", cache=tmp_path / "cache")
    assert found.status == 0, found.err
    assert json.loads(found.out)["budget_bytes"] == BUDGET_BYTES


def test_on_another_machine_the_model_is_measured_again_and_it_is_said_once(bundle: Path, tmp_path: Path) -> None:
    foreign = changed(bundle, tmp_path / "b", machine=replace(here(), architecture="aarch64", cores=("Cortex-A76",)))
    first, found = ran(foreign, tmp_path / "cache")
    assert "measured again on this machine: it was made on aarch64" in first.err
    assert found["peak_bytes"] <= BUDGET_BYTES
    second, _ = ran(foreign, tmp_path / "cache")
    assert second.err == ""


def spoilt(plan: str, how: str) -> str:
    """A plan's text that is not what this release wrote."""
    if how == "of another release":
        return plan.replace('"version":', '"version":9')
    document = json.loads(plan)
    step = next(step for step in document["steps"] if step["parts"] and step["parts"][0]["pieces"])
    step["parts"][0]["pieces"][0]["count"] -= 64  # ncnn refuses the layer
    return json.dumps(document)


@pytest.mark.parametrize("how", ["of another release", "that ncnn refuses"])
def test_a_plan_that_cannot_be_used_is_made_again(bundle: Path, tmp_path: Path, how: str) -> None:
    text = spoilt((bundle / "plan.json").read_text(), how)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    files = tuple(
        replace(file, size_bytes=len(text), sha256=sha256) if file.name == "plan.json" else file
        for file in read_manifest(bundle / MANIFEST).files
    )
    path = changed(bundle, tmp_path / "b", files=files)
    (path / "plan.json").write_text(text)
    done, _ = ran_here(path, tmp_path / "cache")
    assert "its plan cannot be used" in done.err
    (plans,) = (tmp_path / "cache" / "plans").iterdir()
    assert read_plan(plans / f"{BUDGET_BYTES}.plan.json").budget_bytes == BUDGET_BYTES


def test_another_budget_or_more_threads_are_planned_for(bundle: Path, tmp_path: Path) -> None:
    done, found = ran_here(bundle, tmp_path, "--budget", "20MB", "--threads", 2)
    assert (found["budget_bytes"], found["threads"]) == (20_000_000, 2)
    assert "another budget" in done.err


def test_a_budget_that_cannot_work_here_is_refused_with_one_that_does(bundle: Path, tmp_path: Path) -> None:
    path = changed(bundle, tmp_path / "b", budget_bytes=1_000_000, machine=replace(here(), cpus=99))
    with plans_made_here():
        done = flexnn_here("run", path, cache=tmp_path / "cache")
    assert done.status == 3
    assert "give" in done.err


def test_a_damaged_bundle_is_refused_in_one_sentence(bundle: Path, tmp_path: Path) -> None:
    path = changed(bundle, tmp_path / "b")
    data = bytearray((path / "model.bin").read_bytes())
    data[1_000_000] ^= 1
    (path / "model.bin").write_bytes(data)
    done = flexnn_here("run", path, cache=tmp_path / "cache")
    assert done.status == 1
    assert done.err.splitlines() == [
        f"flexnn: error: {path}/model.bin is damaged: it has not the hash that bundle.json states; "
        "copy or make the bundle again"
    ]


def test_nothing_but_bundles_is_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for extra, complaint in ((), "exists already"), (("--force",), "no bundle"):
        done = flexnn_here(
            "bundle", "squeezenet11", "--budget", "12MB", "-o", tmp_path / "mine", *extra, cache=folder / "cache"
        )
        assert done.status == 1
        assert complaint in done.err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_bundle_is_replaced_when_asked(bundle: Path, folder: Path, tmp_path: Path) -> None:
    path = changed(bundle, tmp_path / "b", model="old")
    arguments = ("bundle", "squeezenet11", "--budget", "12MB", "--for", "pi5", "-o", path, "--force")
    done = flexnn_here(*arguments, cache=folder / "cache")
    assert done.status == 0, done.err
    assert "measured there" in done.out
    assert read_manifest(path / MANIFEST).model == "squeezenet11"
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


@pytest.fixture(scope="module")
def measured_there(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's profile, as a machine that differs in what does not matter to ncnn would have it."""
    profile, machine = read_profile(bundle / "profile.json"), replace(here(), cpus=99)
    path = tmp_path_factory.mktemp("there") / "profile.json"
    write_profile(replace(profile, machine=machine.fingerprint, machine_facts=machine), path)
    return path


def test_what_was_measured_on_the_device_is_planned_for_here_and_used_there(
    measured_there: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "b"
    arguments = ("bundle", "squeezenet11", "--budget", "12MB", "--profile", measured_there, "-o", target)
    with monkeypatch.context() as patch:
        patch.setattr(making, "prepare", None)  # nothing is measured here
        done = flexnn_here(*arguments, cache=folder / "cache")
    assert done.status == 0, done.err
    assert "used there once it has been tried" in done.out
    manifest = read_manifest(target / MANIFEST)
    assert manifest.machine.cpus == 99
    assert manifest.made_for_fingerprint == manifest.machine.fingerprint == read_plan(target / "plan.json").machine
    monkeypatch.setattr(os, "cpu_count", lambda: 99)  # and here we are there
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "cache"))
    opened, inputs = open_bundle(target), zoo.sample_input(zoo.entry("squeezenet11"))
    request = bundle_request(opened)
    assert adopt_plan(opened, request, inputs) == ""
    assert prepare(request, inputs)[0] == read_plan(target / "plan.json")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("squeezenet11", "--threads", "2"), "for 1 threads, or other options"),
        (("squeezenet11", "--shape", "in0=3x192x192"), "for inputs of other shapes"),
        (("squeezenet11", "--for", "FILE"), "of another machine"),
        (("CLASSIFIER",), "not of "),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(
    arguments: tuple[str, ...], complaint: str, measured_there: Path, folder: Path, tmp_path: Path
) -> None:
    cache = folder / "cache"
    assert flexnn_here("fingerprint", "-o", tmp_path / "f.json", cache=cache).status == 0
    known = {"FILE": tmp_path / "f.json", "CLASSIFIER": tiny_models.classifier(tmp_path)}
    words = [known.get(word, word) for word in arguments]
    common = ("--budget", "12MB", "--profile", measured_there, "-o", tmp_path / "b")
    done = flexnn_here("bundle", *words, *common, cache=cache)
    assert done.status == 1
    assert f"the profile is {complaint}" in done.err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (("run", "squeezenet11"), 2, "--budget"),
        (("run", "b", "--bin", "x.bin"), 2, "its own .bin"),
        (("run", "no-such.tar"), 1, "cannot be read"),
        (("bundle", "squeezenet11", "--budget", "12MB", "--for", "toaster", "-o", "new"), 2, "pi4, pi5, android"),
        (("bundle", "squeezenet11", "--budget", "12MB", "--for", "no.json", "-o", "new"), 1, "cannot be read"),
        (("bundle", "squeezenet11", "--budget", "1MB", "-o", "new"), 3, "cannot work"),
        (("bundle", "squeezenet11", "--budget", "9GiB", "--for", "pi4", "-o", "new"), 3, "8 GiB of memory at most"),
        (("bundle", "squeezenet11", "--budget", "12MB", "--for", "pi4", "--threads", "8", "-o", "new"), 2, "4 CPUs"),
    ],
)
def test_what_makes_no_sense_is_refused(
    bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, complaint: str
) -> None:
    monkeypatch.chdir(folder)
    words = [folder / word if word in ("b", "new", "no-such.tar", "no.json") else word for word in arguments]
    with plans_made_here():
        done = flexnn_here(*words, cache=folder / "cache")
    assert done.status == status
    assert complaint in done.err
    assert sorted(path.name for path in folder.iterdir()) == ["b", "cache"]


def test_a_difference_is_put_into_words(bundle: Path) -> None:
    machine, manifest = here(), read_manifest(bundle / MANIFEST)
    there = replace(machine, page_bytes=16384)
    assert "ncnn 0.9" in difference(replace(manifest, machine=replace(machine, ncnn_version="0.9")), machine)
    assert "16 KiB pages" in difference(replace(manifest, machine=there), machine)
    assert "features" in difference(replace(manifest, machine=replace(machine, features=())), machine)
    meant = replace(manifest, made_for="a board", made_for_fingerprint="0" * 16)
    assert "meant for a board" in difference(meant, there)
    assert "16 KiB pages" in difference(replace(meant, made_for_fingerprint=there.fingerprint), there)
