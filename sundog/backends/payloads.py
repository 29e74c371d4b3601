"""Takes payload bytes out of facts and actions, and leaves their digests: what a recording holds instead."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, get_args, get_type_hints

import msgspec

from sundog.core.machine import Fact
from sundog.core.messages import TableGiven
from sundog.core.task import Value

_DIGEST_BYTES = 16


class Payloads:
    """Replaces payload bytes by their digests, in facts and actions. Digests that it has been told of stay as they are."""

    def __init__(self) -> None:
        self._fields: dict[type, tuple[str, ...]] = {}
        self._known: dict[bytes, None] = {}

    def strip(self, item: Any) -> Any:
        """Return ``item`` with every payload replaced; ``item`` itself if it has none."""
        kind = type(item)
        if kind is Value:
            return msgspec.structs.replace(item, data=self._digest(item.data)) if item.data else item
        if kind is TableGiven:
            return msgspec.structs.replace(item, rows=self._digest(item.rows))
        if kind is tuple:
            stripped = tuple([self.strip(part) for part in item])
            return stripped if any(new is not old for new, old in zip(stripped, item, strict=True)) else item
        fields = self._fields.get(kind)
        if fields is None:
            fields = self._fields[kind] = payload_fields(kind)
        changes = {}
        for name in fields:
            old = getattr(item, name)
            new = self.strip(old)
            if new is not old:
                changes[name] = new
        return msgspec.structs.replace(item, **changes) if changes else item

    def learn(self, item: Any) -> None:
        """Take the payloads in ``item`` for digests: a recording said so."""
        kind = type(item)
        if kind is Value:
            if item.data:
                self._known[item.data] = None
        elif kind is TableGiven:
            self._known[item.rows] = None
        elif kind is tuple:
            for part in item:
                self.learn(part)
        else:
            fields = self._fields.get(kind)
            if fields is None:
                fields = self._fields[kind] = payload_fields(kind)
            for name in fields:
                self.learn(getattr(item, name))

    def _digest(self, payload: bytes) -> bytes:
        if len(payload) == _DIGEST_BYTES and payload in self._known:
            return payload
        return blake2b(payload, digest_size=_DIGEST_BYTES).digest()


def payload_fields(kind: type) -> tuple[str, ...]:
    """Return the fields of a struct in which a payload may lie."""
    if not issubclass(kind, msgspec.Struct):
        return ()
    hints = get_type_hints(kind)
    return tuple([name for name in kind.__struct_fields__ if _may_hold_payload(hints[name])])


def _may_hold_payload(hint: Any) -> bool:
    if hint in (Value, TableGiven, Fact):
        return True
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return bool(payload_fields(hint))
    return any(_may_hold_payload(part) for part in get_args(hint))
