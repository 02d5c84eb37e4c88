"""Measuring a model layer by layer: `flexnn_ncnn.profiler` is the way in."""
