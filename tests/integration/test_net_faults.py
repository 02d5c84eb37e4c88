"""What goes wrong around a running net ends in a sentence, and the next inference is right."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import flexnn_ncnn
from flexnn_ncnn.errors import FlexnnError, ModelChangedError, UsageError
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.native import NcnnError
from param_tools.errors import ModelFormatError
from tests.integration import tiny_models
from tests.integration.cli import ROOT
from tests.integration.quick_plans import plans_made_here
from tests.integration.tiny_models import layer, write

Array = npt.NDArray[Any]

PICTURE = np.random.default_rng(3).random((3, 32, 32), np.float32)


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where the making of plans is not what is tested."""
    if "fresh" in request.fixturenames:
        yield
        return
    with plans_made_here():
        yield


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A cache folder for plans made as they are made for users."""
    return tmp_path / "fresh"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture
def param(tmp_path: Path) -> Path:
    """Weights of 2.3 MB, most of which a small budget streams."""
    layers = [
        layer("Input", "data", "", "in0", p0=32, p1=32, p2=3),
        layer("Convolution", "conv", "in0", "1", p0=16, p1=3, p3=2, p4=1, p5=1, p6=16 * 3 * 9, p9=1),
        layer("Pooling", "pool", "1", "2", p0=0, p1=2, p2=2),
        layer("InnerProduct", "fc", "2", "3", p0=500, p1=1, p2=1024 * 500, p9=1),
        layer("InnerProduct", "fc2", "3", "out0", p0=100, p1=1, p2=500 * 100),
    ]
    return write(layers, tmp_path / "faults.param")


@pytest.fixture
def net(param: Path, cache: Path) -> Iterator[flexnn_ncnn.Net]:
    with flexnn_ncnn.Net("2.5MB", cache_dir=cache) as made:
        made.opt.num_threads = 1
        made.opt.use_fp16_storage = False
        assert made.load_param(param) == made.load_model(param.with_suffix(".bin")) == 0
        yield made


def run(net: flexnn_ncnn.Net, picture: Array = PICTURE) -> Array:
    with net.create_extractor() as ex:
        assert ex.input("in0", picture) == 0
        code, out = ex.extract("out0")
        assert code == 0
        return np.array(out)


@pytest.fixture
def right(net: flexnn_ncnn.Net) -> Array:
    expected = run(net)
    assert net.plan.vehicle == "layers"
    assert net.plan.streamed_bytes > 1_000_000
    return expected


def test_a_bin_that_was_written_to(net: flexnn_ncnn.Net, right: Array, param: Path) -> None:
    bin_path = param.with_suffix(".bin")
    data = bin_path.read_bytes()
    bin_path.write_bytes(data[:-400] + bytes(400))  # other biases of the last layer
    with pytest.raises(ModelChangedError, match=r"faults\.bin: was written to while it was in use; run it again"):
        run(net)
    changed = run(net)
    assert not np.array_equal(changed, right)
    bin_path.write_bytes(data)
    with pytest.raises(ModelChangedError):
        run(net)
    assert np.array_equal(run(net), right)


def test_a_bin_that_was_replaced(net: flexnn_ncnn.Net, right: Array, param: Path, tmp_path: Path) -> None:
    aside = tmp_path / "aside.bin"
    aside.write_bytes(param.with_suffix(".bin").read_bytes())
    aside.replace(param.with_suffix(".bin"))
    with pytest.raises(ModelChangedError, match="was replaced"):
        run(net)
    assert np.array_equal(run(net), right)


def test_a_bin_that_is_cut_short(net: flexnn_ncnn.Net, right: Array, param: Path) -> None:
    bin_path = param.with_suffix(".bin")
    data = bin_path.read_bytes()
    os.truncate(bin_path, 5000)
    with pytest.raises(ModelChangedError):
        run(net)
    for _ in range(2):
        with pytest.raises(ModelFormatError, match="ends inside 'weight' of layer 'fc'"):
            run(net)
    bin_path.write_bytes(data)
    assert np.array_equal(run(net), right)


def test_a_bin_that_changes_in_the_middle(
    net: flexnn_ncnn.Net, right: Array, param: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was computed with weights of two files is not handed out."""

    bin_path = param.with_suffix(".bin")
    forward = native.LoadedLayer.forward

    def and_touch(self: Any, *blobs: Any) -> None:
        os.utime(bin_path)
        forward(self, *blobs)

    monkeypatch.setattr(native.LoadedLayer, "forward", and_touch)
    with pytest.raises(ModelChangedError):
        run(net)
    monkeypatch.undo()
    assert np.array_equal(run(net), right)


