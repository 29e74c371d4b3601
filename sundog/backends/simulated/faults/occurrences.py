"""What faults may wait for the n-th of."""

from __future__ import annotations

from enum import StrEnum


class Occurrence(StrEnum):
    """What the loop reports to :meth:`FaultRunner.occurred`."""

    SUBMITTED = "is submitted"
    STARTED = "starts"
    SEALED = "seals"
