"""A tour of sundog in a few seconds: run it with ``make demo``, then read it from the bottom up.

Every stop does something real on worker processes, checks what came out, and says what it cost. The program ends with 1 if
anything was not as promised.
"""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import sundog

# ---------------------------------------------------------------------------------------------------------------------------
# Functions that run elsewhere: a decorator, and nothing else.


@sundog.remote
def square(x):
    return x * x


@sundog.remote
def where_am_i():
    time.sleep(0.02)
    return os.getpid()


@sundog.remote
def add(x, y):
    return x + y


@sundog.remote
def throw_darts(count, seed):
    """How many of ``count`` darts hit the quarter of a circle?"""
    points = np.random.default_rng(seed).random((count, 2))
    return int(np.count_nonzero((points**2).sum(axis=1) <= 1.0))


@sundog.remote
def estimate_pi(experiment, darts, parts):
    """An experiment that starts sub-experiments of its own and waits for them: tasks inside a task."""
    hits = sundog.get([throw_darts.remote(darts // parts, 1000 * experiment + part) for part in range(parts)])
    return 4.0 * sum(hits) / darts


@sundog.remote
def column_mean(table, column):
    """``table`` arrives as a view of shared memory: nobody copies 80 MB for this."""
    return float(table[:, column].mean()), table.flags.writeable


@sundog.remote
def parse_price(text):
    return float(text.removeprefix("$"))


@sundog.remote(max_retries=2)
def fragile(marker):
    """Dies, process and all, the first time it runs."""
    if not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"finished by process {os.getpid()}"


# ---------------------------------------------------------------------------------------------------------------------------
# The stops.


def first_tasks():
    """Ten tasks, at once."""
    ids = [square.remote(i) for i in range(10)]
    say("square.remote(7) answers at once with a name for what will be:", f"{ids[7]}"[:26] + "...)")
    squares = sundog.get(ids)
    say("get() waits for the values:", squares)
    pids = set(sundog.get([where_am_i.remote() for _ in range(8)]))
    say("they ran in the processes", f"{sorted(pids)}, not in this one ({os.getpid()})")
    return squares == [i * i for i in range(10)] and os.getpid() not in pids


def many_tasks():
    """Ten thousand tasks, because they are cheap."""
    count = 10_000
    started = time.perf_counter()
    total = sum(sundog.get([square.remote(i) for i in range(count)]))
    took = time.perf_counter() - started
    say(f"{count:,} tasks, submitted one by one:", f"{count / took:,.0f} a second")
    return total == sum(i * i for i in range(count))


def dependencies():
    """The result of one task is the argument of the next."""
    three, four = square.remote(3), square.remote(4)
    hypotenuse = add.remote(three, four)
    say("add.remote(square.remote(3), square.remote(4)):", f"{sundog.get(hypotenuse)}, and nobody waited in between")
    value = add.remote(0, 1)
    for _ in range(999):
        value = add.remote(value, 1)
    started = time.perf_counter()
    length = sundog.get(value)
    say("a chain of 1,000 tasks, each waiting for the last:", f"{length} after {1e3 * (time.perf_counter() - started):.0f} ms more")
    return length == 1000


def tree_reduce():
    """A hundred values, folded pairwise."""
    layer = [square.remote(i) for i in range(100)]
    levels = [len(layer)]
    while len(layer) > 1:
        layer = [add.remote(*layer[i : i + 2]) if i + 1 < len(layer) else layer[i] for i in range(0, len(layer), 2)]
        levels.append(len(layer))
    total = sundog.get(layer[0])
    say("values left after each round:", " > ".join(map(str, levels)))
    say("the sum at the top of the tree:", f"{total:,}")
    return total == sum(i * i for i in range(100))


def nested():
    """Five experiments, each with ten sub-experiments, on two workers."""
    started = time.perf_counter()
    estimates = sundog.get([estimate_pi.remote(experiment, 200_000, 10) for experiment in range(5)])
    took = time.perf_counter() - started
    say("five estimates of pi:", "  ".join(f"{estimate:.4f}" for estimate in estimates))
    say("55 tasks, 5 of them waiting for the others:", f"{1e3 * took:.0f} ms; a worker that waits makes room for others")
    return all(abs(estimate - np.pi) < 0.05 for estimate in estimates)


def shared_arrays():
    """One array, written once, read by all."""
    table = np.arange(10_000_000, dtype=np.float64).reshape(-1, 10)
    started = time.perf_counter()
    table_id = sundog.put(table)
    wrote = time.perf_counter() - started
    started = time.perf_counter()
    answers = sundog.get([column_mean.remote(table_id, column) for column in range(10)])
    say("80 MB put into shared memory:", f"{1e3 * wrote:.0f} ms, once")
    say("ten tasks read it where it lies:", f"{1e3 * (time.perf_counter() - started):.0f} ms for all ten")
    started = time.perf_counter()
    back = sundog.get(table_id)
    say(
        "get() of all 80 MB:",
        f"{1e6 * (time.perf_counter() - started):.0f} us, because nothing is copied; and read-only, because it is shared",
    )
    right = all(abs(mean - table[:, column].mean()) < 1e-6 and not writeable for column, (mean, writeable) in enumerate(answers))
    return right and not back.flags.writeable and np.array_equal(back[:100], table[:100])


def first_come():
    """wait() tells what is ready."""
    pending = [where_am_i.remote() for _ in range(6)]
    rounds = 0
    while pending:
        _ready, pending = sundog.wait(pending, num_returns=min(2, len(pending)))
        rounds += 1
    say("six tasks, taken two by two as they became ready:", f"{rounds} rounds")
    return rounds == 3


def an_error():
    """What goes wrong over there is caught over here."""
    good, bad = parse_price.remote("$19.99"), parse_price.remote("a bargain")
    try:
        sundog.get(add.remote(good, bad))
    except ValueError as error:
        say("except ValueError works, though it was raised elsewhere:", error.args[0])
        say("it is also a sundog.TaskError:", isinstance(error, sundog.TaskError))
        return isinstance(error, sundog.TaskError)
    return False


def a_killed_worker():
    """A process dies in the middle of a task; the task does not."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        answer = sundog.get(fragile.remote(os.path.join(folder, "I was here")))
        took = time.perf_counter() - started
    say("the worker was killed with SIGKILL; the task was", f"{answer}, {1e3 * took:.0f} ms later")
    return answer.startswith("finished by")


STOPS = [first_tasks, many_tasks, dependencies, tree_reduce, nested, shared_arrays, first_come, an_error, a_killed_worker]

# ---------------------------------------------------------------------------------------------------------------------------
# Showing it.

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(text, code):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


def say(what, value):
    print(f"     {what} {paint(value, '36')}")


def main():
    began = time.perf_counter()
    wrong = []
    started = time.perf_counter()
    with sundog.init(num_workers=2):
        ready = time.perf_counter() - started
        print(paint("sundog", "1;33") + f": a node and two workers, ready after {1e3 * ready:.0f} ms\n")
        for number, stop in enumerate(STOPS, 1):
            print(f" {number}.  {paint(stop.__doc__, '1')}")
            if not stop():
                wrong.append(stop.__name__)
                print(paint("     this is not what should have come out", "1;31"))
            print()
    took = time.perf_counter() - began
    if wrong:
        print(paint(f"Not as promised: {', '.join(wrong)}", "1;31"))
        return 1
    print(paint("All as promised.", "1;32") + f" {len(STOPS)} stops in {took:.1f} s; no process is left.")
    print("Next: read examples/tour.py, change it, run it again. README.md has the rest.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
