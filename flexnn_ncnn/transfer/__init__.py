"""Files to a device and back, over ssh or adb: resumed where they stopped, proved by hashes, only what changed."""

from __future__ import annotations

from flexnn_ncnn.transfer.deploying import DeployReport, deploy_bundle
from flexnn_ncnn.transfer.fetching import FetchReport, fetch
from flexnn_ncnn.transfer.places import Place, parse_place

__all__ = ["DeployReport", "FetchReport", "Place", "deploy_bundle", "fetch", "parse_place"]
