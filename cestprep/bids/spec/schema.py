"""The CEST-BIDS schema: the YAML under ``schema/`` merged into the released BIDS schema.

    python -m cestprep.bids.spec.schema OUT.json

The YAML has the layout of the source of the BIDS schema and holds additions only.  A mapping is
merged key by key; into a list go ``{$append: [...]}`` (what is not there yet) and
``{$insert_after: {item: [...]}}`` or ``$insert_before``; anything else replaces what is released.
``entity: null`` in a file rule takes the entity out.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

OVERLAY = Path(__file__).resolve().with_name("schema")
VERSION = "0.1.0"


@cache
def overlay() -> dict[str, Any]:
    """The additions as one mapping, file names being keys."""
    return _tree(OVERLAY)


def _tree(folder: Path) -> dict[str, Any]:
    import yaml

    # read at start-up: the parser in C, where PyYAML has it, takes a tenth of the time
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Any] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            found[entry.name] = _tree(entry)
        elif entry.suffix == ".yaml":
            found[entry.stem] = yaml.load(entry.read_text("utf-8"), loader)
    return found


@cache
def extended() -> dict[str, Any]:
    """Released schema of the installed ``bidsschematools`` with the additions, dereferenced."""
    from bidsschematools import schema as released
    from bidsschematools.types import Namespace

    base = json.loads(released.load_schema().to_json())
    schema = Namespace.build(_merged(base, overlay()))
    released.dereference(schema)
    found: dict[str, Any] = json.loads(schema.to_json())
    found["rules"]["files"] = _without_nulls(found["rules"]["files"])
    found["schema_version"] = f"{base['schema_version']}+cest.{VERSION}"
    return found


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, list) and isinstance(over, dict):
        return _extended_list(base, over)
    if isinstance(base, dict) and isinstance(over, dict):
        both = {k: _merged(base[k], over[k]) for k in base.keys() & over.keys()}
        return {**base, **over, **both}
    return over


def _extended_list(base: list[Any], over: dict[str, Any]) -> list[Any]:
    found = list(base)
    found += [item for item in over.get("$append", []) if item not in found]
    for key, shift in (("$insert_before", 0), ("$insert_after", 1)):
        for anchor, items in over.get(key, {}).items():
            at = found.index(anchor) + shift
            found[at:at] = [item for item in items if item not in found]
    return found


def _without_nulls(rules: Any) -> Any:
    if not isinstance(rules, dict):
        return rules
    return {key: _without_nulls(value) for key, value in rules.items() if value is not None}


def main() -> int:
    """Write the extended schema as the official validator takes it."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    Path(sys.argv[1]).write_text(json.dumps(extended(), ensure_ascii=False), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
