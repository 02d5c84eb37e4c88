"""Runs that are timed, beside stock ncnn and beside one another."""
