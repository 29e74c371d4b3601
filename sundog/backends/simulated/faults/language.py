"""The language in which people write faults, one a line, and in which schedules print.

    kill node 2 when the 7th task seals
    kill worker 0 of node 1 at 20 ms
    kill global scheduler at 1 s for 50 ms            # and start it again
    partition [0,1]|[2] at 1.5 s for 300 ms
    partition [0]->[1,2] at 2 s                       # only what goes from left to right
    slow node 3 by 2.5 at 10 ms for 1 s
    pause node 1 at 1 s for 50 ms                     # as by SIGSTOP
    skew node 1 by -20 ms
    fill store of node 0 to 95 % at 1 s for 200 ms
    cut node 0 from node 1 at 30 ms
    delay node 0 -> node 1 by 5 ms
    clog node 2 at 1 s for 10 ms
    limit bandwidth of node 1 to 10 % for 1 s
    disturb frames lose 1 % repeat 2.5 % reorder 5 %
    heal at 3 s
    core [0,1] from 4 s                               # the liveness phase: these are well, nothing new fails

Without ``at`` or ``when`` a fault happens at the start, without ``for`` it is not taken back. ``;`` also ends a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple, NoReturn

from sundog.backends.simulated.faults.occurrences import Occurrence
from sundog.backends.simulated.faults.runner import (
    LASTING,
    AnyEffect,
    At,
    Clog,
    Cut,
    Delay,
    DisturbFrames,
    Fault,
    FillStore,
    Heal,
    KillNode,
    KillService,
    KillWorker,
    LimitBandwidth,
    Partition,
    Pause,
    RestartNode,
    RestartService,
    Schedule,
    Service,
    Skew,
    Slow,
    When,
)
from sundog.core.ids import NodeID
from sundog.core.units import MICROSECOND, MILLISECOND, SECOND, Nanos

_UNITS = {"ns": 1, "us": MICROSECOND, "ms": MILLISECOND, "s": SECOND, "min": 60 * SECOND}
_TOKENS = re.compile(r"\s*(?:(#.*)|(-?\d+(?:\.\d+)?(?:st|nd|rd|th)?)|([A-Za-z]+)|(->|[\[\]|,%]))")
_ORDINAL_ENDS = ("st", "nd", "rd", "th")


class FaultSyntaxError(ValueError):
    """A schedule that cannot be read. The message has line, column, what was expected, and the line with a mark."""

    def __init__(self, line: int, column: int, message: str, text: str) -> None:
        super().__init__(f"faults, line {line}, column {column}: {message}\n    {text}\n    {' ' * (column - 1)}^")
        self.line = line
        self.column = column


def parse(text: str, cluster: Mapping[int, int]) -> Schedule:
    """Return the schedule that ``text`` describes, for a cluster given as {node: number of its workers}.

    Raises FaultSyntaxError for what cannot be read, and for nodes and workers that do not exist.
    """
    faults: list[Fault] = []
    core: tuple[NodeID, ...] = ()
    core_from: Nanos | None = None
    for number, line in enumerate(text.splitlines(), 1):
        begin = 0
        comment = line.find("#")
        for part in (line if comment < 0 else line[:comment]).split(";"):
            reader = _Reader(line, number, begin, begin + len(part), cluster)
            begin += len(part) + 1
            if reader.kind == "end":
                continue
            if reader.word("core"):
                if core_from is not None:
                    reader.fail_before("the core was given before: one line says when the liveness phase begins")
                core = reader.group()
                reader.need_word("from")
                core_from = reader.span()
                reader.end()
            else:
                faults.append(reader.fault())
    return Schedule(tuple(faults), core, core_from)


class _Token(NamedTuple):
    kind: str
    text: str
    column: int


class _Reader:
    """Reads one fault."""

    def __init__(self, line: str, number: int, begin: int, end: int, cluster: Mapping[int, int]) -> None:
        self._line = line
        self._number = number
        self._cluster = cluster
        self._tokens = self._split(begin, end)
        self._position = 0

    def _split(self, begin: int, end: int) -> list[_Token]:
        tokens = []
        while self._line[begin:end].strip():
            found = _TOKENS.match(self._line, begin, end)
            if found is None:
                column = begin + len(self._line[begin:end]) - len(self._line[begin:end].lstrip()) + 1
                self._fail(column, f"{self._line[column - 1]!r} means nothing here")
            kind = ("comment", "number", "word", "sign")[(found.lastindex or 1) - 1]
            tokens.append(_Token(kind, found.group(found.lastindex or 0), found.start(found.lastindex or 0) + 1))
            begin = found.end()
        shown = len(self._line[:end].rstrip())
        return [*tokens, _Token("end", "", shown + 1)]

    # -- tokens ------------------------------

    @property
    def kind(self) -> str:
        return self._tokens[self._position].kind

    def _fail(self, column: int, message: str) -> NoReturn:
        raise FaultSyntaxError(self._number, column, message, self._line)

    def fail_here(self, expected: str) -> NoReturn:
        token = self._tokens[self._position]
        found = f"found {token.text!r}" if token.text else "the line ends"
        self._fail(token.column, f"expected {expected}, {found}")

    def fail_before(self, message: str) -> NoReturn:
        self._fail(self._tokens[max(0, self._position - 1)].column, message)

    def word(self, *words: str) -> bool:
        """Take these words if they are next."""
        for offset, word in enumerate(words):
            token = self._tokens[min(self._position + offset, len(self._tokens) - 1)]
            if token.text.lower() != word:
                return False
        self._position += len(words)
        return True

    def need_word(self, *words: str) -> None:
        for word in words:
            if not self.word(word):
                self.fail_here(f"'{word}'")

    def _number_text(self, expected: str) -> str:
        token = self._tokens[self._position]
        if token.kind != "number" or token.text.endswith(_ORDINAL_ENDS):
            self.fail_here(expected)
        self._position += 1
        return token.text

    def whole(self, expected: str) -> int:
        text = self._number_text(expected)
        if "." in text or text.startswith("-"):
            self.fail_before(f"expected {expected}, found {text}: a whole number from 0")
        return int(text)

    def node(self) -> NodeID:
        node = self.whole("the number of a node")
        if node not in self._cluster:
            self.fail_before(f"there is no node {node}; the cluster has {_shown_nodes(self._cluster)}")
        return NodeID(node)

    def group(self, others: tuple[NodeID, ...] = ()) -> tuple[NodeID, ...]:
        """``[0,1,2]``, without ``others``."""
        self.need_word("[")
        nodes: list[NodeID] = []
        while not nodes or self.word(","):
            node = self.node()
            if node in nodes:
                self.fail_before(f"node {node} stands here twice")
            if node in others:
                self.fail_before(f"node {node} stands in two groups")
            nodes.append(node)
        if not self.word("]"):
            self.fail_here("',' or ']'")
        return tuple(nodes)

    def span(self, signed: bool = False) -> Nanos:
        """``1.5 s``"""
        text = self._number_text("a time such as 300 ms")
        token = self._tokens[self._position]
        if token.text not in _UNITS:
            self.fail_here(f"a unit of time ({', '.join(_UNITS)})")
        time = Fraction(text) * _UNITS[token.text]
        if time < 0 and not signed:
            self.fail_before("this time cannot be negative")
        if time.denominator != 1:
            self.fail_before(f"{text} {token.text} is no whole number of nanoseconds")
        self._position += 1
        return int(time)

    def _permille(self, factor: int, expected: str) -> int:
        text = self._number_text(expected)
        share = Fraction(text) * factor
        if share < 0 or share.denominator != 1:
            self.fail_before(
                f"{text}: expected {expected}, not negative, with at most {1 if factor == 10 else 3} digits after the point"
            )
        return int(share)

    def percent(self) -> int:
        """``12.5 %``, as thousandths."""
        share = self._permille(10, "a share such as 10 %")
        if share > 1000:
            self.fail_before("a share is at most 100 %")
        self.need_word("%")
        return share

    def end(self) -> None:
        if self.kind != "end":
            self.fail_here("the end of the line")

    # -- faults ------------------------------

    def fault(self) -> Fault:
        first = self._tokens[self._position]
        read = _EFFECTS.get(first.text.lower())
        if read is None:
            self.fail_here(f"one of {', '.join([*_EFFECTS, 'core'])}")
        self._position += 1
        effect = read(self)
        trigger: At | When = At()
        span: Nanos | None = None
        if self.word("at"):
            trigger = At(self.span())
        elif self.word("when"):
            trigger = self._when()
        if self.word("for"):
            if not isinstance(effect, LASTING):
                self.fail_before(f"'{first.text}' happens at once: it takes no 'for'")
            span = self.span()
        if self.kind != "end":
            expected = ["'at'", "'when'"] if trigger == At() else []
            self.fail_here(
                " or ".join(
                    [*expected, *(["'for'"] if isinstance(effect, LASTING) and span is None else []), "the end of the line"]
                )
            )
        return Fault(effect, trigger, span)

    def _when(self) -> When:
        self.need_word("the")
        token = self._tokens[self._position]
        if (
            token.kind != "number"
            or not token.text.endswith(_ORDINAL_ENDS)
            or not token.text[:-2].isdigit()
            or int(token.text[:-2]) < 1
        ):
            self.fail_here("an ordinal such as 7th, from 1st")
        self._position += 1
        self.need_word("task")
        occurrence = next((one for one in Occurrence if self.word(*one.split())), None)
        if occurrence is None:
            self.fail_here(" or ".join(f"'{one}'" for one in Occurrence))
        return When(occurrence, int(token.text[:-2]))

    def service(self) -> Service | None:
        for service in Service:
            if self.word(*service.split()):
                return service
        return None

    def kill(self) -> AnyEffect:
        if self.word("node"):
            return KillNode(self.node())
        if self.word("worker"):
            worker = self.whole("the number of a worker")
            position = self._position
            self.need_word("of", "node")
            node = self.node()
            if worker >= self._cluster[node]:
                self._position = position
                self.fail_before(f"node {node} has no worker {worker}; it has {self._cluster[node]} workers, from 0")
            return KillWorker(node, worker)
        service = self.service()
        if service is None:
            self.fail_here("'node', 'worker', 'global scheduler' or 'directory'")
        return KillService(service)

    def restart(self) -> AnyEffect:
        if self.word("node"):
            return RestartNode(self.node())
        service = self.service()
        if service is None:
            self.fail_here("'node', 'global scheduler' or 'directory' (a node replaces its workers itself)")
        return RestartService(service)

    def partition(self) -> AnyEffect:
        groups = [self.group()]
        one_way = self.word("->")
        if not one_way and not self.word("|"):
            self.fail_here("'|' or '->' and another group of nodes")
        while True:
            groups.append(self.group(sum(groups, ())))
            if one_way or not self.word("|"):
                return Partition(tuple(groups), one_way)

    def slow(self) -> AnyEffect:
        self.need_word("node")
        node = self.node()
        self.need_word("by")
        permille = self._permille(1000, "a factor such as 2.5")
        if permille == 0:
            self.fail_before("a factor of 0 would take no time")
        return Slow(node, permille)

    def pause(self) -> AnyEffect:
        self.need_word("node")
        return Pause(self.node())

    def skew(self) -> AnyEffect:
        self.need_word("node")
        node = self.node()
        self.need_word("by")
        return Skew(node, self.span(signed=True))

    def fill(self) -> AnyEffect:
        self.need_word("store", "of", "node")
        node = self.node()
        return FillStore(node, self.percent() if self.word("to") else 1000)

    def cut(self) -> AnyEffect:
        self.need_word("node")
        first = self.node()
        self.need_word("from", "node")
        return Cut(first, self._another(first))

    def _another(self, first: NodeID) -> NodeID:
        second = self.node()
        if second == first:
            self.fail_before("these are two different nodes")
        return second

    def delay(self) -> AnyEffect:
        self.need_word("node")
        source = self.node()
        self.need_word("->", "node")
        target = self._another(source)
        self.need_word("by")
        return Delay(source, target, self.span())

    def clog(self) -> AnyEffect:
        self.need_word("node")
        return Clog(self.node())

    def limit(self) -> AnyEffect:
        self.need_word("bandwidth", "of", "node")
        node = self.node()
        self.need_word("to")
        return LimitBandwidth(node, self.percent())

    def disturb(self) -> AnyEffect:
        self.need_word("frames")
        shares = [self.percent() if self.word(word) else 0 for word in ("lose", "repeat", "reorder")]
        if not any(shares):
            self.fail_here("'lose', 'repeat' or 'reorder', in this order, each with a share")
        if shares[0] == 1000:
            self.fail_before("with every frame lost nothing can ever arrive: use partition or clog")
        return DisturbFrames(*shares)

    def heal(self) -> AnyEffect:
        return Heal()


_EFFECTS: dict[str, Callable[[_Reader], AnyEffect]] = {
    "kill": _Reader.kill,
    "restart": _Reader.restart,
    "partition": _Reader.partition,
    "slow": _Reader.slow,
    "pause": _Reader.pause,
    "skew": _Reader.skew,
    "fill": _Reader.fill,
    "cut": _Reader.cut,
    "delay": _Reader.delay,
    "clog": _Reader.clog,
    "limit": _Reader.limit,
    "disturb": _Reader.disturb,
    "heal": _Reader.heal,
}


def _shown_nodes(cluster: Mapping[int, int]) -> str:
    nodes = sorted(cluster)
    if len(nodes) == 1:
        return f"only node {nodes[0]}"
    if nodes == list(range(nodes[0], nodes[-1] + 1)):
        return f"nodes {nodes[0]} to {nodes[-1]}"
    return f"nodes {', '.join(map(str, nodes[:20]))}{', ...' if len(nodes) > 20 else ''}"


# --- writing ------------------------------


def written_schedule(schedule: Schedule) -> str:
    """Return ``schedule`` as text that :func:`parse` reads."""
    lines = [written(fault) for fault in schedule.faults]
    if schedule.core_from is not None:
        lines.append(f"core {_group(schedule.core)} from {_span(schedule.core_from)}")
    return "\n".join(lines)


def written(fault: Fault) -> str:
    """Return ``fault`` as a line that :func:`parse` reads."""
    parts = [_written_effect(fault.effect)]
    if isinstance(fault.trigger, When):
        count = fault.trigger.count
        end = "th" if 10 <= count % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
        parts.append(f"when the {count}{end} task {fault.trigger.occurrence}")
    elif fault.trigger.time:
        parts.append(f"at {_span(fault.trigger.time)}")
    if fault.span is not None:
        parts.append(f"for {_span(fault.span)}")
    return " ".join(parts)


def _written_effect(effect: AnyEffect) -> str:
    match effect:
        case KillNode(node):
            text = f"kill node {node}"
        case RestartNode(node):
            text = f"restart node {node}"
        case KillWorker(node, worker):
            text = f"kill worker {worker} of node {node}"
        case KillService(service):
            text = f"kill {service}"
        case RestartService(service):
            text = f"restart {service}"
        case Partition(groups, one_way):
            text = "partition " + ("->" if one_way else "|").join(map(_group, groups))
        case Slow(node, permille):
            text = f"slow node {node} by {_decimal(Fraction(permille, 1000))}"
        case Pause(node):
            text = f"pause node {node}"
        case Skew(node, offset):
            text = f"skew node {node} by {_span(offset)}"
        case FillStore(node, permille):
            text = f"fill store of node {node} to {_percent(permille)}"
        case Cut(first, second):
            text = f"cut node {first} from node {second}"
        case Delay(source, target, extra):
            text = f"delay node {source} -> node {target} by {_span(extra)}"
        case Clog(node):
            text = f"clog node {node}"
        case LimitBandwidth(node, permille):
            text = f"limit bandwidth of node {node} to {_percent(permille)}"
        case DisturbFrames(loss, duplication, reordering):
            shares = (("lose", loss), ("repeat", duplication), ("reorder", reordering))
            text = " ".join(["disturb frames", *(f"{word} {_percent(share)}" for word, share in shares if share)])
        case Heal():
            text = "heal"
    return text


def _group(nodes: tuple[NodeID, ...]) -> str:
    return f"[{','.join(map(str, nodes))}]"


def _decimal(number: Fraction) -> str:
    return f"{float(number):.9f}".rstrip("0").rstrip(".")


def _percent(permille: int) -> str:
    return f"{_decimal(Fraction(permille, 10))} %"


def _span(time: Nanos) -> str:
    """Return a time in the largest unit (up to seconds) in which it has at most 3 digits after the point."""
    for unit in ("s", "ms", "us"):
        if abs(time) >= _UNITS[unit] and time * 1000 % _UNITS[unit] == 0:
            return f"{_decimal(Fraction(time, _UNITS[unit]))} {unit}"
    return f"{time} ns"
