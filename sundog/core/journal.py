"""Who was born and who is gone: what a loop needs in order to mirror the tables elsewhere without reading them whole.

A part that machines append to when they were given one; without it nothing is kept. The loop takes the entries a few times a
second. Only identities travel at birth: most tasks are gone before anybody asks for their row.

Invariant: no deque holds more than ``entries_max`` entries. One that was full when taken may have lost its oldest, and then
``take`` says so and the reader starts again from the whole tables.
"""

from __future__ import annotations

from collections import deque

import msgspec

from sundog.core.ids import FunctionID, NodeID, ObjectID, ProcessID, TaskID
from sundog.core.units import Nanos

#: Entries of one kind between two takes: several seconds of work at the highest rate, 64 MB at the very most.
ENTRIES_MAX = 1 << 19


class TaskGone(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A task that is over. ``state`` is ``finished``, ``failed`` or ``cancelled``; ``error`` says what core knows of a failure."""

    task_id: TaskID
    name: str
    state: str
    duration: Nanos = 0
    worker: ProcessID | None = None
    node: NodeID = NodeID(0)
    error: str = ""


class Entries(msgspec.Struct, frozen=True):
    """What was taken from a journal. ``complete`` is False if something before it was lost."""

    tasks_born: list[TaskID]
    tasks_gone: list[TaskGone]
    objects_born: list[ObjectID]
    objects_gone: list[ObjectID]
    functions_born: list[FunctionID]
    complete: bool


class Journal:
    """See the module. Machines call ``journal.tasks_born.append(task_id)`` and the like."""

    __slots__ = ("functions_born", "objects_born", "objects_gone", "tasks_born", "tasks_gone")

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self.tasks_born: deque[TaskID] = deque(maxlen=entries_max)
        self.tasks_gone: deque[TaskGone] = deque(maxlen=entries_max)
        #: An object is born when it is sealed on this node, gone when its last holder is.
        self.objects_born: deque[ObjectID] = deque(maxlen=entries_max)
        self.objects_gone: deque[ObjectID] = deque(maxlen=entries_max)
        self.functions_born: deque[FunctionID] = deque(maxlen=entries_max)

    def __len__(self) -> int:
        """Return how many entries wait to be taken."""
        return (
            len(self.tasks_born) + len(self.tasks_gone) + len(self.objects_born) + len(self.objects_gone) + len(self.functions_born)
        )

    def take(self) -> Entries:
        """Remove and return everything."""
        kinds = (self.tasks_born, self.tasks_gone, self.objects_born, self.objects_gone, self.functions_born)
        complete = all(len(kind) < (kind.maxlen or 0) for kind in kinds)
        entries = Entries(
            list(self.tasks_born),
            list(self.tasks_gone),
            list(self.objects_born),
            list(self.objects_gone),
            list(self.functions_born),
            complete,
        )
        for kind in kinds:
            kind.clear()
        return entries
