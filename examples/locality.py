"""Why placement should know where objects are: 1,000 tasks on two nodes, each with one object on either of them.

The experiment of Figure 8a in "Ray: A Distributed Framework for Emerging AI Applications" (Moritz et al., OSDI 2018): where the
scheduler knows who holds what, a task takes as long for 100 MB as for 100 kB; where it does not, half of them are fetched first.
"""

from __future__ import annotations

import argparse
import random

import sundog
from sundog import workloads

SIZES = {"100 kB": 10**5, "1 MB": 10**6, "10 MB": 10**7, "100 MB": 10**8}
#: Both choose a node with room; the first one looks at who holds the argument before.
POLICIES = {"aware": "locality", "unaware": "random"}


def one_object_each(count, size, seed):
    """Return ``count`` tasks that make an object on one of two nodes, and then ``count`` tasks that take one each."""
    draw = random.Random(seed)
    places = [draw.randrange(2) for _ in range(count)]
    made = [
        workloads.task(outputs=(size,), resources={"CPU": 1, f"place-{place}": 0.0001}, at=number / 100, function="make")
        for number, place in enumerate(places)
    ]
    # Long enough apart that tasks do not queue for the network: what is measured is one task's way to its object.
    taken = [workloads.task(0.001, inputs=[number], at=count / 100 + 1 + number / 10, function="take") for number in range(count)]
    return workloads.Workload([*made, *taken], f"{count} tasks, one object each")


def measure(count, seed):
    """Return the mean time of a task in milliseconds, by policy and size."""
    node = {"num_cpus": 8, "object_store_memory": 2 * count * max(SIZES.values())}
    cluster = [{"num_cpus": 0}, *[{**node, "resources": {f"place-{place}": 1}} for place in range(2)]]
    return {
        name: [
            1000 * sundog.simulate(one_object_each(count, size, seed), cluster, policy=policy, seed=seed, first=count).response.mean
            for size in SIZES.values()
        ]
        for name, policy in POLICIES.items()
    }


def draw(times, path):
    """Write a plot like the published one to ``path``."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("plots need matplotlib: pip install 'sundog[plots]'") from None
    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).subplots()
    for name, of_sizes in times.items():
        axes.loglog(list(SIZES.values()), of_sizes, marker="o", label=name)
    axes.set(xlabel="bytes of each task's object", ylabel="mean time of a task, ms", title="Placement that knows where objects are")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", help="write a picture to this file, such as locality.png")
    given = parser.parse_args()
    times = measure(given.tasks, given.seed)
    print(f"{'mean time of a task':20}" + "".join(f"{size:>12}" for size in SIZES))
    for name, of_sizes in times.items():
        print(f"{name:20}" + "".join(f"{time:>9.2f} ms" for time in of_sizes))
    ratios = [far / near for near, far in zip(times["aware"], times["unaware"], strict=True)]
    print(f"{'times longer':20}" + "".join(f"{ratio:>12.1f}" for ratio in ratios))
    if given.plot:
        draw(times, given.plot)
