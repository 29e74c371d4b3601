"""The host of a node in a cluster: what several nodes add to :class:`~sundog.core.host.Host`.

Its object manager and local scheduler are those of ``cluster_objects`` and ``cluster_tasks``. Only the head has services,
membership among them; its global scheduler and its directory may die and begin anew by themselves (``recovery``). What a node
that was lost says is not heard, and what is meant for people goes to the head, where their driver is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sundog.core import messages as msg
from sundog.core import placement
from sundog.core.actions import ClosePeer, Send, StopHost
from sundog.core.cluster_tasks import ClusterScheduler
from sundog.core.config import Config
from sundog.core.deadlines import NEVER
from sundog.core.events import ServiceLost, ServiceStarted
from sundog.core.global_scheduler import GlobalScheduler
from sundog.core.host import FIRST_SERVICE, FIRST_WORKER, FOR_PEOPLE, ONLY_NODE, Host
from sundog.core.ids import HOST, LOOP, Address, NodeID, address, node_of
from sundog.core.local_scheduler import LocalScheduler
from sundog.core.lots import singly
from sundog.core.machine import Action, Event, Fact, Rng
from sundog.core.membership import Membership
from sundog.core.object_directory import ObjectDirectory
from sundog.core.object_manager import ObjectManager
from sundog.core.placement import NodeView, PlacementPolicy
from sundog.core.recovery import Recovery, Service
from sundog.core.restarted_directory import RestartedDirectory
from sundog.core.restarted_scheduler import RestartedScheduler
from sundog.core.retold_objects import RetellingObjectManager
from sundog.core.units import Nanos

#: Places of the services that may die by themselves.
_PLACES = {Service.GLOBAL_SCHEDULER: FIRST_SERVICE, Service.DIRECTORY: FIRST_SERVICE + 1}


class ClusterHost(Host):
    """See the module. ``head``: the node that schedules for all; the rest is as for ``Host``."""

    __slots__ = (
        "_changes", "_driver_here", "_had_tasks", "_incarnations", "_is_head", "_lost", "_members", "head",
    )  # fmt: skip

    #: Lots are taken apart at the door: the machines of a cluster look at each task.
    _LOOKED_AT = (msg.NodeLost, ServiceLost, msg.TasksSubmitted, msg.TasksFinished)

    def __init__(
        self,
        config: Config,
        node: NodeID = ONLY_NODE,
        *,
        rng: Rng | None = None,
        head: NodeID = ONLY_NODE,
        policy: PlacementPolicy | None = None,
    ) -> None:
        self.head = address(head, HOST)
        self._is_head = node == head
        #: Nodes that were lost, which are heard no more; and those that are there, as the head knows.
        self._lost: dict[NodeID, None] = {}
        self._members: Mapping[NodeID, msg.NodeJoined] = {}
        #: Whether a driver has spoken here; else what is meant for people goes to the head.
        self._driver_here = self._is_head
        #: On the head: how often each service has died, what happened to them in this step, and who was there
        #: when a global scheduler was last whole.
        self._incarnations = dict.fromkeys(Service, 0)
        self._changes: list[ServiceLost | ServiceStarted] = []
        self._had_tasks: tuple[NodeID, ...] = ()
        super().__init__(config, node, rng=rng, policy=policy)

    def _make_machines(self) -> tuple[ObjectManager, LocalScheduler]:
        config, node, here, driver = self.config, self.node, self.here, self._driver
        return (
            RetellingObjectManager(config, node, here, driver, self.head),
            ClusterScheduler(config, node, here, self.head, driver, FIRST_WORKER),
        )

    def _add_services(self) -> None:
        if self._is_head:
            super()._add_services()
            membership = Membership(self.config, self.here)
            self._lost = membership.lost
            self._members = membership.members
            self._machines.append(membership)

    def _dropped(self) -> tuple[type, ...]:
        """See ``Host``: what services that begin anew hear, and those that are whole do not."""
        return (*RestartedScheduler.HEARS, *RestartedDirectory.HEARS) if self._is_head else ()

    # -- the door ------------------------------

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``."""
        if not self._driver_here:
            driver = self._driver
            events = list(events)
            self._driver_here = any(event[0] == driver for event in events)
        if self._lost:
            events = [event for event in events if self._is_heard(event[0], event[1])]
        actions = super().step(now, events)
        return actions if self._driver_here else self._relay(actions)

    def _begin(self, events: Iterable[Event], actions: list[Action]) -> list[Event]:
        if not self._is_head:
            actions.append(Send(self.head, msg.NodeJoined(self.node, self.config.capacity)))
        return super()._begin(events, actions)

    def _is_heard(self, sender: Address, fact: Fact) -> bool:
        """Tell whether a fact counts: not those of nodes that were lost."""
        if node_of(sender) in self._lost:
            return type(fact) is msg.LoadReported and self._is_head  # it is to be told that it was lost
        return True

    def _relay(self, actions: list[Action]) -> list[Action]:
        """What is meant for people goes to the head, where their driver is."""
        return [
            Send(self.head, action.message)
            if type(action) is Send and action.to == self._driver and type(action.message) in FOR_PEOPLE
            else action
            for action in actions
        ]

    def _route_own(self, now: Nanos, sender: Address, fact: Fact, actions: list[Action]) -> None:
        if type(fact) is msg.NodeLost:
            if fact.node == self.node:
                actions.append(StopHost())
                return
            if fact.node not in self._lost:
                actions.append(ClosePeer(fact.node))
            if not self._is_head:
                self._lost[fact.node] = None  # on the head membership does
            self._tell((sender, fact))
        elif type(fact) is msg.TasksSubmitted or type(fact) is msg.TasksFinished:
            for one in singly(fact):
                self._tell((sender, one))
        elif (type(fact) is ServiceLost or type(fact) is ServiceStarted) and self._is_head:
            self._changes.append(fact)  # they die and begin between two rounds
        else:
            super()._route_own(now, sender, fact, actions)

    def _end(self, actions: list[Action]) -> None:
        """The session is over: here, and from the head on every other node."""
        if self._is_head:
            others = [address(node, HOST) for node in self._members if node != self.node]
            actions += [Send(to, msg.SessionEnded()) for to in others]
        super()._end(actions)

    # -- services of the head that die and begin anew ------------------------------

    def _change(self, actions: list[Action]) -> bool:
        if not self._changes:
            return False
        self._change_service(self._changes.pop(0), actions)
        return True

    def _change_service(self, fact: ServiceLost | ServiceStarted, actions: list[Action]) -> None:
        service = Service(fact.service)
        place = _PLACES[service]
        if (place in self._mute) == (type(fact) is ServiceLost):
            return
        if type(fact) is ServiceLost:
            self._tell((LOOP, fact))
            self._mute[place] = None
            if service is Service.GLOBAL_SCHEDULER:
                self._lose_scheduler()
            else:
                self.directory = self.global_scheduler.holdings = ObjectDirectory(self.config, self.here)
                self._exchange(service, self.directory)
            return
        del self._mute[place]
        self._incarnations[service] += 1
        recovery = Recovery(self.config, self._incarnations[service], self._members)
        if service is Service.GLOBAL_SCHEDULER:
            self._restart_scheduler(recovery)
        else:
            whole = not (self.global_scheduler.recovering or _PLACES[Service.GLOBAL_SCHEDULER] in self._mute)
            self.directory = RestartedDirectory(self.config, self.here, recovery, scheduler_whole=whole)
            self.global_scheduler.holdings = self.directory
            self._exchange(service, self.directory)
        news = msg.ServiceRestarted(service, recovery.incarnation)
        self._tell((self.here, news))
        actions += [Send(address(node, HOST), news) for node in self._members if node != self.node]

    def _exchange(self, service: Service, machine: Any) -> None:
        index = _PLACES[service]
        self._machines[index] = machine
        if index in self._deciders:
            self._deciders[index] = machine
        self._inboxes[index].clear()
        self._due_at[index] = NEVER
        self._wire()

    def _lose_scheduler(self) -> None:
        """Nothing of it is left; a policy of the user's is told that there are no nodes."""
        old = self.global_scheduler
        if not old.recovering:
            self._had_tasks = tuple(self._members)
        if self._policy is not None:
            for node in old.nodes:
                self._policy.node_lost(node)
        blank = placement.policy(self.config.placement_policy)
        self.global_scheduler = GlobalScheduler(self.config, self.here, blank, self._rng, self.directory)
        self._exchange(Service.GLOBAL_SCHEDULER, self.global_scheduler)

    def _restart_scheduler(self, recovery: Recovery) -> None:
        """It begins with what membership knows."""
        lost = any(node not in self._members for node in self._had_tasks)
        self.global_scheduler = RestartedScheduler(
            self.config, self.here, self._chosen_policy(), self._rng, self.directory, recovery, node_was_lost=lost
        )  # fmt: skip
        self._exchange(Service.GLOBAL_SCHEDULER, self.global_scheduler)
        inbox = self._inboxes[_PLACES[Service.GLOBAL_SCHEDULER]]
        inbox += [(self.here, msg.NodeLost(node)) for node in self._lost]
        inbox += [(self.here, joined) for joined in self._members.values()]

    # -- for people ------------------------------

    def known_nodes(self) -> list[NodeView]:
        """See ``Host``."""
        return super().known_nodes() if self._is_head else []
