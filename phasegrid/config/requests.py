"""Read the section ``metrics`` of a sweep: which metrics, with which arguments, of what."""

from collections.abc import Collection, Mapping, Sequence

from phasegrid.config.cell_mistakes import in_cell
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.inputs import Draft, keys_of, link, read_id, read_over, take_keys
from phasegrid.config.networks import choice_keys, take_choice
from phasegrid.config.places import ALLOWED_AT, read_places, read_stage
from phasegrid.config.references import References
from phasegrid.config.rules import fewer, metric_mistake, mistakes_of
from phasegrid.config.types import FIRST_STAGE, GridPoint, MetricRequest
from phasegrid.config.validate import fields_of, name_and_args, resolve_args
from phasegrid.config.yaml import Node, plain_text
from phasegrid.declare import Finding, Metric, make_part
from phasegrid.errors import SweepError
from phasegrid.jobs import Over
from phasegrid.keys import Json, canonical_json
from phasegrid.registry import identity
from phasegrid.tasks import mismatch
from phasegrid.texts import counted


def read_metrics(
    node: Node | None,
    num_seeds: int,
    references: References,
    diagnostics: Diagnostics,
    stages: Sequence[str] = (FIRST_STAGE,),
    varied: Mapping[int, tuple[str, ...]] = {},
) -> list[Draft]:
    """Resolve the list of metrics, and which metric reads which. `stages` are the trainings of a
    cell, in order. `varied` are arguments that an axis or ``couple`` gives, by request.
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
        given = varied.get(index, ())
        path = f"metrics.{index}"
        draft = _metric(item, path, num_seeds, references, diagnostics, stages, given)
        if draft is None:
            continue
        request = draft.request
        keys = {key: node.plain() for key, node in draft.keys.items() if key != "id"}
        this = canonical_json([request.part.spec(), request.modes, request.over, keys, given])
        same_id = request.id is not None and request.id in {d.request.id for d in drafts}
        if this in seen and not same_id and not diagnostics.is_broken(f"metrics.{index}"):
            message = f"{request.name} with these arguments is asked for twice"
            diagnostics.add(item, f"metrics.{index}", message)
        seen.add(this)
        drafts.append(draft)
    return link(drafts, diagnostics)


def check_data_of_metrics(
    drafts: Sequence[Draft], points: Sequence[GridPoint], diagnostics: Diagnostics
) -> None:
    """Note the metrics that do not fit the data or the recipes of the cells."""
    tasks = {point.facts.task: point.dataset.name for point in points if point.facts}
    if diagnostics.is_broken("metrics"):
        return
    for draft in drafts:
        if message := _of_another_task(draft.request, tasks):
            diagnostics.add(draft.item, f"metrics.{draft.index}", message)
        elif not draft.is_open and (found := _first_unfit(draft, points)):
            (field, unfit), point = found
            path = f"{draft.path}.{field}".rstrip(".")
            diagnostics.add(draft.written(field), path, unfit + in_cell(point))


def _of_another_task(request: MetricRequest, tasks: Mapping[str, str]) -> str | None:
    """Return why a metric does not fit one of the `tasks` (each with one of its data sets), or
    None.
    """
    if request.takes == "any":
        return None
    name = f"metric {request.name}"
    found = (mismatch(name, request.takes, t, f"data set {data}") for t, data in tasks.items())
    return next((message for message in found if message), None)


def _first_unfit(draft: Draft, points: Sequence[GridPoint]) -> tuple[Finding, GridPoint] | None:
    """Return the first cell that a metric does not fit, and why."""
    metric, args = draft.metric, draft.args()
    if metric.fits is None:
        return None
    different = {(id(point.dataset), id(point.recipe)): point for point in reversed(points)}
    for point in reversed(different.values()):
        if point.facts is not None:
            found = metric_mistake(metric, args, point.recipe, point.facts)
            if found is not None:
                return found, point
    return None


def _metric(
    item: Node,
    path: str,
    num_seeds: int,
    references: References,
    diagnostics: Diagnostics,
    stages: Sequence[str],
    varied: tuple[str, ...],
) -> Draft | None:
    found = _named(item, path, references, diagnostics)
    if found is None:
        return None
    name, args, metric = found
    below = f"{path}.{name}"
    args, keys = take_keys(args, metric, below, diagnostics)
    over = read_over(metric, keys, below, diagnostics)
    args, choice = take_choice(args, keys, metric, over, num_seeds, below, diagnostics)
    beside = (*choice_keys(metric, over), *keys_of(metric))
    if args.mapping is None:
        allowed = f"a mapping with the keys {', '.join((*fields_of(metric.args), *beside))}"
        diagnostics.add(args, below, f"found {plain_text(args.plain())}; allowed: {allowed}")
        return None
    resolved = resolve_args(metric.args, args, below, diagnostics, varied, beside)
    if not varied:
        _check_metric(metric, resolved, args, below, diagnostics)
    if over == "trajectory" and not {"at", "networks"} & keys.keys():
        diagnostics.add(item, below, f"over: trajectory needs at: {ALLOWED_AT}")
    if _is_over_seeds(over, keys) and not diagnostics.is_broken("seeds"):
        _check_trials(metric, num_seeds, item, below, diagnostics)
    part = make_part(identity(name), metric.version, metric.args, resolved)
    request = MetricRequest(
        part.name,
        part,
        over,
        choice.pairs,
        choice.modes,
        metric.heavy,
        metric.min_trials,
        together=metric.compute_many is not None,
        takes=metric.takes,
        declared_over=metric.over,
        id=read_id(keys, below, diagnostics),
        at=read_places(keys.get("at"), f"{below}.at", diagnostics),
        stage=read_stage(keys.get("stage"), stages, f"{below}.stage", diagnostics),
        runs=choice.runs,
        joins="of" in keys and "over" in keys,
        varied=varied,
    )
    return Draft(request, metric, item, keys, below)


def _is_over_seeds(over: Over, keys: Collection[str]) -> bool:
    """Say whether a job has one network of each seed of a cell, or of some of them."""
    if over == "cell" and "at" in keys:
        return False
    return over in ("trial", "pair", "cell") and not {"of", "networks"} & set(keys)


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


def _check_metric(
    metric: Metric, resolved: Mapping[str, Json], args: Node, path: str, diagnostics: Diagnostics
) -> None:
    for field, message in mistakes_of(metric.rules, resolved):
        if not diagnostics.is_broken(path):
            diagnostics.add(args.below(field), f"{path}.{field}".rstrip("."), message)


def _check_trials(
    metric: Metric, num_seeds: int, item: Node, path: str, diagnostics: Diagnostics
) -> None:
    if num_seeds < metric.min_trials:
        need = f"needs at least {counted(metric.min_trials, 'trial')} of a cell"
        found = f"{need}, found {counted(num_seeds, 'seed')}; raise seeds"
        diagnostics.add(item, path, found + fewer(metric, num_seeds))
