"""What travels is append only: tags are never reused, fields only added at the end, with defaults."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest

from sundog.backends import schema
from tests.tidy.schema import COMMITTED, as_text


def committed() -> Any:
    return json.loads(COMMITTED.read_text())


def test_the_committed_schema_can_be_read() -> None:
    reasons = schema.incompatible(committed(), schema.schema())
    assert not reasons, "\n".join(reasons)


def test_the_committed_schema_is_this_one() -> None:
    assert as_text(schema.schema()) == COMMITTED.read_text(), "the messages have changed: run `make schema`"


def test_tags_are_unique_and_every_message_is_in_the_union() -> None:
    tags = [schema.tag_of(kind) for kind in schema.facts()]
    assert len(tags) == len(dict.fromkeys(tags))
    from sundog.core import host_messages, messages

    in_union = set(messages.Message.__args__)
    declared = {kind for kind in schema.facts() if kind.__module__ in (messages.__name__, host_messages.__name__)}
    assert declared == in_union, "messages.Message must list every message, and only these"
    msgspec.msgpack.Decoder(messages.Message)


@pytest.mark.parametrize("damage", ["removed", "renamed", "reordered", "required", "retyped", "shortened"])
def test_damage_is_noticed(damage: str) -> None:
    old, new = committed(), copy.deepcopy(committed())
    row = new["messages"]["21"]  # TaskSkipped(task_id, attempt)
    match damage:
        case "removed":
            del new["messages"]["21"]
        case "renamed":
            row["name"] = "Other"
        case "reordered":
            row["fields"].reverse()
        case "required":
            row["fields"].append(["more", "int", "required"])
        case "retyped":
            row["fields"][1][1] = "str"
        case "shortened":
            row["fields"].pop()
    assert schema.incompatible(old, new)
    grown = copy.deepcopy(old)
    grown["messages"]["21"]["fields"].append(["more", "int", "optional"])
    grown["messages"]["999"] = {"name": "New", "fields": []}
    assert not schema.incompatible(old, grown)
