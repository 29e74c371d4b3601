"""Which session this process, or this greenlet, is in: what ``ObjectID`` and the api call when nobody names one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sundog.backends.session import Session

#: The session of whoever runs now. Read directly on hot paths; changed only by :func:`set` and :func:`switch`.
session: Session | None = None
#: Why there is none, for people; None if there simply was none yet.
absent: str | None = None

FORKED = (
    "this process was forked from one that has a sundog session, which stays with its parent: call sundog.init() here to start "
    "one of its own"
)
_guarding = False
#: Decides, given the above, for the thread that asks; see :func:`choose_by`.
_chooser: Callable[[Session | None], Session | None] | None = None


def get() -> Session | None:
    """Return the current session, or None."""
    return session if _chooser is None else _chooser(session)


def switch(new: Session | None) -> None:
    """Somebody else of this process runs from now on, in session ``new``. Says nothing of why there is none."""
    global session
    session = new


def set(new: Session | None, why_absent: str | None = None) -> None:
    """Make ``new`` the current session. With None, ``why_absent`` is what a call that needs one will say."""
    global session, absent, _guarding
    if not _guarding:
        _guarding = True
        os.register_at_fork(after_in_child=_after_fork_in_child)
    session, absent = new, why_absent


def choose_by(chooser: Callable[[Session | None], Session | None] | None) -> None:
    """Have ``chooser(session)`` say, at each reading, in which session the reading thread is; None ends that.

    For a backend in which threads of one process are in different sessions. Costs nothing where there is none.
    """
    global _chooser
    _chooser = chooser
    sys.modules[__name__].__class__ = ModuleType if chooser is None else _Choosing


class _Choosing(ModuleType):
    """This module, while readers of ``current.session`` have to be told apart."""

    @property
    def session(self) -> Session | None:
        found: Session | None = get()
        return found


def _after_fork_in_child() -> None:
    global session, absent
    if session is not None:
        session, absent = None, FORKED
