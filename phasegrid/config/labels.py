"""Values of axes as short text for people."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from phasegrid.config.validate import Field, find_field
from phasegrid.keys import Json, canonical_json
from phasegrid.train.recipe import Recipe


def shown_labels(path: str, labels: Iterable[str]) -> dict[str, str]:
    """Return how the labels of an axis (`phasegrid.keys.as_label`) are shown: blocks as
    `short_label`, unless two would look alike; anything else as it is.

    >>> shown_labels("train.schedule", ['{"name":"cosine"}', "step"])
    {'{"name":"cosine"}': 'cosine', 'step': 'step'}
    """
    short = {label: _short(path, label) for label in labels}
    counts = Counter(short.values())
    return {label: text if counts[text] == 1 else label for label, text in short.items()}


def _short(path: str, label: str) -> str:
    if not label.startswith("{"):
        return label
    try:
        value = json.loads(label)
    except ValueError:  # a text that begins like a block
        return label
    return short_label(path, value)


def short_label(path: str, value: Json) -> str:
    """Return a value of a field as short text for people: of several fields together what is not at
    its default.

    >>> short_label("train.schedule", {"name": "step", "at_epochs": [75], "warmup_updates": 0})
    'step (at_epochs [75])'
    >>> short_label("train.stop", None)
    'none'
    """
    if not isinstance(value, Mapping):
        return (
            "none" if value is None else value if isinstance(value, str) else canonical_json(value)
        )
    section, *parts = path.split(".")
    field = find_field(Recipe, parts) if section == "train" and parts else ""
    default = field.default if isinstance(field, Field) else None
    usual = default if isinstance(default, Mapping) else {}
    changed = [
        f"{name} {inner if isinstance(inner, str) else canonical_json(inner)}"
        for name, inner in value.items()
        if name != "name" and not (name in usual and same_value(usual[name], inner))
    ]
    own = value.get("name")
    if own is None:
        return ", ".join(changed) or "default"
    return f"{own} ({', '.join(changed)})" if changed else str(own)


def same_value(a: Any, b: Any) -> bool:
    """Say whether two values of a field are equal; a missing list is an empty one."""
    if isinstance(b, (list, tuple)):
        return list(a if a is not None else ()) == list(b)
    return bool(a == b)
