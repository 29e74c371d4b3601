"""Max-min fair sharing of links between flows, repaired where it changed and exact to the last unit.

A flow crosses two links: its sender's uplink and its receiver's downlink. Every link has a *level*: the rate at which it
serves the flows that it, and not their other link, holds back. A flow's rate is the lower of its two levels.

Exactness: work is counted in integer units, ``UNITS_PER_BYTE`` to a byte, so that a capacity in bytes a second is a whole
number of units a nanosecond, with enough room that a share is exact for up to 16 flows, and below one part in 10**12 off for
any number. Rates are whole numbers, so progress over any stretch of time is, too: however often a stretch is cut, nothing is
gained or lost by rounding. A flow ends at the first nanosecond at which all its units have been served.

Speed: a change (a flow starts or ends, a capacity changes) marks two links. The level of a marked link is computed anew from
the levels of its neighbours; only if it has changed, and only those neighbours that can feel it, are marked in turn. So the
work is limited to what the change reaches within the connected component, usually a few links. The levels have exactly one
solution (see :func:`fair_levels`), so repairing and computing from nothing give equal rates; tests hold that. Flows whose
rate follows one link's level need no bookkeeping of their own: the link counts what it has served *each* of them, and a flow
ends when that count reaches its key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from simpy.core import Environment
from simpy.events import Event, EventPriority

from sundog.backends.simulated.calls import call_in
from sundog.core.errors import InvariantViolation
from sundog.core.units import SECOND, Nanos

#: Of one share of a byte a second, in units a nanosecond: divisible by every number up to 16.
UNITS = 720_720
UNITS_PER_BYTE = UNITS * SECOND
#: The level of a link that holds no flow back.
UNLIMITED = 1 << 100
#: Changes of one instant are settled together, after everything else that happens then.
_AFTER_THE_REST = EventPriority(2)
#: A link whose level was computed this often in one repair is in a cycle of neighbours that correct each other: the rest of
#: the repair is done from nothing, for its component.
_EVALUATIONS_MAX = 24


class Link:
    """One direction of a node's connection to the network."""

    __slots__ = ("bandwidth", "capacity", "flows", "free", "index", "level", "queue", "served", "since", "stamp", "units")

    def __init__(self, index: int, bandwidth: int) -> None:
        self.index = index
        #: In bytes a second.
        self.bandwidth = bandwidth
        #: In units a nanosecond.
        self.capacity = bandwidth * UNITS
        #: Every flow that crosses this link, with its other link.
        self.flows: dict[Flow, Link] = {}
        self.level = UNLIMITED
        #: Units served by ``since`` to each flow that this link holds back; see :meth:`served_at`.
        self.served = 0
        self.since: Nanos = 0
        #: (key, number, flow) of the flows held back; entries whose flow has left or moved are skipped.
        self.queue: list[tuple[int, int, Flow]] = []
        #: Counts plans for the next end of a flow; a plan with another stamp is void.
        self.stamp = 0
        #: When the packets sent beside flows leave it idle. For the network, not for flows.
        self.free: Nanos = 0
        #: All units that flows have moved over it, those of stopped flows included.
        self.units = 0

    def served_at(self, now: Nanos) -> int:
        """Return the units served to each flow that this link holds back."""
        if self.since == now or self.level == UNLIMITED:
            return self.served
        return self.served + self.level * (now - self.since)


class Flow:
    """A transfer under way."""

    __slots__ = ("done", "down", "home", "key", "number", "size", "units", "up")

    def __init__(self, number: int, up: Link, down: Link, units: int, done: Callable[[], None]) -> None:
        self.number = number
        self.up = up
        self.down = down
        #: What was left when it started.
        self.size = units
        self.done = done
        #: The link that holds it back; None before the first settling and after the end.
        self.home: Link | None = None
        #: It ends when ``home`` has served this much.
        self.key = 0
        #: What is left, while it has no home.
        self.units = units

    @property
    def rate(self) -> int:
        """Units a nanosecond, as of the last settling."""
        return 0 if self.home is None else self.home.level


