"""When requests expire and when they have waited long: against a plain search through all of them."""

from __future__ import annotations

import random

import pytest

from sundog.core.deadlines import NEVER
from sundog.core.request import Request
from sundog.core.request_times import RequestTimes

STUCK_AFTER = 100


def request(asked_at: int, deadline: int | None) -> Request:
    return Request((), {}, 0, deadline, None, True, asked_at, {})


@pytest.mark.parametrize("seed", range(20))
def test_every_request_expires_and_is_stuck_at_its_time_and_once(seed: int) -> None:
    random_ = random.Random(seed)
    requests: dict[int, Request] = {}
    times = RequestTimes(requests, STUCK_AFTER)
    unexpired: dict[int, int] = {}
    unexplained: dict[int, int] = {}
    now = longest = 0
    busy = random_.choice([0.2, 0.5, 0.9])
    for number in range(1, 1500):
        now += random_.choice([0, 1, 5, 40])
        if now >= times.due:
            expired, stuck = times.pop_due(now)
            assert sorted(expired) == [n for n, at in unexpired.items() if at <= now]
            assert stuck == [n for n, at in unexplained.items() if at <= now]
            for told in expired:
                del unexpired[told]
            for told in stuck:
                del unexplained[told]
        assert times.due > now
        assert times.due <= min([*unexpired.values(), *unexplained.values()], default=NEVER), "nothing is slept through"
        if random_.random() < busy or not requests:
            deadline = random_.choice([None, None, now + random_.randrange(-5, 200)])
            requests[number] = request(now, deadline)
            times.begin(number, deadline, now)
            unexplained[number] = now + STUCK_AFTER
            if deadline is not None:
                unexpired[number] = max(deadline, now + 1)
        else:
            over = random_.choice([*requests])
            if requests.pop(over).deadline is not None:
                times.end(over)
            unexpired.pop(over, None)
            unexplained.pop(over, None)
        longest = max(longest, len(times._unexplained) - 2 * len(requests))
    assert longest <= 70, "those that are over are forgotten"


def test_one_request_after_the_other_is_not_looked_for_once_it_is_over() -> None:
    requests: dict[int, Request] = {}
    times = RequestTimes(requests, STUCK_AFTER)
    for number in range(1, 50):
        requests[number] = request(30 * number, None)
        times.begin(number, None, 30 * number)
        assert times.due == 30 * number + STUCK_AFTER
        assert len(times._unexplained) == 1
        del requests[number]
