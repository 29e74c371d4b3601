"""Every placement policy on a thousand nodes: how long tasks take, beside one queue for all, which is the best there can be.

Tasks come at random times to a head that runs none itself, on nodes of one CPU. A run begins with as many tasks as are running on
average, so that queues form at once; it is over in less than a minute. For figures to quote take ``--tasks 100000 --seeds 10``.
"""

from __future__ import annotations

import argparse

import sundog
from sundog import workloads
from sundog.core.placement import POLICIES

MEAN = 0.1  # seconds that a task takes, on average


def run(policy, load, seed, given):
    """Return the report of one policy at one load, without the tasks that are there in the beginning and half of the rest."""
    there = round(load * given.nodes)
    duration = workloads.Exponential(MEAN)
    begun = workloads.independent(there, duration, seed=seed)
    coming = workloads.poisson(load * given.nodes / MEAN, given.tasks, duration, seed=seed)
    work = workloads.Workload([*begun, *coming], f"load {load}")
    cluster = [{"num_cpus": 0}, {"num_cpus": 1, "count": given.nodes}]
    # Heartbeats of a thousand nodes, ten a second, would be most of what there is to simulate; loads are known without them.
    settings = {"heartbeat_every": 10**9}
    first = there + given.tasks // 2
    return sundog.simulate(work, cluster, policy=policy, seed=seed, settings=settings, first=first, progress=False)


def compare(given):
    """Return, by policy, for each load the mean and the 99th percentile of response times over all seeds."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for policy in given.policies:
        found[policy] = []
        for load in given.loads:
            reports = [run(policy, load, seed, given) for seed in range(1, given.seeds + 1)]
            means = [report.response.mean for report in reports]
            found[policy].append((sum(means) / len(means), half_interval(means), max(report.response.p99 for report in reports)))
    return found


def half_interval(means):
    """Return half the width of the 95 % confidence interval; 0 for a single run, which has none."""
    from sundog.backends.simulated.experiment.report import estimate

    return estimate(means).half_width if len(means) > 1 else 0.0


def show(found, loads):
    """Print the table, the policies in the order of their means at the highest load."""
    print("response times in seconds: mean ± 95 % CI, and the 99th percentile of the worst run")
    print(f"{'load':14}" + "".join(f"{load:>28.2f}" for load in loads))
    for policy, values in sorted(found.items(), key=lambda item: item[1][-1][0]):
        print(f"{policy:14}" + "".join(f"{mean:>12.4f} ± {half:.4f}{p99:>7.3f}" for mean, half, p99 in values))


def draw(found, loads, path):
    """Write a plot of mean response times to ``path``."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("plots need matplotlib: pip install 'sundog[plots]'") from None
    axes = (figure := Figure(figsize=(7, 4.5), layout="constrained")).subplots()
    for policy, values in found.items():
        axes.errorbar(loads, [value[0] for value in values], yerr=[value[1] for value in values], marker="o", label=policy)
    axes.set(xlabel="load", ylabel="mean response time, s", title="Placement policies")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=2500, help="that come in each run; the first half is not counted")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.9])
    parser.add_argument("--seeds", type=int, default=1, help="runs of each policy at each load")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--plot", help="write a picture to this file, such as policies.png")
    given = parser.parse_args()
    found = compare(given)
    show(found, given.loads)
    if given.plot:
        draw(found, given.loads, given.plot)
