"""Read a request for one measurement of stored networks, without a sweep around it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from phasegrid.config.across import models_mistake
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.inputs import Draft
from phasegrid.config.mapping import NAME as MAPPING
from phasegrid.config.merge import read_sweep
from phasegrid.config.places import SWAG
from phasegrid.config.references import References
from phasegrid.config.requests import check_data_of_metrics, read_metrics
from phasegrid.config.rules import fewer, networks_mistake
from phasegrid.config.sections import MAX_SEEDS
from phasegrid.config.through import with_through
from phasegrid.config.types import GridPoint, MetricRequest, UserCode
from phasegrid.config.validate import check_keys, fields_of, resolve_field
from phasegrid.config.yaml import Node, Place
from phasegrid.declare import import_function, later_defaults
from phasegrid.errors import SweepError
from phasegrid.jobs import MOMENTS, Artifact, Part, Trial
from phasegrid.keys import canonical_json
from phasegrid.registry import resolve_dataset
from phasegrid.texts import counted, either

_PLACE = Place(MAPPING)


def read_alone(
    metric: str,
    args: Mapping[str, object],
    settings: Sequence[str],
    trials: Sequence[Trial],
    networks: Sequence[Artifact],
) -> tuple[MetricRequest, list[Trial], tuple[UserCode, ...]]:
    """Return the request for a `metric` with its arguments (and `settings` ``path=value`` over
    them), the trials of the measured `networks`, one for each, and the plug-in that it is.

    ``dataset`` among the arguments says where the data is, as in a sweep: ``dataset.path=FILE``.

    Raises:
        SweepError: if there is any mistake, as for a sweep.
    """
    diagnostics = Diagnostics()
    references = References(Path.cwd())
    root = read_sweep(args, settings, diagnostics) or Node({}, _PLACE)
    entries = dict(root.mapping or {})
    located = _located(entries.pop("dataset", None), trials, diagnostics)
    own = fields_of(references.metric(metric).args)
    entries = check_keys(replace(root, value=entries), [*own, "dataset"], "", diagnostics)
    entries = {**entries, **_place(metric, networks)}
    listed = Node([Node({metric: Node(entries, _PLACE)}, _PLACE)], _PLACE)
    drafts = read_metrics(listed, MAX_SEEDS, references, diagnostics)
    diagnostics.raise_if_any(f"measuring {metric}")
    (draft,) = drafts
    request = draft.request
    points = [_point(trial) for trial in located]
    check_data_of_metrics(drafts, points, diagnostics)
    diagnostics.raise_if_any(f"measuring {metric}")
    if mistake := _unfit(draft, points):
        raise SweepError(f"measuring {metric}: {mistake}")
    request = with_through(request, draft.metric, draft.args(), points, joined=points)
    return request, located, references.code


def _place(metric: str, networks: Sequence[Artifact]) -> dict[str, Node]:
    """Return the place that a sweep would name where networks are drawn from moments."""
    drawn = [network.name == MOMENTS for network in networks]
    if any(drawn) and not all(drawn):
        raise SweepError(
            f"measuring {metric}: found @{SWAG} beside other networks; allowed: all, or none"
        )
    return {"at": Node(SWAG, _PLACE)} if any(drawn) else {}


def _located(node: Node | None, trials: Sequence[Trial], diagnostics: Diagnostics) -> list[Trial]:
    """Return the trials with the places of their data: the given ones, else the defaults."""
    found: dict[str, Part] = {}
    for part in (trial.dataset for trial in trials):
        owner = resolve_dataset(part.name).args
        known = fields_of(owner)
        names = [spec.name for spec in fields(owner) if spec.metadata.get("locator")]
        places = {name: known[name].default for name in names}
        entries = {} if node is None else check_keys(node, names, "dataset", diagnostics)
        for name, entry in entries.items():
            places[name] = resolve_field(known[name], entry, f"dataset.{name}", diagnostics)
        found.setdefault(canonical_json(part.spec()), replace(part, locators=places))
    return [replace(one, dataset=found[canonical_json(one.dataset.spec())]) for one in trials]


def _point(trial: Trial) -> GridPoint:
    data = trial.dataset
    kind = resolve_dataset(data.name)
    args = {**later_defaults(kind.args), **data.args, **data.locators}
    facts = import_function(kind.facts)(args)
    return GridPoint((), None, None, data, trial.model, trial.recipe, facts)


def _unfit(draft: Draft, points: Sequence[GridPoint]) -> str | None:
    """Say why the metric cannot measure these networks together; None if it can."""
    metric, num = draft.metric, len(points)
    if metric.over == "artifact":
        return f"it reads the {either(metric.reads)} that another measurement leaves; ask a sweep"
    if metric.moments:
        return "it reads how the training went, which one measurement does not know; ask a sweep"
    exactly = {"trial": 1, "pair": 2}.get(metric.over)
    if num != exactly if exactly else num < metric.min_trials:
        wanted = f"exactly {exactly}" if exactly else f"at least {metric.min_trials}"
        return f"found {counted(num, 'network')}; it needs {wanted}{fewer(metric, num)}"
    if metric.one_model and (mistake := models_mistake([(i, 0) for i in range(num)], points)):
        return mistake
    found = networks_mistake(metric, draft.args(), num)
    return None if found is None else f"{found[0]}: {found[1]}"
