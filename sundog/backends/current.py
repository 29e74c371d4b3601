"""Which session this process, or this greenlet, is in: what ``ObjectID`` and the api call when nobody names one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sundog.backends.session import Session

#: The session of whoever runs now. Read directly on hot paths; changed only by :func:`set`.
session: Session | None = None
#: Why there is none, for people; None if there simply was none yet.
absent: str | None = None

FORKED = (
    "this process was forked from one that has a sundog session, which stays with its parent: call sundog.init() here to start "
    "one of its own"
)
_guarding = False


def get() -> Session | None:
    """Return the current session, or None."""
    return session


def set(new: Session | None, why_absent: str | None = None) -> None:
    """Make ``new`` the current session. With None, ``why_absent`` is what a call that needs one will say."""
    global session, absent, _guarding
    if not _guarding:
        _guarding = True
        os.register_at_fork(after_in_child=_after_fork_in_child)
    session, absent = new, why_absent


def _after_fork_in_child() -> None:
    global session, absent
    if session is not None:
        session, absent = None, FORKED
