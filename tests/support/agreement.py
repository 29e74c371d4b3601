"""Generated programs, run by plain Python and by sessions, and what they find: for comparing the two.

A program is a list of steps, each a call of one of the functions below on numbers and on what earlier steps made. Its
control flow never hangs on timing, so its IDs do not either.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

#: What a program may hold, beside plain chains; reported and bounded by the test.
FEATURES = ("nesting", "several returns", "containers", "failures")


class Step(NamedTuple):
    """A call: of which function, on what. A number is itself, ``("ref", i)`` what step i made, other tuples are lists of these."""

    function: str
    arguments: tuple[Any, ...]


class Program(NamedTuple):
    """Steps, and which features they have."""

    steps: tuple[Step, ...]
    features: frozenset[str]


class Box:
    """Plain Python's object ID: a value, or the error in its place."""

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value = value
        self.error = error


class Plain:
    """The api, without any tasks: a call is a call."""

    def remote(self, function: Any = None, **options: Any) -> Any:
        """Return something with a ``remote``."""
        if function is None:
            return lambda function: self.remote(function, **options)
        return _PlainFunction(function, options.get("num_returns", 1))

    def put(self, value: Any) -> Box:
        """Keep a value."""
        return Box(value)

    def get(self, boxes: Any) -> Any:
        """Return a value or values; raise the error if one is."""
        if isinstance(boxes, list):
            return [self.get(box) for box in boxes]
        if boxes.error is not None:
            raise boxes.error
        return boxes.value


class _PlainFunction:
    def __init__(self, function: Callable[..., Any], count: int) -> None:
        self._function = function
        self._count = count

    def remote(self, *args: Any) -> Any:
        if self._count == 0:
            return None  # nobody will know what came of it
        try:
            for box in args:
                if isinstance(box, Box) and box.error is not None:
                    raise box.error
            value = self._function(*[arg.value if isinstance(arg, Box) else arg for arg in args])
        except Exception as error:
            return Box(error=error) if self._count == 1 else [Box(error=error) for _ in range(self._count)]
        return Box(value) if self._count == 1 else [Box(part) for part in value]


def functions(api: Any) -> dict[str, Any]:
    """Return the functions that programs call, remote by ``api`` (``sundog``, or a :class:`Plain`)."""

    @api.remote(max_retries=0)
    def add(a, b):
        return a + b

    @api.remote(num_returns=2, max_retries=0)
    def both(a, b):
        return a + 1, a * b

    @api.remote(num_returns=0, max_retries=0)
    def leave(a, fails):
        if fails:
            raise ValueError(a)

    @api.remote(max_retries=0)
    def tree(depth, width, a):
        if depth == 0:
            return a
        children = [tree.remote(depth - 1, width, a + i) for i in range(width)]
        return a + sum(api.get(children))

    @api.remote(max_retries=0)
    def open_boxes(boxes, a):
        return a + sum(api.get(boxes))

    @api.remote(max_retries=0)
    def make_boxes(a, count):
        return [api.put(a + i) for i in range(count)] + [add.remote(a, i) for i in range(count)]

    @api.remote(max_retries=0)
    def fail_if(a, modulus):
        if a % modulus == 0:
            raise ValueError(a, modulus)
        return a // modulus

    @api.remote(max_retries=0)
    def forgive(boxes, a):
        total = 0
        for box in boxes:
            try:
                total += api.get(box)
            except ValueError as error:
                total += sum(innermost(error).args)
        return total + a

    return {
        "add": add, "both": both, "leave": leave, "tree": tree, "open_boxes": open_boxes, "make_boxes": make_boxes,
        "fail_if": fail_if, "forgive": forgive,
    }  # fmt: skip


def innermost(error: BaseException) -> BaseException:
    """Return the exception that a body raised, however often it was passed on."""
    while getattr(error, "cause", None) is not None:
        error = error.cause  # type: ignore[attr-defined]
    return error


