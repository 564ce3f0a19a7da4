import os
import threading

import numpy as np
import pytest
from machine import in_own_process

from colour_model import colour_model
from maskwise.model import runner
from maskwise.model.model_file import graph_inputs
from maskwise.model.runner import Runner
from maskwise.model.session import open_session as runner_open


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return colour_model(tmp_path_factory.mktemp("model"))


def run(runner, count, output="logits"):
    """The rows of all batches."""
    results = runner.run((output,), batches(count), inputs_of=lambda inputs: inputs, count=count)
    return [array for _, (array,) in results]


def batches(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
        yield graph_inputs(images, images[..., 0])


@pytest.fixture(autouse=True)
def always_worth_it(monkeypatch):
    monkeypatch.setattr(runner, "MIN_BATCHES", 0)


@pytest.mark.parametrize("output", ["logits", "embeddings"])
def test_answers_are_those_of_one_thread_whatever_the_number(model, output):
    expected = run(Runner(model, threads=1), 5, output)
    for threads in (2, 3, 8):
        runner_ = Runner(model, threads=threads)
        for one, other in zip(run(runner_, 5, output), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
            assert one.shape[1] == runner_.width(output)


def test_batches_run_apart_where_there_are_as_many_as_threads(model, monkeypatch):
    opened = []
    really = runner.open_session
    monkeypatch.setattr(
        runner, "open_session", lambda *args, **more: opened.append(more["threads"]) or really(*args, **more)
    )
    running = Runner(model, threads=3)
    run(running, 2)
    assert opened == [3]
    run(running, 3)
    assert opened == [3, 1]
    run(running, 4)
    assert opened == [3, 1]


def test_the_model_is_opened_again_only_for_many_batches(model, monkeypatch):
    monkeypatch.setattr(runner, "MIN_BATCHES", 7)
    running = Runner(model, threads=2)
    for opened in (False, False, True):
        run(running, 3)
        assert (running._single is not None) is opened


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_model_whose_file_has_changed_answers_as_it_was_opened(model, tmp_path, change):
    path = tmp_path / "m.onnx"
    path.write_bytes(model.read_bytes())
    running = Runner(path, threads=2)
    expected = run(Runner(model, threads=1), 4)
    path.unlink()
    if change == "replaced":
        path.write_bytes(colour_model(tmp_path, seed=5).read_bytes())
    for one, other in zip(run(running, 4), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_path_may_be_relative_to_a_folder_that_is_left(model, tmp_path, monkeypatch):
    monkeypatch.chdir(model.parent)
    running = Runner(model.name, threads=2)
    monkeypatch.chdir(tmp_path)
    run(running, 4)
    assert running._single is not running._session


def test_a_gpu_takes_batches_in_turn(model, monkeypatch):
    monkeypatch.setattr(runner, "open_session", lambda path, **_more: runner_open(path))
    running = Runner(model, threads=4, device="cuda")
    run(running, 8)
    assert running._single is None


def test_one_runner_serves_several_threads(model):
    running = Runner(model, threads=2)
    expected, found = run(running, 4), {}

    def ask(number):
        found[number] = run(running, 4)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for answers in found.values():
        np.testing.assert_allclose(np.concatenate(answers), np.concatenate(expected), rtol=1e-5, atol=1e-6)


def test_a_process_that_is_given_one_core_keeps_to_it(model, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "from maskwise.model.runner import Runner\n"
        "runner = Runner(sys.argv[1])\n"
        "print(json.dumps([sorted(os.sched_getaffinity(int(task))) for task in os.listdir('/proc/self/task')]))\n"
    )
    threads = in_own_process(str(script), model, cores=1)
    assert {tuple(cores) for cores in threads} == {tuple(sorted(os.sched_getaffinity(0))[:1])}
