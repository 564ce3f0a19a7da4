import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from colour_model import colour_model
from maskwise import Mask, Predictor
from maskwise.serve.batching import BatchingThread, BusyError
from serving import GREEN_BOX, RED_BOX, scene

RED, GREEN = (Mask.from_box(box, (60, 80)) for box in (RED_BOX, GREEN_BOX))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(colour_model(tmp_path_factory.mktemp("model")), mode="exact")


class Gate:
    """A predictor that waits at its first call, and notes its calls."""

    def __init__(self, predictor, *, faulty=()):
        self.predictor, self.faulty = predictor, faulty
        self.open, self.entered = threading.Event(), threading.Event()
        self.calls = []

    def run(self, image, masks, *, embeddings):
        self.calls.append(("run", len(masks)))
        self.entered.set()
        assert self.open.wait(20)
        if any(image is bad for bad in self.faulty):
            raise ValueError("bad image")
        return self.predictor.run(image, masks, embeddings=embeddings)

    def run_many(self, images, *, embeddings):
        def watched():
            for image, masks in images:
                self.calls.append(("run_many", len(masks)))
                if any(image is bad for bad in self.faulty):
                    raise ValueError("bad image")
                yield image, masks

        return self.predictor.run_many(watched(), embeddings=embeddings)


def names(future):
    return [prediction.name for prediction in future.result(20).predictions(1)]


def test_requests_that_wait_together_share_a_round(predictor):
    gate, rounds = Gate(predictor), []
    thread = BatchingThread(gate, max_waiting=100, note_round=rounds.append)
    first = thread.submit(scene(), [RED])
    assert gate.entered.wait(20)
    others = [thread.submit(scene(), masks) for masks in ([GREEN, RED], [RED], [GREEN])]
    assert thread.waiting == 5
    gate.open.set()
    assert [names(future) for future in (first, *others)] == [["person"], ["dog", "person"], ["person"], ["dog"]]
    for future, colour in (
        (first, (1, 0, 0)),
        (others[2], (0, 1, 0)),
    ):  # The embedding of the model is the mean colour.
        np.testing.assert_allclose(future.result(20).embeddings[0], colour, atol=0.1)
    thread.close()
    assert gate.calls == [("run", 1), ("run_many", 2), ("run_many", 1), ("run_many", 1)]
    assert rounds == [1, 3]
    assert thread.waiting == 0


def test_a_fault_of_one_request_is_its_own(predictor):
    bad = scene()
    gate = Gate(predictor, faulty=[bad])
    thread = BatchingThread(gate, max_waiting=100)
    first = thread.submit(scene(), [RED])
    assert gate.entered.wait(20)
    before, broken, after = (thread.submit(image, [GREEN]) for image in (scene(), bad, scene()))
    gate.open.set()
    assert names(first) == ["person"]
    assert names(before) == ["dog"]
    assert names(after) == ["dog"]
    with pytest.raises(ValueError, match="bad image"):
        broken.result(20)
    thread.close()
    assert thread.waiting == 0


def test_a_request_that_was_given_up_is_not_named(predictor):
    gate = Gate(predictor)
    thread = BatchingThread(gate, max_waiting=100)
    first = thread.submit(scene(), [RED])
    assert gate.entered.wait(20)
    given_up, kept = thread.submit(scene(), [RED, GREEN]), thread.submit(scene(), [GREEN])
    assert given_up.cancel()
    gate.open.set()
    assert names(kept) == ["dog"]
    with pytest.raises(CancelledError):
        given_up.result(20)
    assert names(first) == ["person"]
    thread.close()
    assert ("run_many", 2) not in gate.calls
    assert ("run", 2) not in gate.calls
    assert thread.waiting == 0


def test_too_many_regions_are_asked_to_come_back(predictor):
    gate = Gate(predictor)
    thread = BatchingThread(gate, max_waiting=3)
    large = thread.submit(scene(), [RED] * 5)  # Alone it may have more.
    assert gate.entered.wait(20)
    with pytest.raises(BusyError, match="try again in") as caught:
        thread.submit(scene(), [RED])
    assert 1 <= caught.value.retry_after_s <= 60
    gate.open.set()
    assert len(large.result(20).predictions(1)) == 5
    thread.close()


def test_closing_names_what_waits_and_takes_no_more(predictor):
    gate = Gate(predictor)
    thread = BatchingThread(gate, max_waiting=100)
    waiting = [thread.submit(scene(), [RED]) for _ in range(4)]
    closer = threading.Thread(target=thread.close)
    closer.start()
    while not thread._closed:
        time.sleep(0.001)
    with pytest.raises(BusyError):
        thread.submit(scene(), [RED])
    gate.open.set()
    assert [names(future) for future in waiting] == [["person"]] * 4
    closer.join(20)
    assert not thread.alive


def test_answers_are_those_of_the_predictor_under_load(predictor):
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(40):
        image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        cases.append((image, [RED, GREEN][: int(rng.integers(0, 3))]))
    thread, results = BatchingThread(predictor, max_waiting=1000), {}

    def client(number):
        for place in range(number, 40, 8):
            results[place] = thread.submit(*cases[place]).result(20)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(30)
    thread.close()
    for place, (image, masks) in enumerate(cases):
        np.testing.assert_allclose(results[place].logits, predictor.run(image, masks).logits, rtol=1e-6)
