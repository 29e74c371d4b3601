"""The global scheduler: facts in, actions out."""

from __future__ import annotations

import random
from collections.abc import Mapping

from sundog.core import messages as msg
from sundog.core.actions import Send
from sundog.core.config import Config
from sundog.core.global_scheduler import GlobalScheduler
from sundog.core.ids import DRIVER, HOST, Address, FunctionID, NodeID, ObjectID, TaskID, address
from sundog.core.machine import Action, Fact, Rng
from sundog.core.placement import Central, NodeView, policy
from sundog.core.resources import ONE_CPU, Shape, shape
from sundog.core.task import TaskSpec, Value
from sundog.core.units import MILLISECOND, SECOND

HERE = address(NodeID(0), HOST)
ASKER = address(NodeID(0), DRIVER)
CONFIG = Config(infeasible_grace=SECOND)
GPU = shape({"CPU": 1, "GPU": 1})


def task(number: int, wanted: Shape = ONE_CPU, dependencies: tuple[ObjectID, ...] = ()) -> TaskSpec:
    return TaskSpec(TaskID(number.to_bytes(16, "big")), FunctionID(bytes(16)), "train", Value(0), dependencies, resources=wanted)


def host(node: int) -> Address:
    return address(NodeID(node), HOST)


class Bench:
    def __init__(self, name: str = "bottom_up", **keywords: object) -> None:
        self.machine = GlobalScheduler(CONFIG, HERE, policy(name), random.Random(1), **keywords)  # type: ignore[arg-type]

    def step(self, now: int, *facts: Fact, sender: Address = HERE) -> list[Action]:
        actions = self.machine.step(now, [(sender, fact) for fact in facts])
        self.machine.check_invariants()
        deadline = self.machine.next_deadline()
        assert deadline is None or deadline > now
        return actions


def join(node: int, **amounts: float) -> msg.NodeJoined:
    return msg.NodeJoined(NodeID(node), shape(amounts))


def spilled(spec: TaskSpec) -> msg.TaskSpilled:
    return msg.TaskSpilled(spec, ASKER)


def test_places_and_spreads_a_burst_between_reports() -> None:
    bench = Bench()
    bench.step(0, join(0, CPU=1), join(1, CPU=1))
    actions = bench.step(1, *[spilled(task(number)) for number in range(4)])
    assert [action.to for action in actions if isinstance(action, Send)] == [host(0), host(1), host(0), host(1)]
    assert actions[0] == Send(host(0), msg.TaskAssigned(task(0), ASKER))
    assert bench.machine.waiting == {}


def test_a_node_that_has_measured_nothing_does_not_pass_for_a_quick_one() -> None:
    """Seen where many tasks of 100 ms became ready on a head of one CPU: all of them left, and then it idled."""
    bench = Bench()
    bench.step(1, join(0, CPU=1), join(1, CPU=1))
    for now, mean in ((2, MILLISECOND), (3, 100 * MILLISECOND)):
        bench.step(now, msg.LoadReported(NodeID(0), (("CPU", 0),), 0, mean))
    actions = bench.step(4, *[spilled(task(number)) for number in range(6)])
    assert len(actions) == 6
    assert bench.machine.placed == {NodeID(0): 3, NodeID(1): 3}


def test_an_infeasible_task_fails_after_the_grace_with_all_that_helps() -> None:
    bench = Bench()
    bench.step(0, join(0, CPU=4))
    assert bench.step(5, spilled(task(1, GPU)), sender=host(3)) == []
    assert bench.machine.next_deadline() == 5 + SECOND
    assert bench.step(SECOND) == []
    (action,) = bench.step(5 + SECOND)
    assert isinstance(action, Send)
    assert action.to == host(3)
    assert action.message == msg.TaskInfeasible(
        task(1).task_id,
        "task train needs 1 CPU, 1 GPU; no node has it: the nearest, node 0, has 0 of 1 GPU (all it has: 4 CPU). "
        "Start a node with more, as by sundog.init(num_gpus=1), or ask for less, as by .options(num_gpus=0).",
    )
    assert bench.step(9 * SECOND) == []


def test_without_nodes_and_with_custom_resources_the_message_fits() -> None:
    bench = Bench()
    (action,) = [*bench.step(0, spilled(task(1))), *bench.step(SECOND)]
    assert "no node has joined" in str(action)
    bench.step(2 * SECOND, join(0, CPU=1, disk=2), spilled(task(2, shape({"disk": 3}))))
    (action,) = bench.step(3 * SECOND)
    assert "has 2 of 3 disk" in str(action)
    assert 'resources={"disk": 3}' in str(action)


