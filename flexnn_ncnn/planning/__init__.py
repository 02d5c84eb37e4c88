"""Pure functions from a profile and a budget to a plan: no ncnn, no files, no clock."""
