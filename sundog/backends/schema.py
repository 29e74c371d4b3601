"""The shape of everything that travels or is recorded: which tag means which fact, and which fields it has in which order.

Structs travel as arrays, by position, so two programs understand each other only if one's fields are the other's first
ones. The schema makes that comparable: a test holds it against the committed one, and a recording names its digest.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, get_args, get_type_hints

import msgspec

from sundog.core import actions, events, host_messages, messages
from sundog.core.machine import Action, Fact

#: What a schema says of one struct: its name, and [field, type, "required" or "optional"] in order.
StructSchema = dict[str, Any]


def facts() -> tuple[type[Fact], ...]:
    """Return every fact there is, messages first, in order of tags."""
    return _tagged(messages, Fact) + _tagged(events, Fact)


def known_actions() -> tuple[type[Action], ...]:
    """Return every action there is, in order of tags."""
    return _tagged(actions, Action)


def tag_of(kind: type[msgspec.Struct]) -> int:
    """Return the tag of a fact or action."""
    tag = kind.__struct_config__.tag
    assert isinstance(tag, int), f"{kind.__name__} has no number for a tag"
    return tag


def schema() -> dict[str, dict[str, StructSchema]]:
    """Return the schema: ``messages``, ``events`` and ``actions`` by tag, and ``structs`` inside them by name."""
    inside: dict[str, StructSchema] = {}
    tables = {}
    for title, module, base in (
        ("messages", messages, Fact),
        ("events", events, Fact),
        ("actions", actions, Action),
    ):
        tables[title] = {str(tag_of(kind)): _describe(kind) for kind in _tagged(module, base)}
        for kind in _tagged(module, base):
            _collect(kind, inside)
    tables["structs"] = {name: inside[name] for name in sorted(inside)}
    return tables


def digest() -> str:
    """Return 16 hex digits that change whenever the schema does."""
    return blake2b(msgspec.json.encode(schema()), digest_size=8).hexdigest()


def incompatible(old: dict[str, dict[str, StructSchema]], new: dict[str, dict[str, StructSchema]]) -> list[str]:
    """Return why ``new`` cannot read what ``old`` wrote, or the other way round, one line each; empty if it can."""
    found = []
    for table in ("messages", "events", "structs"):
        for key, before in old[table].items():
            after = new[table].get(key)
            where = f"{table} {key} ({before['name']})"
            if after is None:
                found.append(f"{where} is gone; keep it, or let its tag rest for ever")
            elif after["name"] != before["name"]:
                found.append(f"{where} is now {after['name']}: a tag is never used again")
            else:
                found += _moved(where, before["fields"], after["fields"])
    return found


def _moved(where: str, before: list[list[str]], after: list[list[str]]) -> list[str]:
    found = []
    for position, field in enumerate(before):
        if position >= len(after) or after[position][:2] != field[:2]:
            now = after[position] if position < len(after) else "gone"
            found.append(f"{where}: field {position} was {field}, is {now}")
    found += [f"{where}: new field {field[0]} has no default" for field in after[len(before) :] if field[2] == "required"]
    return found


def _tagged(module: Any, base: type) -> tuple[Any, ...]:
    homes = (module.__name__, host_messages.__name__) if module is messages else (module.__name__,)
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, base)]
    return tuple(sorted([kind for kind in kinds if kind is not base and kind.__module__ in homes], key=tag_of))


def _describe(kind: type[msgspec.Struct]) -> StructSchema:
    # As written, not as resolved: the text is the same under every interpreter. None of them inherits a field.
    written = kind.__annotations__
    return {
        "name": kind.__name__,
        "fields": [
            [field.name, written[field.name], "required" if field.required else "optional"]
            for field in msgspec.structs.fields(kind)
        ],
    }


def _collect(kind: type[msgspec.Struct], into: dict[str, StructSchema]) -> None:
    """Describe the structs that stand in ``kind``'s fields, and in theirs."""
    todo: list[Any] = list(get_type_hints(kind).values())
    while todo:
        hint = todo.pop()
        todo += get_args(hint)
        if not (isinstance(hint, type) and issubclass(hint, msgspec.Struct)) or issubclass(hint, Fact):
            continue
        if hint.__name__ not in into:
            into[hint.__name__] = _describe(hint)
            todo += get_type_hints(hint).values()
