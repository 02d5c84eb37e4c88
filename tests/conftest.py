"""Settings for all tests."""

from __future__ import annotations

import os

# Before ncnn is loaded: threads that spin while they wait take ten times as long where processors are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
