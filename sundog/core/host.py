"""The machines of one process, as one machine. It routes what they say to each other and decides nothing.

Every node has an object manager and a local scheduler; the host of a node alone also has the global scheduler, the object directory
and lineage. What several nodes add is in ``cluster_host``. A fact
goes to the machines that hear its type, in their order; a ``Send`` to this host's own address is routed at once, in the same
step, until nothing more is said: what leaves a step is only for others.

Rounds of such messages only record what has happened. The two schedulers decide once nothing more is said (``Decider``), on all
that the step brought: a CPU that a task's end frees goes to what that very end made ready, if that is next. What they decide is
routed in turn, until all are quiet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec

from sundog.core import messages as msg
from sundog.core import placement, tables
from sundog.core.actions import Send, StopHost
from sundog.core.config import Config
from sundog.core.deadlines import NEVER
from sundog.core.errors import InvariantViolation
from sundog.core.events import OutputRead, ServiceLost, ServiceStarted
from sundog.core.global_scheduler import GlobalScheduler
from sundog.core.ids import DRIVER, HOST, Address, NodeID, ProcessID, address
from sundog.core.journal import Journal
from sundog.core.lineage import Lineage
from sundog.core.local_scheduler import LocalScheduler
from sundog.core.machine import Action, Decider, Event, Fact, Rng
from sundog.core.object_directory import ObjectDirectory
from sundog.core.object_manager import ObjectManager
from sundog.core.output import OutputBudget
from sundog.core.placement import NodeView, PlacementPolicy
from sundog.core.recovery import Service
from sundog.core.rng import SplitMix
from sundog.core.units import Nanos

#: Rounds of internal messages in one step; the longest legal chain is far shorter.
_ROUNDS_MAX = 1_000
ONLY_NODE = NodeID(0)
FIRST_WORKER = ProcessID(DRIVER + 1)
#: What goes to whoever reads, by way of the driver.
FOR_PEOPLE = (msg.OutputWritten, msg.FailureUnheard, msg.WarningRaised)
#: The place of the first service among the machines, behind the two that every host has.
FIRST_SERVICE = 2


#: The types of facts, with the places of the machines that hear them.
Routes: TypeAlias = dict[type, tuple[int, ...]]

#: Hosts of the same machines share their routes: among a thousand hosts it is the memory that a step touches that counts.
_ROUTES: dict[Any, tuple[Routes, Routes]] = {}


class Host:
    """See the module. ``policy`` chooses nodes for tasks, on the head; None: the one that ``config.placement_policy`` names.
    ``rng`` serves policies that draw; without one they must not.

    In a cluster only the head's host has ``global_scheduler``, ``directory`` and ``lineage``.
    """

    __slots__ = (
        "_deadline", "_deciders", "_door", "_driver", "_due_at", "_first", "_hearers", "_inboxes", "_last_output", "_machines",
        "_mute", "_now", "_policy", "_rng", "_services", "_touched", "_undecided", "config", "directory", "global_scheduler",
        "here", "journal", "lineage", "local_scheduler", "node", "object_manager", "output",
    )  # fmt: skip

    global_scheduler: GlobalScheduler
    directory: ObjectDirectory
    lineage: Lineage
    #: Facts that the host itself looks at before any machine hears them.
    _LOOKED_AT: tuple[type, ...] = ()

    def __init__(
        self,
        config: Config,
        node: NodeID = ONLY_NODE,
        *,
        rng: Rng | None = None,
        policy: PlacementPolicy | None = None,
    ) -> None:
        self.config = config
        self.node = node
        self.here = address(node, HOST)
        self._driver = address(node, DRIVER)
        self.journal: Journal | None = None
        self.object_manager, self.local_scheduler = self._make_machines()
        #: These two, which every host has, and on the head its services.
        self._machines: list[Any] = [self.object_manager, self.local_scheduler]
        #: Services that decide apart from recording, by their place among the machines.
        self._deciders: dict[int, Decider[Action]] = {}
        self._rng = rng if rng is not None else SplitMix(0)
        self._policy = policy
        #: Places of those that are dead now: nobody hears for them.
        self._mute: dict[int, None] = {}
        self._add_services()
        self.output = OutputBudget(config)
        #: The latest output of each worker that is flooding, for the place where what was dropped of it is told.
        self._last_output: dict[ProcessID, OutputRead] = {}
        #: What each machine is to hear.
        self._inboxes: list[list[Event]] = [[] for _ in self._machines]
        self._wire()
        #: When each machine wants to be stepped, as of its last step.
        self._due_at: list[Nanos] = [NEVER for _ in self._machines]
        #: In this step: which services were stepped, and which of those have yet to decide.
        self._touched: dict[int, None] = {}
        self._undecided: dict[int, None] = {}
        self._first: list[Event] = [(self.here, msg.NodeJoined(node, config.capacity))]
        self._now: Nanos = 0
        #: The earliest deadline of any machine, as of the end of the last step.
        self._deadline: Nanos | None = None

    def _make_machines(self) -> tuple[ObjectManager, LocalScheduler]:
        config, node, here, driver = self.config, self.node, self.here, self._driver
        return ObjectManager(config, node, here, driver), LocalScheduler(config, node, here, here, driver, FIRST_WORKER)

    def _add_services(self) -> None:
        config, here = self.config, self.here
        self.directory = ObjectDirectory(config, here)
        self.global_scheduler = GlobalScheduler(config, here, self._chosen_policy(), self._rng, self.directory)
        self.lineage = Lineage(config, here)
        self._machines += [self.global_scheduler, self.directory, self.lineage]
        self._deciders[FIRST_SERVICE] = self.global_scheduler

    def _chosen_policy(self) -> PlacementPolicy:
        return self._policy if self._policy is not None else placement.policy(self.config.placement_policy)

    def _wire(self) -> None:
        """Lay down who hears what, anew whenever a machine was exchanged. What only a dead one hears is dropped."""
        #: Of each service: its place, what makes it record, what it is to hear, and whether it decides apart from that.
        self._services = [
            (index, machine.record if index in self._deciders else machine.step, self._inboxes[index], index in self._deciders)
            for index, machine in enumerate(self._machines)
            if index >= FIRST_SERVICE
        ]
        kinds = tuple([type(machine) for machine in self._machines])
        key = (type(self), kinds, tuple(self._mute), self._dropped())
        found = _ROUTES.get(key)
        if found is None:
            found = _ROUTES[key] = self._build_routes()
        self._hearers, self._door = found

    def _dropped(self) -> tuple[type, ...]:
        """Return facts that nobody need hear."""
        return ()

    def _build_routes(self) -> tuple[Routes, Routes]:
        """Return the places of the machines that hear a fact, by its type; and the same for what comes from outside, without what
        the host looks at itself."""
        routes: dict[type, list[int]] = {fact: [] for fact in self._dropped()}
        for index, machine in enumerate(self._machines):
            for fact in machine.HEARS:
                places = routes.setdefault(fact, [])
                if index not in self._mute:
                    places.append(index)
        hearers = {fact: tuple(places) for fact, places in routes.items()}
        return hearers, {fact: places for fact, places in hearers.items() if fact not in self._LOOKED_AT}

    def _tell(self, event: Event) -> None:
        """Let all that hear it hear it."""
        for place in self._hearers.get(type(event[1]), ()):
            self._inboxes[place].append(event)

    def keep_journal(self) -> Journal:
        """From now on write who is born and who is gone into a journal, and return it (see ``journal``)."""
        self.journal = Journal()
        self.object_manager.journal = self.journal
        self.local_scheduler.journal = self.journal
        return self.journal

    # -- the door ------------------------------

    def step(self, now: Nanos, events: Iterable[Event]) -> list[Action]:
        """See ``machine.Machine``."""
        if now < self._now:
            raise InvariantViolation(f"time went back from {self._now} to {now}")
        self._now = now
        actions: list[Action] = []
        if self._first:
            events = self._begin(events, actions)
        door, inboxes = self._door, self._inboxes
        for event in events:
            places = door.get(type(event[1]))
            if places is None:
                self._route_own(now, event[0], event[1], actions)
            else:
                for place in places:
                    inboxes[place].append(event)
        late = self._deadline is not None and now >= self._deadline and self._due(now, actions)
        self._talk(now, actions, late)
        self._deadline = self._earliest()
        return actions

    def _talk(self, now: Nanos, actions: list[Action], undecided: bool) -> None:
        """Rounds of what the machines say to each other, then what those decide that wait for it, until all are quiet.

        ``undecided``: the local scheduler is to decide in any case.
        """
        objects, scheduler, services = self.object_manager, self.local_scheduler, self._services
        for_objects, for_scheduler = self._inboxes[0], self._inboxes[1]
        stepped = decided = False
        said: Sequence[Action]
        for _ in range(_ROUNDS_MAX):
            if for_objects:
                said = objects.step(now, for_objects)
                for_objects.clear()
                stepped = True
                if said:
                    self._collect(said, actions)
            if for_scheduler:
                said = scheduler.record(now, for_scheduler)
                for_scheduler.clear()
                undecided = True
                if said:
                    self._collect(said, actions)
            if services and self._serve(now, actions):
                continue
            if for_objects or for_scheduler:
                continue
            if undecided:
                undecided, decided = False, True
                said = scheduler.decide(now)
                if said and self._collect(said, actions):
                    continue
            if services and self._undecided and self._collect(self._decide(now), actions):
                continue
            if objects.unsettled:
                stepped = True
                said = objects.settle(now)
                if said and self._collect(said, actions):
                    continue
            if not self._change(actions):
                break
        else:
            raise InvariantViolation(f"the machines of one host talked for {_ROUNDS_MAX} rounds without end")
        if stepped:
            self._due_at[0] = objects.next_deadline() or NEVER
        if decided:
            self._due_at[1] = scheduler.next_deadline() or NEVER

    def _serve(self, now: Nanos, actions: list[Action]) -> bool:
        """The services of the head record what they have heard; True if one of them has heard more since."""
        touched, undecided = self._touched, self._undecided
        heard = False
        for index, record, inbox, decides in self._services:
            if inbox:
                said = record(now, inbox)
                inbox.clear()
                if decides:
                    undecided[index] = None
                else:
                    touched[index] = None
                if said and self._collect(said, actions):
                    heard = True
        return heard

    def _begin(self, events: Iterable[Event], actions: list[Action]) -> list[Event]:
        """The first step: this node joins."""
        first, self._first = self._first, []
        return [*first, *events]

    def _change(self, actions: list[Action]) -> bool:
        """Between two rounds machines may be exchanged; True if one was."""
        return False

    def _route_own(self, now: Nanos, sender: Address, fact: Fact, actions: list[Action]) -> None:
        """What no machine hears is the host's own: output of workers, questions about tables, and its own end."""
        if type(fact) is msg.SessionEnded:
            actions.append(StopHost())
        elif type(fact) is ServiceLost or type(fact) is ServiceStarted:
            raise InvariantViolation(f"node {self.node} has no {Service(fact.service).name.lower()} that could die by itself")
        elif type(fact) is OutputRead:
            self._show(now, fact, actions)
        elif type(fact) in FOR_PEOPLE:
            actions.append(Send(self._driver, fact))
        elif type(fact) is msg.TableRequested:
            rows = tables.TABLES[fact.table](self) if fact.table in tables.TABLES else []
            actions.append(Send(sender, msg.TableGiven(fact.request, msgspec.msgpack.encode(rows))))
        else:
            raise InvariantViolation(f"nobody on this host hears {type(fact).__name__}")

    def _show(self, now: Nanos, fact: OutputRead, actions: list[Action]) -> None:
        text, dropped = self.output.admit(now, fact.worker, fact.text)
        if self.output.next_deadline() is not None:
            self._last_output[fact.worker] = fact
        if text or dropped:
            worker = self.local_scheduler.pool.workers.get(fact.worker)
            pid = worker.pid if worker is not None else 0
            message = msg.OutputWritten(pid, fact.name, fact.stream, text, dropped)
            actions.append(Send(self._driver, message))

    def _due(self, now: Nanos, actions: list[Action]) -> bool:
        """Machines whose deadline has passed are stepped although nothing happened; True if the local scheduler is to decide."""
        flood_ends = self.output.next_deadline()
        if flood_ends is not None and flood_ends <= now:
            for worker, dropped in self.output.expire(now):
                record = self.local_scheduler.pool.workers.get(worker)
                pid = record.pid if record is not None else 0
                last = self._last_output.pop(worker, None) or OutputRead(worker, 2, "", "")
                actions.append(Send(self._driver, msg.OutputWritten(pid, last.name, last.stream, "", dropped)))
        if self._due_at[0] <= now and not self._inboxes[0]:
            self._collect(self.object_manager.step(now, ()), actions)
            self._due_at[0] = self.object_manager.next_deadline() or NEVER
        for index, _, inbox, decides in self._services:
            if self._due_at[index] <= now and not inbox:
                if decides:
                    self._undecided[index] = None
                else:
                    self._touched[index] = None
                    self._collect(self._machines[index].step(now, ()), actions)
        return self._due_at[1] <= now

    def _decide(self, now: Nanos) -> list[Action]:
        """Nothing more is said: the services that have heard something decide."""
        said: list[Action] = []
        for index in self._undecided:
            self._touched[index] = None
            said += self._deciders[index].decide(now)
        self._undecided.clear()
        return said

    def _collect(self, said: Sequence[Action], actions: list[Action]) -> bool:
        """Route what is for this host, and tell whether there was any; keep the rest, in order."""
        here = self.here
        heard = False
        for action in said:
            if type(action) is Send:
                if action.to == here:
                    heard = True
                    message = action.message
                    event = (here, message)
                    for place in self._hearers[type(message)]:
                        self._inboxes[place].append(event)
                    continue
                if type(action.message) is msg.SessionEnded:
                    actions.append(action)
                    self._end(actions)
                    continue
            actions.append(action)
        return heard

    def _end(self, actions: list[Action]) -> None:
        """The session is over."""
        actions.append(StopHost())

    def next_deadline(self) -> Nanos | None:
        """See ``machine.Machine``."""
        return self._now if self._first else self._deadline

    def _earliest(self) -> Nanos | None:
        """Ask the services that were stepped when they are due, and return when the first of all machines is."""
        due_at = self._due_at
        if self._touched:
            for index in self._touched:
                due_at[index] = self._machines[index].next_deadline() or NEVER
            self._touched.clear()
        earliest = min(due_at)
        if self._last_output:
            flood_ends = self.output.next_deadline()
            if flood_ends is not None and flood_ends < earliest:
                return flood_ends
        return None if earliest == NEVER else earliest

    def check_invariants(self) -> None:
        """See ``machine.Machine``."""
        for machine in self._machines:
            machine.check_invariants()

    # -- for people ------------------------------

    def known_nodes(self) -> list[NodeView]:
        """Return the nodes that this host's global scheduler knows, if it has one."""
        return list(self.global_scheduler.nodes.values())

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of one of ``tables.TABLES``.

        Raises KeyError if there is no such table.
        """
        return tables.TABLES[name](self)
