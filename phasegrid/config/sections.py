"""Read the sections of a sweep outside the grid: name, seeds, resources, run."""

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.types import (
    MetricRequest,
    Need,
    Resources,
    Retries,
    RunOptions,
)
from phasegrid.config.validate import (
    INVALID,
    check_keys,
    fields_of,
    resolve_args,
    resolve_field,
)
from phasegrid.config.yaml import Node, Place, plain_text
from phasegrid.keys import Json

MAX_SEEDS = 10_000
MAX_SEED = 2**63 - 1
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
MEMORY_PATTERN = r"([0-9]+(?:\.[0-9]+)?) ?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)"
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


def read_schema(node: Node | None, root: Node, diagnostics: Diagnostics) -> None:
    """Check the version of the form of the sweep."""
    if node is None:
        diagnostics.add(root, "schema", "found nothing; write schema: 1")
    elif node.value != 1 or isinstance(node.value, bool):
        diagnostics.add(node, "schema", f"found {plain_text(node.plain())}; allowed: 1")


def read_name(node: Node | None, root: Node, diagnostics: Diagnostics) -> str:
    """Check the name of the sweep: it names files."""
    if node is None:
        diagnostics.add(root, "name", "found nothing; it is required")
        return ""
    name = node.value
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name) or ".." in name:
        allowed = "1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter or digit, no '..'"
        diagnostics.add(node, "name", f"found {plain_text(node.plain())}; allowed: {allowed}")
        return ""
    return name


def read_text_field(
    node: Node | None, path: str, default: str | None, diagnostics: Diagnostics
) -> str | None:
    """Check an optional field of text."""
    if node is None or node.value is None:
        return default
    if not isinstance(node.value, str) or not node.value.strip():
        diagnostics.add(node, path, f"found {plain_text(node.plain())}; allowed: text")
        return default
    return node.value


def read_seeds(node: Node | None, root: Node, diagnostics: Diagnostics) -> tuple[int, ...]:
    """Return the seeds: 0 to n - 1 for a count n, or the items of a list."""
    if node is None:
        diagnostics.add(root, "seeds", "found nothing; write a count, or a list of seeds")
        return (0,)
    if node.items is None:
        count = node.value
        if not _is_int(count) or not 1 <= count <= MAX_SEEDS:
            allowed = f"a count from 1 to {MAX_SEEDS:,}, or a list of distinct integers"
            diagnostics.add(node, "seeds", f"found {plain_text(node.plain())}; allowed: {allowed}")
            return (0,)
        return tuple(range(count))
    if not 1 <= len(node.items) <= MAX_SEEDS:
        message = f"found {len(node.items)} seeds; allowed: 1 to {MAX_SEEDS:,}"
        diagnostics.add(node, "seeds", message)
    seeds: list[int] = []
    for index, item in enumerate(node.items):
        if not _is_int(item.value) or not 0 <= item.value <= MAX_SEED:
            message = f"found {plain_text(item.plain())}; allowed: integers from 0"
            diagnostics.add(item, f"seeds.{index}", message)
        elif item.value in seeds:
            diagnostics.add(item, f"seeds.{index}", f"found {item.value} twice; seeds are distinct")
        else:
            seeds.append(item.value)
    return tuple(seeds) or (0,)


def read_resources(
    node: Node | None, metrics: tuple[MetricRequest, ...], diagnostics: Diagnostics
) -> Resources:
    """Resolve the resources that packs need; a metric's own resources default to those of all
    packs.
    """
    if node is None or node.value is None:
        return Resources()
    names = tuple(fields_of(Need))
    entries = check_keys(node, (*names, "metrics"), "resources", diagnostics)
    default = _need(entries, "resources", {}, diagnostics)
    own: dict[str, Need] = {}
    section = entries.get("metrics")
    if section is not None:
        allowed = list(dict.fromkeys(request.name for request in metrics))
        if diagnostics.is_broken("metrics") and section.mapping is not None:
            allowed += list(section.mapping)
        for name, item in check_keys(section, allowed, "resources.metrics", diagnostics).items():
            path = f"resources.metrics.{name}"
            own[name] = _as_need(
                _need(check_keys(item, names, path, diagnostics), path, default, diagnostics)
            )
    base = _as_need(default)
    return Resources(base.num_cpus, base.num_gpus, base.memory, own)


def read_run(node: Node | None, diagnostics: Diagnostics) -> RunOptions:
    """Resolve the section ``run``."""
    if node is None or node.value is None:
        return RunOptions()
    if node.mapping is None:
        check_keys(node, tuple(fields_of(RunOptions)), "run", diagnostics)
        return RunOptions()
    args: dict[str, Any] = resolve_args(RunOptions, node, "run", diagnostics)
    return RunOptions(**{**args, "retries": Retries(**args["retries"])})


def _need(
    entries: Mapping[str, Node], path: str, start: Mapping[str, Json], diagnostics: Diagnostics
) -> dict[str, Json]:
    need = dict(start)
    for name, field in fields_of(Need).items():
        node = entries.get(name)
        if node is None:
            continue
        if name == "memory" and isinstance(node.value, str):
            node = _bytes(node, f"{path}.memory", diagnostics)
        value = resolve_field(field, node, f"{path}.{name}", diagnostics)
        if value is not INVALID:
            need[name] = value
    return need


def _as_need(values: Mapping[str, Any]) -> Need:
    return Need(**values)


def _bytes(node: Node, path: str, diagnostics: Diagnostics) -> Node:
    match = re.fullmatch(MEMORY_PATTERN, str(node.value))
    if match is None:
        allowed = "bytes, or a text such as 4GiB or 500MB"
        diagnostics.add(node, path, f"found {plain_text(node.plain())}; allowed: {allowed}")
        return Node(None, Place(node.place.file))
    return Node(int(float(match[1]) * _BYTES[match[2]]), node.place)


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
