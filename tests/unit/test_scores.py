from __future__ import annotations

import numpy as np
import pytest

from flexnn_ncnn.scores import OutputSummary, summarise


def only(array: object, count: int = 3, labels: list[str] | None = None) -> OutputSummary:
    (found,) = summarise({"out": np.asarray(array, np.float32)}, count, labels)
    return found


def test_the_best_come_first_with_their_labels() -> None:
    found = only([1, 5, 3, 5], 3, ["a", "b", "c", "d"])
    assert [(one.index, one.label, one.score) for one in found.top] == [(1, "b", 5), (3, "d", 5), (2, "c", 3)]
    assert (found.minimum, found.maximum, found.mean) == (1, 5, 3.5)


def test_a_distribution_is_shown_as_it_is_and_a_classifiers_scores_through_softmax() -> None:
    assert [one.probability for one in only([0.25, 0.75]).top] == [0.75, 0.25]
    scores = only([0, np.log(3)], labels=["a", "b"]).top
    assert [one.probability for one in scores] == pytest.approx([0.75, 0.25])
    assert [one.probability for one in only([0, 3]).top] == [None, None]
    assert [one.probability for one in only([1, np.nan], labels=["a", "b"]).top] == [None, None]
    assert sum(one.probability or 0 for one in only([1e5, 0], labels=["a", "b"]).top) == pytest.approx(1)


def test_labels_of_another_length_are_not_used() -> None:
    assert [one.label for one in only([1, 2], labels=["a"]).top] == ["", ""]


def test_not_a_number_is_never_the_best() -> None:
    assert [one.index for one in only([np.nan, 1, -np.inf, 2], 4).top] == [3, 1, 2, 0]


def test_a_matrix_is_summed_up_by_its_last_row_and_a_map_by_its_range() -> None:
    found = only([[9, 0, 0], [0, 0, 7]], 1)
    assert (found.row, found.top[0].index) == (1, 2)
    assert only(np.ones((5, 1, 1))).top[0].score == 1  # scores of a network without a final Flatten
    large = only(np.arange(8).reshape(2, 2, 2))
    assert (large.top, large.maximum) == ((), 7)


def test_fewer_scores_than_wanted_are_all_shown() -> None:
    assert len(only([1, 2], 5).top) == 2
    assert only([1, 2], 0).top == ()
