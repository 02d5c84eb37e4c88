"""ncnn's own API under a budget: `Net` and `Extractor`."""

from flexnn_ncnn.net.extractor import Extractor
from flexnn_ncnn.net.net import Net

__all__ = ["Extractor", "Net"]
