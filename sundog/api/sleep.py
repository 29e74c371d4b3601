"""``sleep``: on the clock of the backend."""

from __future__ import annotations

from sundog.api.options import amount
from sundog.backends import current
from sundog.core.units import SECOND


def sleep(seconds: float) -> None:
    """Sleep for ``seconds``: of virtual time in the simulator, else of real time. Without a session, of real time.

    Raises TypeError or ValueError for what is no number of seconds.
    """
    span = round(amount(seconds, "sleep: seconds") * SECOND)
    session = current.session
    virtual = getattr(session.port, "sleep", None) if session is not None else None
    if virtual is not None:
        virtual(span)
        return
    import time

    time.sleep(span / SECOND)
