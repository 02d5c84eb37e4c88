"""From layers to buffers: lifetimes, aliases, copies, and who may overwrite what."""

from __future__ import annotations

from dataclasses import replace

from flexnn_ncnn.planning.problem import BlobProblem, Buffer, blob_problem, live_bytes
from flexnn_ncnn.records.layout import OVERREAD_BYTES
from tests.unit.profiles import PACKED, PLANE, VECTOR, layer, model, split


def lives(problem: BlobProblem) -> dict[str, tuple[int, int]]:
    return {one.blob: (one.begin, one.end) for one in problem.buffers}


def sources(problem: BlobProblem) -> list[tuple[str, ...]]:
    return [step.sources for step in problem.steps]


def test_a_blob_exists_from_its_writer_to_its_last_reader() -> None:
    problem = blob_problem(model(layer("a", "in"), layer("b", "a"), layer("c", "b"), layer("d", "c a", mode="list")))
    assert lives(problem) == {"a": (0, 4), "b": (1, 3), "c": (2, 4), "d": (3, 4)}
    assert sources(problem) == [("in",), ("a",), ("b",), ("c", "a")]


def test_an_output_lives_to_the_end() -> None:
    problem = blob_problem(model(layer("early", "in"), layer("b", "in"), layer("c", "b")))
    assert lives(problem)["early"] == (0, 3)


def test_what_the_caller_feeds_is_not_placed() -> None:
    assert "in" not in lives(blob_problem(model(layer("a", "in"))))


def test_buffers_are_aligned_and_leave_room_to_read_past_the_end() -> None:
    (found,) = blob_problem(model(layer("a", "in"))).buffers
    assert found.size_bytes % 64 == 0
    assert found.size_bytes >= PLANE.size_bytes + OVERREAD_BYTES


def test_in_place_takes_over_the_input() -> None:
    problem = blob_problem(model(layer("a", "in"), layer("relu", "a", mode="inplace"), layer("c", "relu")))
    assert lives(problem) == {"a": (0, 3), "c": (2, 3)}
    assert sources(problem)[1] == ("a",)


def test_in_place_copies_what_the_caller_feeds() -> None:
    problem = blob_problem(model(layer("relu", "in", mode="inplace")))
    assert sources(problem) == [("relu",)]
    assert lives(problem) == {"relu": (0, 1)}


def test_in_place_copies_what_another_layer_reads_later() -> None:
    problem = blob_problem(
        model(
            layer("a", "in"), split("a", "x y"), layer("relu", "x", mode="inplace"), layer("b", "relu y", mode="list")
        )
    )
    assert sources(problem)[2] == ("relu",)
    assert lives(problem)["a"] == (0, 4)


def test_in_place_overwrites_the_last_copy_of_a_split() -> None:
    problem = blob_problem(
        model(layer("a", "in"), split("a", "x y"), layer("b", "y"), layer("relu", "x", mode="inplace"))
    )
    assert sources(problem)[3] == ("x",)


def test_in_place_in_the_last_step_spares_an_output_in_the_same_memory() -> None:
    problem = blob_problem(
        model(
            layer("a", "in"),
            split("a", "x y"),
            layer("flat", "x", mode="alias"),
            layer("relu", "y", mode="inplace"),
        )
    )
    assert sources(problem)[3] == ("relu",)


def test_a_layer_that_wants_another_layout_gets_a_copy_for_its_step() -> None:
    problem = blob_problem(model(layer("a", "in"), layer("b", "a", input_layouts=(PACKED,))))
    assert sources(problem)[1] == ("a@1",)
    assert lives(problem)["a@1"] == (1, 2)


def test_an_alias_of_a_copy_keeps_the_copy() -> None:
    problem = blob_problem(
        model(
            layer("a", "in"),
            layer("flat", "a", mode="alias", input_layouts=(PACKED,), output_layouts=(VECTOR,)),
            layer("c", "flat", input_layouts=(VECTOR,)),
        )
    )
    assert lives(problem) == {"a": (0, 2), "a@1": (1, 3), "c": (2, 3)}


def test_in_place_in_another_layout_copies_into_its_own_output() -> None:
    relu = layer("relu", "a", mode="inplace", input_layouts=(PACKED,), output_layouts=(PACKED,))
    problem = blob_problem(model(layer("a", "in"), relu))
    assert sources(problem)[1] == ("relu",)
    (made,) = [one for one in problem.buffers if one.blob == "relu"]
    assert made.layout == PACKED


def test_a_sum_takes_the_memory_of_a_summand_that_nobody_reads_later() -> None:
    add = layer("sum", "a b", mode="overlay")
    problem = blob_problem(model(layer("a", "in"), layer("b", "in"), add, layer("end", "sum")))
    assert problem.steps[2].overwrites == "a"
    assert "sum" not in lives(problem)
    again = blob_problem(model(layer("a", "in"), layer("b", "in"), add, layer("end", "sum a", mode="list")))
    assert again.steps[2].overwrites == "b"
    kept = blob_problem(model(layer("a", "in"), layer("b", "in"), add, layer("end", "sum a b", mode="list")))
    assert (kept.steps[2].mode, kept.steps[2].overwrites) == ("list", "")


def test_inputs_of_a_concat_are_written_into_its_output() -> None:
    joined = replace(PLANE, c=32)
    concat = layer("both", "a b", type="Concat", mode="list", output_layouts=(joined,))
    problem = blob_problem(
        model(layer("a", "in"), layer("b", "in"), concat, layer("end", "both", input_layouts=(joined,)))
    )
    assert lives(problem) == {"both": (0, 4), "end": (3, 4)}
    assert [(one.blob, one.parent, one.offset_bytes) for one in problem.nested] == [
        ("a", "both", 0),
        ("b", "both", PLANE.size_bytes),
    ]
    assert problem.steps[2].mode == "join"


def test_a_concat_of_what_somebody_else_reads_copies() -> None:
    concat = layer("both", "x b", type="Concat", mode="list", output_layouts=(replace(PLANE, c=32),))
    problem = blob_problem(
        model(layer("a", "in"), split("a", "x y"), layer("b", "in"), concat, layer("end", "both y", mode="list"))
    )
    assert problem.nested == ()


def test_live_bytes_add_up_what_exists() -> None:
    found = [Buffer("a", VECTOR, 64, 0, 2), Buffer("b", VECTOR, 128, 1, 3)]
    assert live_bytes(found, 3) == [64, 192, 128]
    assert live_bytes([], 0) == [0]
