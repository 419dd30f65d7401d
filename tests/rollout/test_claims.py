"""Threads have the model in the order in which they ask; a pause holds back sampling only; no wait is endless."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cascade.errors import EngineError
from cascade.rollout.claims import Claims

WAIT_S = 30.0


def started(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def joined(thread: threading.Thread) -> None:
    thread.join(WAIT_S)
    assert not thread.is_alive()


def wait_for_claim(claims: Claims, aborts: int) -> None:
    """Until another thread wants what this one has: what the sampling thread does between tokens, here in one wait."""
    with claims._changed:
        assert claims._changed.wait_for(lambda: claims.interrupted(aborts), WAIT_S)


def test_an_interrupted_sampler_has_its_turn_before_the_next_publish() -> None:
    claims, order, done = Claims(), list[str](), threading.Event()

    def publish_twice() -> None:
        for i in range(2):
            with claims.alone("publish"):
                order.append(f"publish {i}")
                if i == 0:
                    assert queued.wait(WAIT_S)
        done.set()

    queued = threading.Event()
    with claims.sampling(0) as granted:
        assert granted
        assert not claims.interrupted(0)
        publisher = started(publish_twice)
        wait_for_claim(claims, 0)
        order.append("sampling")

    def release_once_queued() -> None:
        with claims._changed:
            assert claims._changed.wait_for(lambda: any(claim.sampling for claim in claims._queue), WAIT_S)
        queued.set()

    releaser = started(release_once_queued)
    with claims.sampling(0) as granted:
        assert granted
        order.append("sampling")
        wait_for_claim(claims, 0)
    assert done.wait(WAIT_S)
    assert order == ["sampling", "publish 0", "sampling", "publish 1"]
    joined(publisher)
    joined(releaser)


def test_a_pause_waits_for_the_token_and_holds_back_sampling_only() -> None:
    claims, begun, sampled = Claims(), threading.Event(), threading.Event()

    def sample() -> None:
        with claims.sampling(0) as granted:
            assert granted
            begun.set()
            wait_for_claim(claims, 0)
        with claims.sampling(0) as granted:
            assert granted
            sampled.set()

    sampler = started(sample)
    assert begun.wait(WAIT_S)
    claims.pause()
    assert claims.interrupted(0)
    for purpose in ("publish", "score"):
        with claims.alone(purpose):
            assert not sampled.is_set()
    claims.resume()
    assert sampled.wait(WAIT_S)
    joined(sampler)


def test_an_abort_ends_what_began_before_it_and_nothing_later() -> None:
    claims, grants = Claims(), list[bool]()
    claims.pause()

    def sample() -> None:
        with claims.sampling(before) as granted:
            grants.append(granted)

    before = claims.aborts
    sampler = started(sample)
    claims.abort()
    joined(sampler)
    assert grants == [False]
    claims.resume()
    with claims.sampling(claims.aborts) as granted:
        assert granted
        assert not claims.interrupted(claims.aborts)
        assert claims.interrupted(before)


def test_a_wait_that_lasts_too_long_says_for_whom() -> None:
    claims = Claims(deadline_s=0.05)
    with claims.alone("publish"):
        for purpose in ("score", "load"):
            late = pytest.raises(EngineError, match=rf"{purpose} waited 0\.05 s for publish to end")
            with late, claims.alone(purpose):
                pytest.fail("two at once")
    claims.pause()
    with pytest.raises(EngineError, match=r"sampling waited 0\.05 s for resume"), claims.sampling(0):
        pytest.fail("sampled while paused")
    claims.resume()
    with claims.sampling(0), pytest.raises(EngineError, match=r"pause waited 0\.05 s for sampling to end"):
        claims.pause()
    claims.resume()
    with claims.alone("publish"):  # whoever gave up waiting is not in the queue
        pass
