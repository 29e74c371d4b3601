"""``python -m tests.tidy.schema`` writes the message schema that ``test_schema`` compares with.

It refuses a schema that could not read what the committed one wrote. ``--force`` writes it all the same: only for what no
released version has ever sent.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sundog.backends import schema

COMMITTED = Path(__file__).with_name("message_schema.json")


def as_text(tables: dict[str, dict[str, schema.StructSchema]]) -> str:
    """Return the schema as JSON with one struct a line, so that a change is one line of a diff."""
    parts = []
    for title, rows in tables.items():
        lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
        parts.append(f"  {json.dumps(title)}: {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(arguments: list[str]) -> int:
    """Rewrite the committed schema; return an exit code."""
    new = schema.schema()
    if COMMITTED.exists() and "--force" not in arguments:
        reasons = schema.incompatible(json.loads(COMMITTED.read_text()), new)
        if reasons:
            sys.stderr.write("\n".join(["not written, because recordings and peers would misread it:", *reasons, ""]))
            return 1
    COMMITTED.write_text(as_text(new))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