def test_a_bin_that_was_removed_is_still_there(net: flexnn_ncnn.Net, right: Array, param: Path) -> None:
    param.with_suffix(".bin").unlink()
    assert np.array_equal(run(net), right)


def test_a_working_folder_that_changes(
    param: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(param.parent)
    with flexnn_ncnn.Net("2.5MB", cache_dir=cache) as net:
        assert net.load_param(param.name) == net.load_model("faults.bin") == 0
        expected = run(net)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert np.array_equal(run(net), expected)


def test_ctrl_c_at_any_moment(net: flexnn_ncnn.Net, right: Array) -> None:
    interrupted = 0
    begin = time.perf_counter()
    run(net)
    seconds = time.perf_counter() - begin
    armed = False

    def ring(number: int, frame: object) -> None:
        if armed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for moment in np.linspace(0.02, 1.0, 60):
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, max(1e-5, moment * seconds))
                run(net)
                armed = False
            except KeyboardInterrupt:
                armed = False
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert np.array_equal(run(net), right)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 0


def test_ctrl_c_waits_for_the_end_of_a_step(
    net: flexnn_ncnn.Net, right: Array, monkeypatch: pytest.MonkeyPatch
) -> None:

    forward, finished = native.LoadedLayer.forward, []

    def interrupted(self: Any, *blobs: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        forward(self, *blobs)
        finished.append(self.name)

    monkeypatch.setattr(native.LoadedLayer, "forward", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs of the background
    try:
        with pytest.raises(KeyboardInterrupt):
            run(net)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert finished[0] == "conv"
    assert "fc2" not in finished
    monkeypatch.undo()
    assert np.array_equal(run(net), right)


def test_ctrl_c_while_a_plan_is_made(param: Path, fresh: Path) -> None:
    def report(what: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    with flexnn_ncnn.Net("3.1MB", cache_dir=fresh, progress=report) as net:
        assert net.load_param(param) == net.load_model(param.with_suffix(".bin")) == 0
        with pytest.raises(KeyboardInterrupt):
            run(net)


def test_an_exception_in_a_callback(param: Path, fresh: Path) -> None:
    tries: list[int] = []

    def report(what: str, done: int, of: int) -> None:
        tries.append(done)
        if len(tries) == 3:
            raise RuntimeError("mine")

    with flexnn_ncnn.Net("3.1MB", cache_dir=fresh, progress=report) as net:
        assert net.load_param(param) == net.load_model(param.with_suffix(".bin")) == 0
        with pytest.raises(RuntimeError, match="mine"):
            run(net)
        assert run(net).shape == (100,)


def test_a_callback_that_uses_the_net_itself(param: Path, fresh: Path) -> None:
    said: list[str] = []

    def report(what: str, done: int, of: int) -> None:
        with pytest.raises(UsageError) as refused:
            run(net)
        said.append(str(refused.value))

    with flexnn_ncnn.Net("3.1MB", cache_dir=fresh, progress=report) as net:
        assert net.load_param(param) == net.load_model(param.with_suffix(".bin")) == 0
        run(net)
    assert said


def test_an_error_in_a_reader(param: Path, cache: Path) -> None:
    import ncnn

    class Failing(ncnn.DataReader):  # type: ignore[misc]
        def read(self, buf: Any, size: int) -> int:
            raise RuntimeError("mine")

    with flexnn_ncnn.Net("2.5MB", cache_dir=cache) as net:
        net.load_param(param)
        with pytest.raises(RuntimeError, match="mine"):
            net.load_model(Failing())
        with pytest.raises(UsageError, match="no weights are loaded"):
            run(net)
        assert net.load_model(param.with_suffix(".bin")) == 0
        assert run(net).shape == (100,)


def test_threads_extract_at_once(net: flexnn_ncnn.Net, right: Array) -> None:
    failures: list[BaseException] = []

    def work(blob: str) -> None:
        try:
            for _ in range(8):
                with net.create_extractor() as ex:
                    ex.input("in0", PICTURE)
                    code, out = ex.extract(blob)
                    assert code == 0
                    assert blob != "out0" or np.array_equal(np.array(out), right)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(blob,)) for blob in ("out0", "out0", "out0", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert np.array_equal(run(net), right)


def test_threads_share_an_extractor_and_change_the_budget(net: flexnn_ncnn.Net, right: Array) -> None:
    failures: list[BaseException] = []
    with net.create_extractor() as ex:
        ex.input("in0", PICTURE)

        def work() -> None:
            try:
                for _ in range(10):
                    code, out = ex.extract("out0")
                    assert code == 0
                    np.testing.assert_allclose(np.array(out), right, 0, 1e-4)
                    run(net)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        net.set_budget("60MB")
        net.set_budget("2.5MB")
        for thread in threads:
            thread.join(120)
    assert failures == []
    assert np.array_equal(run(net), right)


def test_two_nets_in_two_threads(net: flexnn_ncnn.Net, right: Array, param: Path, cache: Path) -> None:
    failures: list[BaseException] = []

    def work(one: flexnn_ncnn.Net) -> None:
        try:
            for _ in range(20):
                assert np.array_equal(run(one), right)
        except BaseException as error:
            failures.append(error)

    with flexnn_ncnn.Net("2.5MB", cache_dir=cache) as other:
        other.opt = net.opt
        assert other.load_param(param) == other.load_model(param.with_suffix(".bin")) == 0
        threads = [threading.Thread(target=work, args=(one,)) for one in (net, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert failures == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_of_a_fork(net: flexnn_ncnn.Net, right: Array, param: Path, cache: Path, tmp_path: Path) -> None:
    """It is told what to do, may load a net of its own, and leaves the parent's alone when it ends."""
    copied = flexnn_ncnn.Net("2.5MB", cache_dir=cache)
    assert copied.load_param(param) == 0
    copied.load_model_mem(param.with_suffix(".bin").read_bytes())
    program = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np, flexnn_ncnn
picture = np.random.default_rng(3).random((3, 32, 32), np.float32)
def load(from_memory):
    net = flexnn_ncnn.Net("2.5MB", cache_dir={str(cache)!r})
    net.opt.num_threads, net.opt.use_fp16_storage = 1, False
    net.load_param({str(param)!r})
    if from_memory:
        net.load_model_mem(open({str(param.with_suffix(".bin"))!r}, "rb").read())
    else:
        net.load_model({str(param.with_suffix(".bin"))!r})
    return net
def run(net):
    with net.create_extractor() as ex:
        ex.input("in0", picture)
        code, out = ex.extract("out0")
        return np.array(out)
net = load(True)
right = run(net)
child = os.fork()
if not child:
    try:
        run(net)
    except flexnn_ncnn.errors.UsageError as error:
        assert "forked" in str(error), error
        assert np.array_equal(run(load(False)), right)
        sys.exit(7)
    sys.exit(1)
_, status = os.waitpid(child, 0)
assert np.array_equal(run(net), right)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.skipif(native.capabilities().saves_transformed_weights, reason="loads of this ncnn need no memory")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS")
def test_no_memory(tmp_path: Path, cache: Path) -> None:
    """Where the system gives none, that is said; once it does again, all is well."""
    param = tiny_models.convolutions(tmp_path)
    picture = np.random.default_rng(3).random((3, 16, 16), np.float32)
    with flexnn_ncnn.Net("16MB", cache_dir=cache) as net:
        net.opt.num_threads = 1
        assert net.load_param(param) == net.load_model(param.with_suffix(".bin")) == 0
        right = run(net, picture)
        assert net.plan.streamed_bytes > 1_000_000

        def opened_and_run() -> Array:
            with flexnn_ncnn.Net("16MB", cache_dir=cache) as other:
                other.opt.num_threads = 1
                assert other.load_param(param) == other.load_model(param.with_suffix(".bin")) == 0
                return run(other, picture)

        assert np.array_equal(opened_and_run(), right)
        before = resource.getrlimit(resource.RLIMIT_AS)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 200_000, before[1]))
        try:
            with pytest.raises((FlexnnError, MemoryError)):
                opened_and_run()  # the first one has all it needs
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        assert np.array_equal(run(net, picture), right)


def test_a_layer_that_ncnn_fails_on(net: flexnn_ncnn.Net, right: Array, monkeypatch: pytest.MonkeyPatch) -> None:

    def failing(self: Any, *blobs: Any) -> None:
        raise NcnnError("layer: ncnn's forward failed with -100")

    monkeypatch.setattr(native.LoadedLayer, "forward", failing)
    for _ in range(3):
        with pytest.raises(NcnnError, match="-100"):
            run(net)
    monkeypatch.undo()
    assert np.array_equal(run(net), right)
