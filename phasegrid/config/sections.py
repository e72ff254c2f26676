"""Read the sections of a sweep outside the grid: name, seeds, metrics, resources, run."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeGuard

from phasegrid.config.cell_mistakes import in_cell
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.inputs import (
    ALLOWED_AT,
    Draft,
    link,
    read_at,
    read_id,
    read_over,
    read_stage,
    take_keys,
)
from phasegrid.config.references import References
from phasegrid.config.rules import metric_mistake, mistakes_of
from phasegrid.config.types import (
    FIRST_STAGE,
    GridPoint,
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
    name_and_args,
    resolve_args,
    resolve_field,
)
from phasegrid.config.yaml import Node, Place, plain_text
from phasegrid.declare import Finding, Metric, later_defaults, make_part
from phasegrid.errors import SweepError
from phasegrid.jobs import Over
from phasegrid.keys import Json, canonical_json
from phasegrid.registry import declared_metric, identity
from phasegrid.tasks import mismatch
from phasegrid.texts import counted, suggest

MAX_SEEDS = 10_000
MAX_SEED = 2**63 - 1
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
MEMORY_PATTERN = r"([0-9]+(?:\.[0-9]+)?) ?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)"
PAIRS = ("first", "ring", "all")
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


def read_metrics(
    node: Node | None,
    num_seeds: int,
    references: References,
    diagnostics: Diagnostics,
    stages: Sequence[str] = (FIRST_STAGE,),
) -> list[Draft]:
    """Resolve the list of metrics, and which metric reads which. `stages` are the trainings of a
    cell, in order.
    """
    if node is None or node.value is None:
        return []
    if node.items is None:
        message = f"found {plain_text(node.plain())}; allowed: a list of metrics"
        diagnostics.add(node, "metrics", message)
        return []
    drafts: list[Draft] = []
    seen: set[str] = set()
    for index, item in enumerate(node.items):
        draft = _metric(item, f"metrics.{index}", num_seeds, references, diagnostics, stages)
        if draft is None:
            continue
        request = draft.request
        keys = {key: node.plain() for key, node in draft.keys.items() if key != "id"}
        this = canonical_json([request.part.spec(), request.modes, request.over, keys])
        same_id = request.id is not None and request.id in {d.request.id for d in drafts}
        if this in seen and not same_id and not diagnostics.is_broken(f"metrics.{index}"):
            message = f"{request.name} with these arguments is asked for twice"
            diagnostics.add(item, f"metrics.{index}", message)
        seen.add(this)
        drafts.append(draft)
    return link(drafts, diagnostics)


def check_data_of_metrics(
    node: Node | None,
    metrics: Sequence[MetricRequest],
    points: Sequence[GridPoint],
    diagnostics: Diagnostics,
) -> None:
    """Note the metrics that do not fit the data or the recipes of the cells."""
    tasks = {point.facts.task: point.dataset.name for point in points if point.facts}
    if node is None or node.items is None or diagnostics.is_broken("metrics"):
        return
    for index, (item, request) in enumerate(zip(node.items, metrics, strict=True)):
        if message := _of_another_task(request, tasks):
            diagnostics.add(item, f"metrics.{index}", message)
        elif found := _first_unfit(request, points):
            (field, unfit), point = found
            args = next(iter(item.mapping.values())) if item.mapping else item
            where = (args.mapping or {}).get(field, args)
            path = f"metrics.{index}.{request.name}.{field}".rstrip(".")
            diagnostics.add(where, path, unfit + in_cell(point))


def _of_another_task(request: MetricRequest, tasks: Mapping[str, str]) -> str | None:
    """Return why a metric does not fit one of the `tasks` (each with one of its data sets), or
    None.
    """
    if request.takes == "any":
        return None
    name = f"metric {request.name}"
    found = (mismatch(name, request.takes, t, f"data set {data}") for t, data in tasks.items())
    return next((message for message in found if message), None)


def _first_unfit(
    request: MetricRequest, points: Sequence[GridPoint]
) -> tuple[Finding, GridPoint] | None:
    """Return the first cell that a metric does not fit, and why."""
    metric = declared_metric(request.name)
    if metric.fits is None:
        return None
    part = request.part
    args = {**later_defaults(metric.args), **part.args, **part.locators}
    different = {(id(point.dataset), id(point.recipe)): point for point in reversed(points)}
    for point in reversed(different.values()):
        if point.facts is not None:
            found = metric_mistake(metric, args, point.recipe, point.facts)
            if found is not None:
                return found, point
    return None


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


def _metric(
    item: Node,
    path: str,
    num_seeds: int,
    references: References,
    diagnostics: Diagnostics,
    stages: Sequence[str],
) -> Draft | None:
    found = _named(item, path, references, diagnostics)
    if found is None:
        return None
    name, args, metric = found
    below = f"{path}.{name}"
    args, keys = take_keys(args, metric, below, diagnostics)
    over = read_over(metric, keys, below, diagnostics)
    args, pairs, modes = _take_out(args, metric, over, below, diagnostics)
    if args.mapping is None:
        allowed = f"a mapping with the keys {', '.join(fields_of(metric.args))}"
        diagnostics.add(args, below, f"found {plain_text(args.plain())}; allowed: {allowed}")
        return None
    resolved = resolve_args(metric.args, args, below, diagnostics)
    _check_metric(metric, resolved, args, below, diagnostics)
    if over in ("trial", "pair", "cell") and "of" not in keys:
        _check_trials(metric, modes, num_seeds, item, below, diagnostics)
    part = make_part(identity(name), metric.version, metric.args, resolved)
    request = MetricRequest(
        part.name,
        part,
        over,
        pairs,
        modes,
        metric.heavy,
        metric.min_trials,
        together=metric.compute_many is not None,
        takes=metric.takes,
        declared_over=metric.over,
        id=read_id(keys, below, diagnostics),
        at=read_at(keys, below, diagnostics),
        stage=read_stage(keys, stages, below, diagnostics),
    )
    if over == "trajectory" and "at" not in keys:
        diagnostics.add(item, below, f"over: trajectory needs at: {ALLOWED_AT}")
    return Draft(request, metric, item, keys, below)


def _named(
    item: Node, path: str, references: References, diagnostics: Diagnostics
) -> tuple[str, Node, Metric] | None:
    """Return the name, the arguments and the declaration of the metric that a request names."""
    name, args = name_and_args(item, path, diagnostics)
    if name is None:
        return None
    try:
        metric = references.metric(name)
        fields_of(metric.args)  # raises for arguments of a plug-in that YAML cannot give
    except SweepError as error:
        where = item.mapping[name].key_place if item.mapping else None
        diagnostics.add(where or item.place, path, str(error))
        return None
    return name, args, metric


def _take_out(
    args: Node, metric: Metric, over: Over, path: str, diagnostics: Diagnostics
) -> tuple[Node, Literal["first", "ring", "all"] | None, int | None]:
    """Remove and return the arguments that the planner uses: `pairs` and `modes`."""
    of_pairs = "pair" in (over, metric.over)
    pairs = metric.pairs if over == metric.over == "pair" else None
    modes: int | None = None
    if args.mapping is None:
        return args, pairs, modes
    rest = dict(args.mapping)
    if of_pairs and "pairs" in rest:
        node = rest.pop("pairs")
        if node.value in PAIRS:
            pairs = node.value  # type: ignore[assignment]  # one of PAIRS
        else:
            found = node.value if isinstance(node.value, str) else ""
            message = f"found {plain_text(node.plain())}; allowed: {', '.join(PAIRS)}"
            diagnostics.add(node, f"{path}.pairs", message + suggest(found, PAIRS))
    if over == "cell" and "modes" in rest:
        node = rest.pop("modes")
        if _is_int(node.value) and node.value >= metric.min_trials:
            modes = node.value
        elif node.value is not None:
            allowed = f"an integer, at least {metric.min_trials}, or null for all trials"
            message = f"found {plain_text(node.plain())}; allowed: {allowed}"
            diagnostics.add(node, f"{path}.modes", message)
    return Node(rest, args.place, args.key_place), pairs, modes


def _check_metric(
    metric: Metric, resolved: Mapping[str, Json], args: Node, path: str, diagnostics: Diagnostics
) -> None:
    for field, message in mistakes_of(metric.rules, resolved):
        if not diagnostics.is_broken(path):
            where = (args.mapping or {}).get(field, args)
            diagnostics.add(where, f"{path}.{field}".rstrip("."), message)


def _check_trials(
    metric: Metric,
    modes: int | None,
    num_seeds: int,
    item: Node,
    path: str,
    diagnostics: Diagnostics,
) -> None:
    if diagnostics.is_broken("seeds"):
        return
    if num_seeds < metric.min_trials:
        need = f"needs at least {counted(metric.min_trials, 'trial')} of a cell"
        diagnostics.add(item, path, f"{need}, found {counted(num_seeds, 'seed')}; raise seeds")
    elif modes is not None and modes > num_seeds:
        node = item.mapping[next(iter(item.mapping))].mapping if item.mapping else None
        where = node["modes"] if node else item
        message = (
            f"found {modes}, but a cell has {counted(num_seeds, 'trial')}; lower it or raise seeds"
        )
        diagnostics.add(where, f"{path}.modes", message)


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
