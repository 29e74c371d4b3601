"""A thread's request, from its asking until it is answered."""

from __future__ import annotations

import msgspec

from sundog.core.ids import ObjectID, TaskID
from sundog.core.task import Value
from sundog.core.units import Nanos, seconds

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

    def over(self) -> bool:
        """Tell whether nothing is waited for any more, as far as the objects go and the task's CPUs."""
        return len(self.missing) <= self.missing_allowed and not self.blocked

    def unread(self) -> list[ObjectID]:
        """Return the IDs of values that came with a grant, to be given back if the request fails."""
        return [object_id for object_id, value in self.values.items() if value.offset >= 0]

    def story(self, now: Nanos, why: str) -> str:
        """Return, for people, how long this has waited until ``now``, for how much, and ``why``."""
        waited = seconds(now - self.asked_at)
        count = f"{len(self.object_ids) - len(self.missing)} of {len(self.object_ids)} objects were ready"
        if self.expired:
            return f"get timed out after {waited:.3g} s; {count}. {why}"
        return f"{'get' if self.deliver else 'wait'} has waited {waited:.0f} s; {count}. {why}"
