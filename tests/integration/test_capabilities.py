"""What the installed ncnn says it can do, held against what it does."""

from __future__ import annotations

from dataclasses import fields

import ncnn

from flexnn_ncnn.records.capabilities import CAPABILITY_EFFECTS, STOCK, Capabilities
from flexnn_ncnn.runtime import native


def test_every_capability_has_its_effect_described() -> None:
    assert list(CAPABILITY_EFFECTS) == [field.name for field in fields(Capabilities)]


def test_a_stock_ncnn_has_none() -> None:
    found = native.capabilities()
    assert found is native.capabilities()
    assert STOCK.is_stock
    assert found.is_stock == (not hasattr(ncnn, "patches"))