def generate(random: Random) -> Program:
    """Draw a program; each feature is in about every second one."""
    features = frozenset(feature for feature in FEATURES if random.random() < 0.55)
    steps: list[Step] = []
    #: Steps whose objects are numbers, and those of them that cannot fail.
    numbers: list[int] = []
    safe: list[int] = []

    def number(among: list[int] = numbers) -> Any:
        return ("ref", random.choice(among)) if among and random.random() < 0.7 else random.randrange(100)

    for _ in range(random.randrange(4, 14)):
        kinds = ["add"]
        kinds += ["tree"] * 2 * ("nesting" in features)
        kinds += ["both", "both", "leave"] * ("several returns" in features)
        kinds += ["open_boxes", "make_boxes"] * ("containers" in features and bool(numbers))
        kinds += ["fail_if", "fail_if", "forgive"] * ("failures" in features and bool(numbers))
        kind = random.choice(kinds)
        boxes = tuple(("ref", random.choice(numbers)) for _ in range(random.randrange(1, 4))) if numbers else ()
        # One argument that may fail: of two that do, the call fails by whichever is there first.
        drawn: dict[str, Callable[[], tuple[Any, ...]]] = {
            "add": lambda: (number(), number(safe)),
            "both": lambda: (number(), number(safe)),
            "leave": lambda: (number(), random.randrange(2)),
            "tree": lambda: (random.randrange(1, 4), random.randrange(1, 3), number()),
            "open_boxes": lambda: (boxes, number()),  # noqa: B023 (called at once)
            "make_boxes": lambda: (number(), random.randrange(1, 4)),
            "fail_if": lambda: (number(), random.randrange(1, 4)),
            "forgive": lambda: (boxes, number()),  # noqa: B023
        }
        arguments = drawn[kind]()
        steps.append(Step(kind, arguments))
        if kind not in ("make_boxes", "leave"):
            numbers.append(len(steps) - 1)
            if kind != "fail_if" and all(i in safe for i in _references(arguments)):
                safe.append(len(steps) - 1)
    return Program(tuple(steps), _features_of(steps))


def _references(thing: Any) -> list[int]:
    if not isinstance(thing, tuple):
        return []
    return [thing[1]] if thing and thing[0] == "ref" else [i for part in thing for i in _references(part)]


def _features_of(steps: list[Step]) -> frozenset[str]:
    used = {step.function for step in steps}
    found = {
        "nesting": "tree" in used, "several returns": "both" in used, "containers": bool(used & {"open_boxes", "make_boxes"}),
        "failures": "fail_if" in used,
    }  # fmt: skip
    return frozenset(feature for feature, there in found.items() if there)


class Found(NamedTuple):
    """What running a program found: the outcome of every step, and in sessions the IDs, those inside values too."""

    outcomes: list[Any]
    ids: list[str]


def run(api: Any, known: dict[str, Any], program: Program) -> Found:
    """Run ``program`` with the functions of ``api``."""
    made: list[Any] = []

    def argument(thing: Any) -> Any:
        if isinstance(thing, tuple) and thing and thing[0] == "ref":
            return made[thing[1]][0]
        return [argument(part) for part in thing] if isinstance(thing, tuple) else thing

    for step in program.steps:
        result = known[step.function].remote(*[argument(thing) for thing in step.arguments])
        made.append(result if isinstance(result, list) else [] if result is None else [result])
    outcomes: list[Any] = []
    ids = [box.hex() for boxes in made for box in boxes if hasattr(box, "hex")]
    for boxes in made:
        for box in boxes:
            outcome, inner = _outcome(api, box)
            outcomes.append(outcome)
            ids += inner
    return Found(outcomes, ids)


def _outcome(api: Any, box: Any) -> tuple[Any, list[str]]:
    try:
        value = api.get(box)
    except Exception as error:
        cause = innermost(error)
        return (type(cause).__name__, cause.args), []
    if isinstance(value, list):
        return [_outcome(api, inner)[0] for inner in value], [inner.hex() for inner in value if hasattr(inner, "hex")]
    return value, []
