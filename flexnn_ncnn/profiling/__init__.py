"""Measuring a model layer by layer: `flexnn_ncnn.profiling.profiler` is the way in."""
