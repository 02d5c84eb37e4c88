"""The errors of flexnn-ncnn, each with the exit status of a command that ends with it.

Exit statuses: 0 done, 1 bad input or failure, 2 usage, 3 the budget cannot work, 4 outputs differ or budget exceeded.
Errors about model files themselves are `param_tools.errors`.
"""

from __future__ import annotations

from flexnn_ncnn.units import SizeError, format_budget, format_bytes
from param_tools.errors import FlexnnError, ModelFormatError

__all__ = [
    "BudgetError",
    "BudgetExceededError",
    "BundleError",
    "DeviceMemoryError",
    "FlexnnError",
    "InputError",
    "MismatchError",
    "MissingPackageError",
    "ModelChangedError",
    "PlanError",
    "ProfileError",
    "SizeError",
    "TransferError",
    "UsageError",
]


class UsageError(FlexnnError):
    """An option, size or name that means nothing here, whatever the files say."""

    exit_code = 2


class InputError(FlexnnError):
    """Data given to a network that it cannot take: a wrong shape, dtype, name or file."""


class ModelChangedError(ModelFormatError):
    """A file of weights that is no longer the one that was opened."""


class ProfileError(FlexnnError):
    """A profile that contradicts itself, or was measured on another model, options or machine."""


class PlanError(FlexnnError):
    """A plan that breaks a rule of its own or does not belong to the model it is run on."""


class TransferError(FlexnnError):
    """Files that did not get to a device or back: no connection, no room, or damage on the way."""


class BundleError(FlexnnError):
    """A bundle that is damaged, or none."""


class DeviceMemoryError(FlexnnError):
    """A budget that the device it is meant for has no memory for."""

    exit_code = 3


class BudgetError(FlexnnError):
    """A budget no plan can keep, refused before anything runs.

    Attributes:
        budget_bytes: the budget asked for.
        smallest_bytes: the smallest budget that does work.
        culprit: what sets it, such as "layer 'fc6' (InnerProduct)".
    """

    exit_code = 3

    def __init__(self, *, budget_bytes: int, smallest_bytes: int, culprit: str) -> None:
        self.budget_bytes, self.smallest_bytes, self.culprit = budget_bytes, smallest_bytes, culprit
        super().__init__(
            f"a budget of {format_bytes(budget_bytes)} cannot work: {culprit} needs {format_bytes(smallest_bytes)}",
            hint=f"give {format_budget(smallest_bytes)} or more",
        )


class BudgetExceededError(FlexnnError):
    """A run that was measured to hold more than its budget.

    Attributes:
        budget_bytes: the budget.
        peak_bytes: what was measured.
    """

    exit_code = 4

    def __init__(self, *, budget_bytes: int, peak_bytes: int, hint: str = "") -> None:
        self.budget_bytes, self.peak_bytes = budget_bytes, peak_bytes
        super().__init__(
            f"the run held {format_bytes(peak_bytes)}, {format_bytes(peak_bytes - budget_bytes)} more than the budget",
            hint=hint,
        )


class MismatchError(FlexnnError):
    """Outputs that differ from stock ncnn's by more than the tolerance."""

    exit_code = 4


class MissingPackageError(FlexnnError):
    """An optional package that a feature needs and that is not installed.

    Attributes:
        package: its name on the package index.
        extra: the extra of flexnn-ncnn that brings it.
    """

    def __init__(self, *, package: str, extra: str, needed_for: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(
            f"{needed_for} needs {package}, which is not installed", hint=f"pip install 'flexnn-ncnn[{extra}]'"
        )
