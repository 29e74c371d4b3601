"""Waiting without blocking: ``ObjectID.future()`` and ``await ObjectID``. Loaded at first need: both imports are slow."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sundog.backends.grants import Answer
from sundog.backends.object_ref import ObjectID
from sundog.core import ids
from sundog.core.events import GetRequested

if TYPE_CHECKING:
    from sundog.backends.session import Session


def future(session: Session, object_id: ObjectID[Any]) -> Future[Any]:
    """Return a future that any thread may wait on. Values are read, and callbacks run, on the loop's thread."""
    made: Future[Any] = getattr(session.port, "new_future", Future)()
    request = session.port.next_request()
    raw = object_id[:]

    def done(answer: Answer, kept: ObjectID[Any] = object_id) -> None:
        if not made.set_running_or_notify_cancel():
            return
        try:
            result = session.result(raw, answer)
        except BaseException as error:
            made.set_exception(error)
        else:
            made.set_result(result)

    made.add_done_callback(lambda made: session.abandon(request) if made.cancelled() else None)
    session.port.begin(GetRequested(request, (ids.ObjectID(raw),)), done)
    return made


def async_future(session: Session, object_id: ObjectID[Any]) -> asyncio.Future[Any]:
    """Return a future of the running event loop. Values are read on its thread."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Any] = loop.create_future()
    request = session.port.next_request()
    raw = object_id[:]

    def settle(answer: Answer) -> None:
        if made.done():
            return
        try:
            result = session.result(raw, answer)
        except StopIteration as error:  # which a future cannot carry
            made.set_exception(RuntimeError(str(error)))
        except BaseException as error:
            made.set_exception(error)
        else:
            made.set_result(result)

    def done(answer: Answer, kept: ObjectID[Any] = object_id) -> None:
        with suppress(RuntimeError):  # the event loop was closed meanwhile
            loop.call_soon_threadsafe(settle, answer)

    made.add_done_callback(lambda made: session.abandon(request) if made.cancelled() else None)
    session.port.begin(GetRequested(request, (ids.ObjectID(raw),)), done)
    return made