def test_a_node_that_joins_in_time_gets_what_waited_in_order() -> None:
    bench = Bench()
    bench.step(0, join(0, CPU=4), spilled(task(1, GPU)), spilled(task(2, GPU)))
    actions = bench.step(SECOND, join(1, CPU=4, GPU=1))  # in the very turn in which the grace ends
    assert actions == [Send(host(1), msg.TaskAssigned(task(n, GPU), ASKER)) for n in (1, 2)]
    assert bench.machine.next_deadline() is None


def test_a_lost_node_makes_what_waits_infeasible() -> None:
    bench = Bench("central")
    bench.step(0, join(0, CPU=1), join(1, CPU=2))
    two = shape({"CPU": 2})
    assert len(bench.step(1, spilled(task(1, two)), spilled(task(2, two)))) == 1
    assert bench.machine.next_deadline() is None, "the second waits for room, as long as it takes"
    bench.step(2, msg.NodeLost(NodeID(1)))
    assert bench.machine.next_deadline() == 2 + SECOND
    bench.step(3, join(2, CPU=1))
    (action,) = bench.step(4, join(3, CPU=2))
    assert isinstance(action, Send)
    assert action.to == host(3)


def test_reports_steer_placement_and_strangers_are_ignored() -> None:
    bench = Bench()
    bench.step(0, join(0, CPU=2), join(1, CPU=2))
    bench.step(1, msg.LoadReported(NodeID(0), shape({}), 9), msg.LoadReported(NodeID(8), shape({"CPU": 99}), 0))
    (action,) = bench.step(2, spilled(task(1)))
    assert isinstance(action, Send)
    assert action.to == host(1)


def test_the_bytes_of_arguments_draw_a_task() -> None:
    class Everything:
        def bytes_held(self, object_ids: object) -> dict[NodeID, int]:
            return {NodeID(1): 10**9}

    bench = Bench(holdings=Everything())
    bench.step(0, join(0, CPU=2), join(1, CPU=2))
    actions = bench.step(1, spilled(task(1, dependencies=(ObjectID(bytes(20)),))), spilled(task(2)))
    assert [action.to for action in actions if isinstance(action, Send)] == [host(1), host(0)]


def test_a_task_spilled_twice_is_placed_once() -> None:
    bench = Bench("central")
    bench.step(0, spilled(task(1)), spilled(task(1)))
    bench.step(1, spilled(task(1)))
    assert len(bench.step(2, join(0, CPU=4))) == 1


def test_a_node_is_told_of_every_function_before_its_task() -> None:
    """A function calls others, which it names by their IDs and does not bring."""
    bench = Bench()
    bench.step(0, join(1, CPU=1))
    exports = [msg.FunctionExported(FunctionID(bytes([n]) * 16), f"f{n}", Value(0)) for n in range(3)]
    bench.step(1, *exports[:2], sender=host(2))
    actions = bench.step(2, spilled(task(1)))
    assert [action.message for action in actions if isinstance(action, Send)][:2] == exports[:2]
    bench.step(3, exports[2], sender=host(1))
    actions = bench.step(4, spilled(task(2)))
    assert [type(action.message) for action in actions if isinstance(action, Send)] == [msg.TaskAssigned]


def test_deadlines_come_and_go_with_the_nodes_that_could_hold_what_waits() -> None:
    bench = Bench("central")
    bench.step(0, join(0, CPU=1), join(1, CPU=1, GPU=1))
    bench.step(1, *[spilled(task(number, GPU)) for number in range(3)])
    assert bench.machine.next_deadline() is None, "one runs, the others wait for the node"
    bench.step(2, msg.NodeLost(NodeID(1)))
    bench.step(3, spilled(task(3, GPU)))
    bench.step(4, msg.TaskWithdrawn(TaskID((1).to_bytes(16, "big"))))
    assert bench.machine.next_deadline() == 2 + SECOND
    failed = [action for action in bench.step(2 + SECOND) if isinstance(action, Send)]
    assert failed[0].message == msg.TaskInfeasible(TaskID((2).to_bytes(16, "big")), failed[0].message.message)  # type: ignore[attr-defined]
    bench.step(3 + SECOND - 1, join(2, CPU=1, GPU=1))
    assert bench.machine.next_deadline() is None
    assert bench.machine.waiting or bench.machine.assigned


