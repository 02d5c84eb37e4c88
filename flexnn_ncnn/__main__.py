"""`python -m flexnn_ncnn`: the same as the `flexnn` command."""

from __future__ import annotations

import sys

from flexnn_ncnn.cli.main import main

sys.exit(main())
