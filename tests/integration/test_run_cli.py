"""`flexnn run` on small networks, answers compared with stock ncnn's."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import numpy.typing as npt
import pytest

from flexnn_ncnn.measuring.running import RunReport
from flexnn_ncnn.reporters.runs import write_run
from flexnn_ncnn.scores import summarise
from tests.integration import tiny_models
from tests.integration.cli import ROOT, flexnn, flexnn_here
from tests.integration.quick_plans import plans_made_here

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def quick_cache(tmp_path: Path) -> Iterator[Path]:
    """A cache of plans that are made in this process."""
    with plans_made_here(stock_more_bytes=5_000_000):
        yield tmp_path / "quick"


def stock(param_path: Path, inputs: dict[str, Array], blobs: tuple[str, ...]) -> dict[str, Array]:
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.opt.num_threads = 1
    assert net.load_param(str(param_path)) == 0
    assert net.load_model(str(param_path.with_suffix(".bin"))) == 0
    extractor = net.create_extractor()
    for blob, array in inputs.items():
        extractor.input(blob, ncnn.Mat(array).clone())
    return {blob: np.array(extractor.extract(blob)[1]) for blob in blobs}


def save(folder: Path, name: str, array: Array) -> Path:
    np.save(folder / name, array)
    return folder / name


def test_a_classifier_gives_stocks_scores_as_text_json_and_file(tmp_path: Path, cache: Path) -> None:
    param = tiny_models.classifier(tmp_path)
    picture = np.random.default_rng(0).random((3, 32, 32))
    x, y = save(tmp_path, "x.npy", picture), tmp_path / "y.npy"
    done = flexnn("run", param, "--budget", "2.4MB", "--input", x, "-o", y, "--top", 2, "--json", cache=cache)
    assert done.status == 0, done.err
    expected = stock(param, {"in0": picture.astype(np.float32)}, ("out0",))["out0"]
    np.testing.assert_allclose(np.load(y), expected, rtol=1e-5)
    report = json.loads(done.out)
    best = np.argsort(-expected)[:2]
    (output,) = report["outputs"]
    assert [one["index"] for one in output["top"]] == list(best)
    assert output["top"][0]["probability"] == pytest.approx(float(expected[best[0]]), rel=1e-5)
    assert report["budget_bytes"] == 2_400_000
    assert 0 <= report["peak_bytes"] <= report["budget_bytes"]
    assert report["input"] == str(x)
    text = flexnn("run", param, "--budget", "2.4MB", "--input", f"in0={x}", "--top", 2, cache=cache).out
    assert "2.4 MB allowed" in text
    assert f"1  {expected[best[0]]:>7.2%}" in text


def test_several_inputs_and_outputs(tmp_path: Path, quick_cache: Path) -> None:
    param = tiny_models.two_ways(tmp_path)
    left, right = (np.random.default_rng(i).random(64, np.float32) for i in range(2))
    arguments = [f"left={save(tmp_path, 'a.npy', left)}", "--input", f"right={save(tmp_path, 'b.npy', right)}"]
    out = tmp_path / "out.npz"
    done = flexnn_here("run", param, "--budget", "2.4MB", "--input", *arguments, "-o", out, cache=quick_cache)
    assert done.status == 0, done.err
    with np.load(out) as found:
        np.testing.assert_array_equal(found["sum"], left + right)
        np.testing.assert_array_equal(found["product"], left * right)
    refused = flexnn_here("run", param, "--budget", "2.4MB", "-o", tmp_path / "o.npy", cache=quick_cache)
    assert refused.status == 2
    assert "2 outputs: sum, product; give -o a name in .npz" in refused.err
    assert not (tmp_path / "o.npy").exists()


def test_ids_of_any_integer_type_are_looked_up(tmp_path: Path, quick_cache: Path) -> None:
    param = tiny_models.lookup(tmp_path)
    ids = np.array([3, 49, 0, 3, 7])
    x, y = save(tmp_path, "x.npy", ids), tmp_path / "y.npy"
    assert flexnn_here("run", param, "--budget", "2.4MB", "--input", x, "-o", y, cache=quick_cache).status == 0
    np.testing.assert_array_equal(np.load(y), stock(param, {"in0": ids.astype(np.int32)}, ("out0",))["out0"])


def test_without_input_the_model_is_fed_noise_of_the_stated_shape(tmp_path: Path, quick_cache: Path) -> None:
    param = tiny_models.upscaler(tmp_path)
    done = flexnn_here("run", param, "--budget", "2.4MB", cache=quick_cache)
    assert done.status == 0, done.err
    assert "input    noise (no --input, no --image)" in done.out
    assert "out0 3x32x32: " in done.out
    unsized = tiny_models.classifier(tmp_path, sized=False)
    refused = flexnn_here("run", unsized, "--budget", "2.4MB", cache=quick_cache)
    assert refused.status == 1
    assert "does not tell the shape of its input 'in0'; give --shape in0=CxHxW" in refused.err
    assert flexnn_here("run", unsized, "--budget", "2.4MB", "--shape", "in0=3x32x32", cache=quick_cache).status == 0


def test_a_picture_goes_into_any_network_of_three_channels(tmp_path: Path, quick_cache: Path) -> None:
    param = tiny_models.upscaler(tmp_path)
    done = flexnn_here(
        "run", param, "--budget", "2.4MB", "--image", ROOT / "models" / "chelsea.png", "--json", cache=quick_cache
    )
    assert done.status == 0, done.err
    assert json.loads(done.out)["outputs"][0]["shape"] == [3, 32, 32]


def test_two_threads_give_the_same_answer(tmp_path: Path, quick_cache: Path) -> None:
    param = tiny_models.classifier(tmp_path)
    outs = [tmp_path / "1.npy", tmp_path / "2.npy"]
    for threads, out in enumerate(outs, 1):
        assert (
            flexnn_here("run", param, "--budget", "2.4MB", "--threads", threads, "-o", out, cache=quick_cache).status
            == 0
        )
    np.testing.assert_allclose(np.load(outs[0]), np.load(outs[1]), rtol=1e-4)


def test_a_budget_that_cannot_work_names_one_that_does(tmp_path: Path) -> None:
    param = tiny_models.classifier(tmp_path)
    refused = flexnn("run", param, "--budget", "1kB", cache=tmp_path / "cache")
    assert refused.status == 3
    assert "a budget of 1.0 kB cannot work: layer '" in refused.err
    smallest = refused.err.split("; give ")[1].split(" or more")[0]
    done = flexnn("compare", param, "--budget", smallest, "--rounds", 1, cache=tmp_path / "fresh")
    assert done.status == 0, done.err


def test_a_cached_plan_runs_without_planner_profiler_and_networkx(tmp_path: Path, cache: Path) -> None:
    param = tiny_models.classifier(tmp_path)
    program = (
        "import sys\nfrom flexnn_ncnn.cli.main import main\n"
        f"assert main(['run', {str(param)!r}, '--budget', '2.4MB', '--quiet']) == 0\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLEXNN_CACHE_DIR": str(cache)}

    def loaded() -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=300
        )
        return set(done.stderr.split())

    loaded()
    modules = loaded()
    assert {"ncnn", "numpy", "click", "flexnn_ncnn.runtime.executor"} <= modules
    unwanted = (
        "networkx",
        "rich",
        "matplotlib",
        "PIL",
        "flexnn_ncnn.planning.planner",
        "flexnn_ncnn.profiling.profiler",
    )
    unwanted += ("flexnn_ncnn.preparing.assemble", "flexnn_ncnn.preparing.trials")
    assert modules.isdisjoint(unwanted)


def test_a_damaged_plan_in_the_cache_is_made_again(tmp_path: Path, quick_cache: Path) -> None:
    param = tiny_models.classifier(tmp_path)
    assert flexnn_here("run", param, "--budget", "2.4MB", cache=quick_cache).status == 0
    (plan,) = quick_cache.glob("plans/*/2400000.plan.json")
    whole = plan.read_text()
    for damage in ("", whole[: len(whole) // 2], "[]", re.sub('"version":[0-9]+', '"version":99', whole)):
        plan.write_text(damage)
        assert flexnn_here("run", param, "--budget", "2.4MB", cache=quick_cache).status == 0
        assert plan.read_text() != damage


def test_a_report_says_when_the_peak_is_a_bound_and_escapes_what_it_shows() -> None:
    report = RunReport(10_000_000, 2, 4_000_000, 5_000_000, False, 0.25, 1_000_000, 2_000_000, {})
    stream = io.StringIO()
    write_run(report, "m\x1b.param", "x.npy", summarise({"o": np.array([1.0, 2.0])}, 1, ["a", "b\n"]), stream)
    text = stream.getvalue()
    assert "at most 5.0 MB held, 4.0 MB predicted, 10.0 MB allowed" in text
    assert "250.0 ms on 2 threads" in text
    assert r"m\x1b.param" in text
    assert text.endswith("  1   73.11%  score 2.0000        1  b\\n\n")
    assert report.within_budget