def test_a_report_looks_at_the_first_of_what_waits_and_not_at_all() -> None:
    asked = []

    class Counting(Central):
        def choose(self, spec: TaskSpec, holders: Mapping[NodeID, int], rng: Rng) -> NodeID | None:
            asked.append(spec.task_id)
            return super().choose(spec, holders, rng)

    machine = GlobalScheduler(CONFIG, HERE, Counting(), None)
    machine.step(0, [(HERE, join(0, CPU=1))])
    machine.step(1, [(HERE, spilled(task(number))) for number in range(1000)])
    asked.clear()
    machine.step(2, [(HERE, msg.LoadReported(NodeID(0), (), 0))])
    assert len(asked) == 1
    asked.clear()
    machine.step(3, [(HERE, msg.LoadReported(NodeID(0), ONE_CPU, 0))])
    assert len(asked) == 2
    assert asked[0] == task(1).task_id, "in order of arrival"
    machine.check_invariants()


def ended(number: int, node: int) -> msg.TaskEnded:
    return msg.TaskEnded(task(number).task_id, NodeID(node))


def report(node: int, queued: int = 0) -> msg.LoadReported:
    return msg.LoadReported(NodeID(node), shape({"CPU": 1}), queued)


def acknowledged(actions: list[Action]) -> list[tuple[Address, int]]:
    """Return to whom, of how many ends, it is said that they were heard."""
    sends = [action for action in actions if isinstance(action, Send)]
    return [(action.to, len(action.message.task_ids)) for action in sends if isinstance(action.message, msg.EndsHeard)]


def test_that_ends_were_heard_is_told_in_lots() -> None:
    """With a task that goes there anyhow, else when there are many, or the first has waited for long; always at a report."""
    bench, few, many, long = Bench("round_robin"), CONFIG.ends_heard_max // 8, CONFIG.ends_heard_max, CONFIG.ends_heard_after
    bench.step(0, join(1, CPU=1))
    assert acknowledged(bench.step(1, *[ended(number, 1) for number in range(few - 1)], spilled(task(100)))) == []
    assert acknowledged(bench.step(2, ended(few, 1), report(1))) == []
    told = bench.step(3, spilled(task(101)))
    assert acknowledged(told) == [(host(1), few)]
    assert [type(action.message) for action in told if isinstance(action, Send)] == [msg.EndsHeard, msg.TaskAssigned]
    assert acknowledged(bench.step(4, *[ended(number, 1) for number in range(many)])) == []
    assert acknowledged(bench.step(5, report(1))) == [(host(1), many)]
    assert acknowledged(bench.step(6, ended(1, 1), report(1))) == []
    assert acknowledged(bench.step(6 + long - 1, report(1))) == []
    assert acknowledged(bench.step(6 + long, report(1))) == [(host(1), 1)]
    assert acknowledged(bench.step(7 + 2 * long, report(1))) == []


def test_an_end_of_a_task_that_goes_there_again_is_not_acknowledged() -> None:
    """Else its second end would pass for heard, and be lost with a scheduler that dies before it hears of it."""
    bench = Bench("round_robin")
    bench.step(0, join(1, CPU=1), *[ended(number, 1) for number in range(3)])
    bench.step(1, msg.TaskSpilled(task(1), ASKER, starts=1, rebuild=True))
    (told,) = bench.step(2 * SECOND, report(1))
    assert told == Send(host(1), msg.EndsHeard((task(0).task_id, task(2).task_id)))


def test_a_node_is_not_told_of_ends_of_its_own_tasks() -> None:
    """It keeps none of them; and a node that is alone does not even know of such news."""
    bench, many = Bench("round_robin"), CONFIG.ends_heard_max
    bench.step(0, join(1, CPU=1))
    for number in range(2 * many):
        own = msg.TaskSpilled(task(number), address(NodeID(1), DRIVER))
        assert acknowledged(bench.step(2 * number + 1, own, sender=host(1))) == []
        assert acknowledged(bench.step(2 * number + 2, ended(number, 1), report(1))) == []
    assert bench.machine._heard == {}


def test_ends_of_a_lost_node_are_not_kept() -> None:
    bench = Bench()
    bench.step(0, join(1, CPU=1), ended(1, 1), msg.NodeLost(NodeID(1)))
    assert bench.machine._heard == {}


def test_a_policy_hears_of_reports_that_change_something() -> None:
    class Counting(Central):
        changes = 0

        def node_changed(self, view: NodeView) -> None:
            self.changes += 1
            super().node_changed(view)

    counting = Counting()
    machine = GlobalScheduler(CONFIG, HERE, counting, None)
    machine.step(0, [(HERE, join(1, CPU=1))])
    for now, queued in ((1, 0), (2, 0), (3, 5), (4, 5)):
        machine.step(now, [(host(1), report(1, queued))])
    assert counting.changes == 2
