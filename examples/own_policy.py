"""A placement policy of your own: one class in your own file, held against those that ship."""

import sundog
from sundog import workloads
from sundog.core.placement import expected_wait


class BestOfThree:
    """The node with the shortest wait of three drawn at random, or of one that holds an argument."""

    def __init__(self):
        self.views = {}

    def node_changed(self, view):  # a node is new, or its load has changed
        self.views[view.node] = view

    def node_lost(self, node):
        del self.views[node]

    def choose(self, spec, holders, rng):  # None would mean: let it wait for a node
        able = [view for view in self.views.values() if dict(view.capacity).get("CPU", 0)]
        drawn = [able[rng.randrange(len(able))] for _ in range(3)] + [view for view in able if view.node in holders]
        return min(drawn, key=lambda view: (expected_wait(view), view.node)).node


if __name__ == "__main__":
    cluster = [{"num_cpus": 0}, {"num_cpus": 2, "count": 20}]  # a head that only places
    work = workloads.poisson(rate=0.9 * 400, count=1000, duration=workloads.Exponential(0.1), seed=1)
    for policy in ("random", "power_of_two", BestOfThree, "central"):
        report = sundog.simulate(work, cluster, policy=policy, seed=1)
        print(f"{report.policy:>14}: {report.response.mean:.3f} s on average, 99 % within {report.response.p99:.3f} s")
