"""Transformed weights made once and used in place by every load: on an ncnn that can store them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.errors import ModelChangedError
from flexnn_ncnn.planning.choices import choices
from flexnn_ncnn.preparing.transformed import TransformedFile
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.plan import TRANSFORMED_OFFSET_BYTES, Plan
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.executor import Executor
from flexnn_ncnn.runtime.weights.origin import content_digest, index_path, is_made_from, serves, stamp_of
from tests.integration.pipeline import Prepared, feed, prepared
from tests.integration.test_executor import chain

pytestmark = pytest.mark.patched

can_store = pytest.mark.skipif(
    not native.capabilities().saves_transformed_weights, reason="the installed ncnn stores no transformed weights"
)


def streamed_plan(found: Prepared) -> Plan:
    """Every convolution streamed from what its kernel makes of its weights."""
    plan = found.plan(found.least_bytes)
    steps = tuple(
        replace(step, parts=tuple(replace(part, transformed_count=part.pieces[0].count) for part in step.parts))
        if step.type == "Convolution" and not step.resident and not step.stages
        else step
        for step in plan.steps
    )
    assert any(part.transformed_count for step in steps for part in step.parts)
    return replace(plan, steps=steps)


def run(plan: Plan, found: Prepared) -> dict[str, np.ndarray]:
    with Executor(plan, found.opened.bin_path) as executor:
        return executor.run(found.inputs)


@can_store
def test_the_answer_is_the_same_to_the_bit(tmp_path: Path) -> None:
    with chain() as found:
        plan = streamed_plan(found)
        expected = run(found.plan(found.least_bytes), found)
        supplied = TransformedFile(tmp_path).supply(plan, found.opened.bin_path)
        for _ in range(2):
            for blob, values in run(supplied, found).items():
                np.testing.assert_array_equal(values, expected[blob])


ATTENTION = ["Input in 0 1 in", "MultiHeadAttention it 1 1 in out 0=128 1=4 2=16384"]


@can_store
def test_all_four_matrices_of_attention_are_stored(tmp_path: Path) -> None:
    with prepared(ATTENTION, {"in": feed(21, 128)}) as found:
        (one,) = [one for one in choices(found.work.profile.layers[0], 0.0, transformed=True) if one.transformed][:1]
        plan = found.plan_of([one])
        expected = run(found.plan_of([replace(one, transformed=False)]), found)
        supplied = TransformedFile(tmp_path).supply(plan, found.opened.bin_path)
        (part,) = supplied.steps[0].parts
        assert [piece.count for piece in part.pieces[1:]] == [128] * 4
        assert part.pieces[0].count > 4 * 16384 * 4
        for blob, values in run(supplied, found).items():
            np.testing.assert_array_equal(values, expected[blob])


@can_store
def test_weights_are_made_once(tmp_path: Path) -> None:
    with chain() as found:
        plan, store = streamed_plan(found), TransformedFile(tmp_path)
        first = store.supply(plan, found.opened.bin_path)
        size = Path(first.transformed_path).stat().st_size
        assert TransformedFile(tmp_path).supply(plan, found.opened.bin_path) == first
        assert Path(first.transformed_path).stat().st_size == size


@can_store
@pytest.mark.parametrize("harm", ["index", "short"])
def test_a_damaged_store_is_made_again(harm: str, tmp_path: Path) -> None:
    with chain() as found:
        plan, store = streamed_plan(found), TransformedFile(tmp_path)
        path = Path(store.supply(plan, found.opened.bin_path).transformed_path)
        if harm == "index":
            index_path(path).write_text("[1, 2")
        else:
            path.write_bytes(b"")
        expected = run(found.plan(found.least_bytes), found)
        for blob, values in run(store.supply(plan, found.opened.bin_path), found).items():
            np.testing.assert_array_equal(values, expected[blob])


@can_store
def test_another_layers_weights_are_refused(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).standard_normal(64 * 64 * 9).astype(np.float32)
    bias = np.zeros(64, np.float32)
    params = native.make_params([(0, 64), (1, 3), (4, 1), (5, 1), (6, weights.size)])
    path = tmp_path / "image"
    native.save_transformed("Convolution", params, [weights, bias], native.make_option(RunOptions()), path)
    image = np.frombuffer(path.read_bytes(), np.int8)
    right, other = native.make_option(RunOptions()), native.make_option(RunOptions(), "sgemm")
    native.TransformedLayer("Convolution", params, image, weights.size, [bias], right, "conv").close()
    with pytest.raises(native.NcnnError, match=r"'conv'.*of another machine or option"):
        native.TransformedLayer("Convolution", params, image, weights.size, [bias], other, "conv")
    with pytest.raises(native.NcnnError, match="damaged"):
        native.TransformedLayer("Convolution", params, image[:100], weights.size, [bias], right, "conv")


@can_store
def test_a_layer_without_any_says_so(tmp_path: Path) -> None:
    with pytest.raises(native.NcnnError, match="no transformed weights of a ReLU"):
        native.save_transformed("ReLU", native.make_params([]), [], native.make_option(RunOptions()), tmp_path / "x")


def test_a_plan_without_them_is_left_alone(tmp_path: Path) -> None:
    with chain() as found:
        plan = found.plan(found.least_bytes)
        plan = replace(
            plan,
            steps=tuple(
                replace(step, parts=tuple(replace(part, transformed_count=0) for part in step.parts))
                for step in plan.steps
                if not any(piece.offset_bytes >= TRANSFORMED_OFFSET_BYTES for p in step.parts for piece in p.pieces)
            ),
        )
        assert TransformedFile(tmp_path).supply(plan, found.opened.bin_path) == plan
        assert not list(tmp_path.iterdir())


@can_store
def test_the_index_names_what_is_in_the_file(tmp_path: Path) -> None:
    with chain() as found:
        path = Path(TransformedFile(tmp_path).supply(streamed_plan(found), found.opened.bin_path).transformed_path)
        spans = sorted(json.loads(index_path(path).read_text())["images"].values())
        assert spans[-1][0] + spans[-1][1] == path.stat().st_size
        assert all(a[0] + a[1] <= b[0] for a, b in pairwise(spans))


def negate_in_place(path: Path, begin_bytes: int, end_bytes: int) -> None:
    """The signs of some weights turned: same size, same name, same place."""
    with open(path, "r+b") as file:
        file.seek(begin_bytes)
        values = -np.frombuffer(file.read(end_bytes - begin_bytes), np.float32)
        file.seek(begin_bytes)
        file.write(values.tobytes())


@can_store
def test_a_bin_written_to_in_place_is_never_answered_with_its_old_weights(tmp_path: Path) -> None:
    with chain() as found:
        plan, store, path = streamed_plan(found), TransformedFile(tmp_path), found.opened.bin_path
        before = store.supply(plan, path)
        expected = run(before, found)
        whole = path.read_bytes()
        try:
            for step in plan.steps:
                for part in step.parts:
                    if part.transformed_count:
                        begin = part.pieces[0].offset_bytes
                        negate_in_place(path, begin, begin + part.pieces[0].stored_bytes)
            assert not serves(before, path)
            with pytest.raises(ModelChangedError, match="changed since its weights were transformed"):
                Executor(before, path)
            after = store.supply(plan, path)
            assert after.transformed_path != before.transformed_path
            assert not Path(before.transformed_path).exists()
            answer = run(after, found)
            assert any(not np.allclose(answer[blob], expected[blob]) for blob in expected)
            for blob, values in run(found.plan(found.least_bytes), found).items():
                np.testing.assert_array_equal(values, answer[blob])
        finally:
            path.write_bytes(whole)


def settled(path: Path) -> None:
    """Wait until the file was written to long enough ago to be told from one that was not."""
    while stamp_of(path) is None:
        time.sleep(0.1)


def test_a_file_is_only_read_when_it_may_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "model.bin"
    weights.write_bytes(b"as it was")
    made = tmp_path / f"transformed-{content_digest(weights)}.weights"
    assert is_made_from(made, weights)  # read, as nothing is noted
    settled(weights)
    index_path(made).write_text(json.dumps({"bin": stamp_of(weights)}))
    read: list[object] = []

    def another(path: object) -> str:
        read.append(path)
        return "another"

    monkeypatch.setattr("flexnn_ncnn.runtime.weights.origin.content_digest", another)
    assert is_made_from(made, weights)
    assert not read
    os.utime(weights, ns=(1, 1))
    settled(weights)
    assert not is_made_from(made, weights)
    assert read == [weights]


def test_a_file_written_to_a_moment_ago_is_read(tmp_path: Path) -> None:
    weights = tmp_path / "model.bin"
    weights.write_bytes(b"as it was")
    os.utime(weights, ns=(time.time_ns(), time.time_ns()))
    assert stamp_of(weights) is None
