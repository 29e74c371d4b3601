"""A thread's request, from its asking until it is answered."""

from __future__ import annotations

import msgspec

from sundog.core.ids import ObjectID, TaskID
from sundog.core.task import Value
from sundog.core.units import Nanos

#: A driver's get that misses so many objects, and has no deadline, is patient: no few of them let it go on.
PATIENT_MIN = 32


class Request(msgspec.Struct):
    """A thread's get or wait. ``missing`` holds what is not ready yet; for a wait it only needs to shrink enough."""

    object_ids: tuple[ObjectID, ...]
    missing: dict[ObjectID, None]
    #: How many may still be missing when the request is over.
    missing_allowed: int
    deadline: Nanos | None
    task: TaskID | None
    deliver: bool
    asked_at: Nanos
    values: dict[ObjectID, Value]
    #: The task was told to be blocked and has not been granted its CPUs again.
    blocked: bool = False
    #: Time is up; only the grant (if blocked) or the explanation is waited for.
    expired: bool = False
    explaining: bool = False
