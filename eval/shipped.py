"""Stock ncnn with the options it is shipped with, half precision where it has it: `python -m eval.shipped`.

`flexnn bench` computes everything in fp32, so that contestants do the same work.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from flexnn_ncnn import zoo
from flexnn_ncnn.benchmark import Benchmark, benchmark
from flexnn_ncnn.model_inputs import input_specs, sample_arrays
from flexnn_ncnn.options import RunOptions
from flexnn_ncnn.preparation import Request
from flexnn_ncnn.reporters.json_report import write_json
from param_tools.errors import FlexnnError
from param_tools.model_io import default_bin_path, read_param

__all__ = ["measure_shipped"]


def measure_shipped(model: str, loops: int, warmups: int, threads: int) -> Benchmark:
    """Times stock ncnn with its default options.

    Args:
        model: a zoo model's name, or the path of a .param.
        loops: inferences that count.
        warmups: inferences before those.
        threads: compute threads.

    Raises:
        FlexnnError: the model cannot be read or run.
    """
    options = RunOptions(num_threads=threads, fp16=True)
    if model in zoo.names():
        param_path, bin_path = zoo.model_paths(model)
        inputs = zoo.sample_input(zoo.entry(model))
    else:
        param_path = Path(model)
        bin_path = default_bin_path(param_path)
        inputs = sample_arrays(input_specs(read_param(param_path)), model)
    request = Request(param_path, bin_path, 1, options)
    found = benchmark(request, inputs, ("stock",), loops=loops, warmup=warmups, model=model)
    return replace(found, measured=tuple(replace(one, config="shipped") for one in found.measured))


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.shipped", description=__doc__)
    parser.add_argument("model")
    for name, default in (("--loops", 10), ("--warmup", 2), ("--threads", 1)):
        parser.add_argument(name, type=int, default=default)
    given = parser.parse_args()
    try:
        write_json(measure_shipped(given.model, given.loops, given.warmup, given.threads), sys.stdout)
    except FlexnnError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main())