class Flows:
    """All flows of a network. Starts and ends of one instant are settled together at its end."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._links: list[Link] = []
        self._number = 0
        self._marked: dict[Link, None] = {}
        #: (when, link's index, stamp) of the next end of a flow on each link.
        self._plans: list[tuple[Nanos, int, int]] = []
        self._settling = False
        self._armed: Nanos | None = None
        #: How many flows have started, levels been computed, and repairs been given up for a computation from nothing.
        self.started = 0
        self.evaluations = 0
        self.refills = 0

    def link(self, bandwidth: int) -> Link:
        """Add a link of ``bandwidth`` bytes a second. Raises ValueError if that is not a positive number."""
        if bandwidth < 1:
            raise ValueError(f"a bandwidth of {bandwidth} bytes a second: at least 1; stop the connection instead")
        link = Link(len(self._links), bandwidth)
        self._links.append(link)
        return link

    def start(self, up: Link, down: Link, units: int, done: Callable[[], None]) -> Flow:
        """Start moving ``units`` over two links; ``done()`` is called when all have been served. Raises ValueError for none."""
        if units < 1:
            raise ValueError(f"a flow of {units} units moves nothing")
        self._number += 1
        self.started += 1
        flow = Flow(self._number, up, down, units, done)
        up.flows[flow] = down
        down.flows[flow] = up
        self._mark(up, down)
        return flow

    def stop(self, flow: Flow) -> int:
        """Take a flow out before its end; return the units it has left (at least 1)."""
        left = self.left(flow)
        self._remove(flow, left)
        return left

    def left(self, flow: Flow) -> int:
        """Return the units that ``flow`` has left now: at least 1, since at 0 it is done."""
        home = flow.home
        return flow.units if home is None else max(1, flow.key - home.served_at(int(self._environment.now)))

    def set_bandwidth(self, link: Link, bandwidth: int) -> None:
        """Let ``link`` have ``bandwidth`` bytes a second from now on. Raises ValueError if that is not a positive number."""
        if bandwidth < 1:
            raise ValueError(f"a bandwidth of {bandwidth} bytes a second: at least 1; stop the connection instead")
        link.bandwidth = bandwidth
        link.capacity = bandwidth * UNITS
        self._mark(link, link)

    def check_invariants(self) -> None:
        """Raise InvariantViolation if what is settled is not the max-min fair sharing, or a table is inconsistent."""
        if self._marked:
            return
        rates = fair_levels(link for link in self._links if link.flows)
        for link in self._links:
            total = 0
            for flow, other in link.flows.items():
                if flow.rate != rates[flow] or flow.rate != min(link.level, other.level):
                    raise InvariantViolation(f"flow {flow.number} has rate {flow.rate}, its fair share is {rates[flow]}")
                total += flow.rate
            if total > link.capacity:
                raise InvariantViolation(f"link {link.index} carries {total} of {link.capacity}")

    # -- the end of an instant ------------------------------

    def _mark(self, up: Link, down: Link) -> None:
        self._marked[up] = None
        self._marked[down] = None
        if not self._settling:
            self._settling = True
            call_in(self._environment, 0, self._settle, _AFTER_THE_REST)

    def _settle(self, _: Event) -> None:
        self._settling = False
        now: Nanos = self._environment.now  # type: ignore[assignment] # only whole numbers are ever scheduled
        marked, self._marked = self._marked, {}
        touched = self._repair(marked, now)
        for link in touched:
            self._rehome(link, now)
        for link in touched:
            self._plan(link, now)
        self._arm(now)

    def _repair(self, marked: dict[Link, None], now: Nanos) -> dict[Link, None]:
        """Bring levels up to date, lowest first; return the links whose level or flows have changed."""
        touched: dict[Link, None] = dict(marked)
        waiting = dict(marked)
        heap = [(link.level, link.index, link) for link in marked]
        heapify(heap)
        counts: dict[Link, int] = {}
        while heap:
            link = heappop(heap)[2]
            if link not in waiting:
                continue
            del waiting[link]
            self.evaluations += 1
            before, after = link.level, fair_level(link)
            if before == after:
                continue
            count = counts[link] = counts.get(link, 0) + 1
            if count > _EVALUATIONS_MAX:
                self._refill(link, marked, touched, now)
                return touched
            _set_level(link, after, now)
            touched[link] = None
            for other in _who_feels(link, before, after):
                if other not in waiting:
                    waiting[other] = None
                    heappush(heap, (other.level, other.index, other))
        return touched

    def _refill(self, start: Link, marked: dict[Link, None], touched: dict[Link, None], now: Nanos) -> None:
        """Compute the levels of everything connected to what is in question from nothing."""
        self.refills += 1
        links = _component([start, *marked, *touched])
        rates = fair_levels(links)
        for link in links:
            level = _level_of(link, rates)
            touched[link] = None
            _set_level(link, level, now)

    def _rehome(self, link: Link, now: Nanos) -> None:
        """Give the flows of ``link`` to whichever of their two links holds them back."""
        level = link.level
        served = link.served_at(now)
        queue = link.queue
        for flow, other in link.flows.items():
            home = flow.home
            target = link if level < other.level or (level == other.level and home is not other) else other
            if home is target:
                continue
            if home is not None:
                flow.units = flow.key - home.served_at(now)
            flow.home = target
            if target is link:
                flow.key = served + flow.units
                heappush(queue, (flow.key, flow.number, flow))
            else:
                flow.key = target.served_at(now) + flow.units
                heappush(target.queue, (flow.key, flow.number, flow))
                self._plan(target, now)
        if len(queue) > 64 and len(queue) > 4 * len(link.flows):
            link.queue = [entry for entry in queue if entry[2].home is link and entry[2].key == entry[0]]
            heapify(link.queue)

    # -- ends of flows ------------------------------

    def _plan(self, link: Link, now: Nanos) -> None:
        """Note when the next flow that ``link`` holds back will end."""
        link.stamp += 1
        queue = link.queue
        while queue:
            key, _, flow = queue[0]
            if flow.home is link and flow.key == key:
                when = now - (link.served_at(now) - key) // link.level
                heappush(self._plans, (when, link.index, link.stamp))
                return
            heappop(queue)

    def _arm(self, now: Nanos) -> None:
        """Have the next end of a flow wake us, unless something earlier will."""
        plans, links = self._plans, self._links
        while plans and links[plans[0][1]].stamp != plans[0][2]:
            heappop(plans)
        if plans and (self._armed is None or plans[0][0] < self._armed):
            self._armed = plans[0][0]
            call_in(self._environment, self._armed - now, self._wake)

    def _wake(self, _: Event) -> None:
        now: Nanos = self._environment.now  # type: ignore[assignment] # only whole numbers are ever scheduled
        if now != self._armed:
            return  # it was armed anew for an earlier time, and is again
        self._armed = None
        plans, links = self._plans, self._links
        finished: list[Flow] = []
        while plans and plans[0][0] <= now:
            index, stamp = heappop(plans)[1:]
            link = links[index]
            if link.stamp == stamp and not self._collect(link, now, finished):
                self._plan(link, now)  # what was to end here has been given to another link
        for flow in finished:
            self._remove(flow, 0)
        for flow in finished:
            flow.done()
        self._arm(now)

    def _collect(self, link: Link, now: Nanos, finished: list[Flow]) -> bool:
        served, queue, count = link.served_at(now), link.queue, len(finished)
        while queue and queue[0][0] <= served:
            key, _, flow = heappop(queue)
            if flow.home is link and flow.key == key:
                finished.append(flow)
        return len(finished) > count

    def _remove(self, flow: Flow, left: int) -> None:
        up, down = flow.up, flow.down
        del up.flows[flow]
        del down.flows[flow]
        moved = flow.size - left
        up.units += moved
        down.units += moved
        flow.home = None
        flow.units = left
        self._mark(up, down)


# --- the fair sharing itself ---------------------------------------------------------------------------------------------


def fair_level(link: Link) -> int:
    """Return the level of ``link``, given the levels of its flows' other links.

    Flows that are held back elsewhere, below the level, leave the rest to the others in equal, whole shares. It is the lowest
    such level: that makes it the only one (a remainder of a few units could otherwise be given to one or the other).
    """
    flows = link.flows
    count = len(flows)
    if count == 0:
        return UNLIMITED
    rest = link.capacity
    level = rest // count
    limits = [other.level for other in flows.values()]
    while min(limits) < level:
        below = [limit for limit in limits if limit < level]
        count -= len(below)
        if count == 0:
            return UNLIMITED
        rest -= sum(below)
        limits = [limit for limit in limits if limit >= level]
        level = rest // count
    return level


def fair_levels(links: Iterable[Link]) -> dict[Flow, int]:
    """Return the max-min fair rate of every flow on ``links``, from nothing: water is filled in until links are full.

    Links that are full at the same level are emptied together, so the order of links does not matter. By induction over the
    levels from the lowest, any assignment in which every link has its :func:`fair_level` gives these rates.
    """
    rates: dict[Flow, int] = {}
    rest = {link: [link.capacity, len(link.flows)] for link in links}
    heap = [(link.capacity // len(link.flows), link.index, link) for link in rest if link.flows]
    heapify(heap)
    while heap:
        level = heap[0][0]
        full = []
        while heap and heap[0][0] == level:
            _, _, link = heappop(heap)
            capacity, count = rest[link]
            if count and capacity // count == level:
                full.append(link)
        changed: dict[Link, None] = {}
        frozen = [(flow, link) for link in full for flow in link.flows if flow not in rates]
        for flow, _ in frozen:
            if flow not in rates:
                rates[flow] = level
                for link in (flow.up, flow.down):
                    if link in rest:
                        rest[link][0] -= level
                        rest[link][1] -= 1
                        changed[link] = None
        for link in changed:
            capacity, count = rest[link]
            if count:
                heappush(heap, (capacity // count, link.index, link))
    return rates


def _set_level(link: Link, level: int, now: Nanos) -> None:
    if link.since != now:
        link.served = link.served_at(now)
        link.since = now
    link.level = level


def _who_feels(link: Link, before: int, after: int) -> Iterable[Link]:
    """Yield the neighbours whose level may change because that of ``link`` went from ``before`` to ``after``."""
    low = min(before, after)
    for other in link.flows.values():
        level = other.level
        if level <= low:
            continue  # it holds the flow back itself, before and after
        if level == UNLIMITED and (after < before or (len(other.flows) == 1 and after < other.capacity)):
            continue  # it had room, and has
        yield other


def _component(start: Iterable[Link]) -> list[Link]:
    found: dict[Link, None] = dict.fromkeys(start)
    waiting = list(found)
    while waiting:
        for other in waiting.pop().flows.values():
            if other not in found:
                found[other] = None
                waiting.append(other)
    return sorted(found, key=lambda link: link.index)


def _level_of(link: Link, rates: dict[Flow, int]) -> int:
    """Return a level under which :func:`fair_level` holds for ``link``: its flows' highest rate, if that is what fills it."""
    if not link.flows:
        return UNLIMITED
    highest = max(rates[flow] for flow in link.flows)
    below = [rates[flow] for flow in link.flows if rates[flow] < highest]
    count = len(link.flows) - len(below)
    return highest if (link.capacity - sum(below)) // count == highest else UNLIMITED
