"""The queue: batches, limits, cancelled requests, failures, and the end."""

import threading

import numpy as np
import pytest

from lightgen_core.serving.batcher import Batcher, Closed, ImageRequest, QueueFull


def ask(*seeds: int, sampler: str = "") -> list[ImageRequest]:
    return [ImageRequest("a star", seed, sampler, (1, 1)) for seed in seeds]


class Sampler:
    """Returns an image of each seed; the first batch waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started, self.go = threading.Event(), threading.Event()

    def __call__(self, requests):
        self.batches.append([request.seed for request in requests])
        self.started.set()
        assert self.go.wait(60)
        if any(request.seed == 13 for request in requests):
            raise RuntimeError("unlucky")
        return [np.full((1, 1, 3), request.seed, np.uint8) for request in requests]


@pytest.fixture
def sampler():
    return Sampler()


@pytest.fixture
def busy(sampler):
    """A batcher that samples image 0, and holds it."""
    batcher = Batcher(sampler, max_batch=4, max_queue=6, max_wait=0)
    batcher.first = batcher.submit(ask(0))
    assert sampler.started.wait(60)
    yield batcher
    sampler.go.set()
    batcher.close()


def test_what_waits_is_sampled_together_up_to_the_limit(busy, sampler):
    futures = [future for seed in range(1, 7) for future in busy.submit(ask(seed))]
    sampler.go.set()
    assert [int(future.result(60)[0, 0, 0]) for future in busy.first + futures] == [0, 1, 2, 3, 4, 5, 6]
    assert sampler.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_other_samplers_are_another_batch_and_keep_their_turn(busy, sampler):
    futures = busy.submit(ask(1)) + busy.submit(ask(2, sampler="other")) + busy.submit(ask(3))
    sampler.go.set()
    assert [int(future.result(60)[0, 0, 0]) for future in futures] == [1, 2, 3]
    assert sampler.batches == [[0], [1, 3], [2]]


def test_a_full_queue_refuses_a_request_as_a_whole(busy, sampler):
    busy.submit(ask(1, 2, 3, 4))
    with pytest.raises(QueueFull, match="4 images wait, of at most 6"):
        busy.submit(ask(5, 6, 7))
    assert (busy.waiting, busy.counts.refused, busy.counts.accepted) == (4, 3, 5)


def test_a_cancelled_request_is_not_sampled(busy, sampler):
    futures = busy.submit(ask(1, 2))
    assert futures[0].cancel()
    sampler.go.set()
    assert futures[1].result(60)[0, 0, 0] == 2
    assert (sampler.batches, busy.counts.cancelled) == ([[0], [2]], 1)


def test_one_failing_image_does_not_spoil_its_batch(busy, sampler):
    futures = busy.submit(ask(12, 13, 14))
    sampler.go.set()
    assert [futures[0].result(60)[0, 0, 0], futures[2].result(60)[0, 0, 0]] == [12, 14]
    with pytest.raises(RuntimeError, match="unlucky"):
        futures[1].result(60)
    assert (busy.counts.served, busy.counts.failed) == (3, 1)


def test_close_answers_what_was_accepted_and_takes_nothing_more(busy, sampler):
    futures = busy.submit(ask(1, 2, 3))
    closing = threading.Thread(target=busy.close)
    closing.start()
    while not busy.closed:
        pass
    with pytest.raises(Closed):
        busy.submit(ask(4))
    sampler.go.set()
    closing.join(60)
    assert [future.done() for future in futures] == [True] * 3


def test_a_batch_waits_a_little_for_more(sampler):
    sampler.go.set()
    batcher = Batcher(sampler, max_batch=2, max_queue=4, max_wait=60)
    first = batcher.submit(ask(1))
    second = batcher.submit(ask(2))
    assert [first[0].result(50)[0, 0, 0], second[0].result(50)[0, 0, 0]] == [1, 2]
    assert sampler.batches == [[1, 2]]
    batcher.close()
