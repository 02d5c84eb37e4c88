"""Bundles: everything a device needs to run one model within one budget, proved by hashes."""

from __future__ import annotations

from flexnn_ncnn.bundles.manifest import Manifest
from flexnn_ncnn.bundles.opening import Bundle, is_bundle, open_bundle

__all__ = ["Bundle", "Manifest", "is_bundle", "open_bundle"]
