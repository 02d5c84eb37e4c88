from __future__ import annotations

import pickle

import pytest

from flexnn_ncnn import errors
from param_tools.errors import FlexnnError, FormatVersionError, ModelFormatError

EXAMPLES = [
    errors.BudgetError(budget_bytes=20_000_000, smallest_bytes=31_249_001, culprit="layer 'conv4_1' (Convolution)"),
    errors.BudgetExceededError(budget_bytes=8_000_000, peak_bytes=8_500_000),
    errors.MissingPackageError(package="Pillow", extra="models", needed_for="--image"),
    errors.InputError("wrong shape", hint="give (3, 224, 224)"),
    FormatVersionError("plan", found=9, supported=(1, 2)),
    ModelFormatError("bad magic", path="m.param", line=1),
]


def test_every_public_error_is_a_flexnn_error_with_a_documented_exit_status() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, FlexnnError), name
        assert kind.exit_code in (1, 2, 3, 4), name


def test_a_budget_error_says_what_is_needed_and_by_whom() -> None:
    error = EXAMPLES[0]
    assert str(error) == (
        "a budget of 20.0 MB cannot work: layer 'conv4_1' (Convolution) needs 31.2 MB; give 31.3MB or more"
    )
    assert (error.exit_code, error.smallest_bytes) == (3, 31_249_001)


def test_an_exceeded_budget_says_by_how_much() -> None:
    assert str(EXAMPLES[1]) == "the run held 8.5 MB, 500.0 kB more than the budget"


def test_a_missing_package_says_how_to_get_it() -> None:
    assert str(EXAMPLES[2]).endswith("; pip install 'flexnn-ncnn[models]'")


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_cross_processes_whole(error: FlexnnError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
