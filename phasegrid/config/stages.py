"""Read the ``stages`` section: further trainings of every cell after the first.

    stages:
      - name: cycle
        from: {stage: train, epoch: 16}   # or {update: 900}; without: the end of the one before
                                          # with seed: 0, all trials start from that of seed 0
        optimizer: fresh                  # or kept: the momentum of the training it starts from
        train: {epochs: 12, lr: 0.05, schedule: {name: cyclic, cycle_epochs: 4, low: 0.01}}

A stage starts from ``train`` or from an earlier stage, so there is no circle. Each field of its
``train`` replaces the same field of the sweep's ``train`` as a whole; it inherits the others,
except those that say what a training stores in addition to its weights. ``stages.NAME.field`` is a
path like any other, for axes, facets and ``couple``; ``stages.NAME.from.epoch`` one for axes and
facets. If a stage starts from a checkpoint, the earlier training publishes it and must not stop
before it. It publishes those of all values of an axis, so that the cells along it share it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.template import Option, TrialTemplate, read_recipe
from phasegrid.config.types import FIRST_STAGE, Stage
from phasegrid.config.validate import check_keys
from phasegrid.config.yaml import Node, plain_text
from phasegrid.declare import DatasetFacts, Finding
from phasegrid.keys import Json
from phasegrid.texts import suggest
from phasegrid.train.moments import updates_per_epoch
from phasegrid.train.recipe import LEAVES, Recipe, with_checkpoint

KEYS = ("name", "from", "optimizer", "train")
FROM_KEYS = ("stage", "epoch", "update", "seed")
UNITS = ("epoch", "update")
OPTIMIZERS: tuple[Literal["fresh", "kept"], ...] = ("fresh", "kept")
NAME_PATTERN = r"[a-z][a-z0-9_]{0,31}"
MAX_STAGES = 32


def read_stages(
    node: Node | None, template: TrialTemplate, diagnostics: Diagnostics
) -> TrialTemplate:
    """Return a template with the stages of a sweep."""
    if node is None or node.value is None:
        return template
    if node.items is None or not 1 <= len(node.items) <= MAX_STAGES:
        found = plain_text(node.plain()) if node.items is None else f"{len(node.items)} stages"
        message = f"found {found}; allowed: a list of 1 to {MAX_STAGES} stages, each with a name"
        diagnostics.add(node, "stages", message)
        return template
    stages: list[Stage] = []
    choices, nodes = dict(template.choices), dict(template.nodes)
    for index, item in enumerate(node.items):
        where = f"stages.{index}"
        entries = check_keys(item, KEYS, where, diagnostics)
        if item.mapping is None:
            continue
        later = _names(node.items[index + 1 :])
        stage, recipe = _read_stage(item, entries, where, stages, later, template, diagnostics)
        nodes[stage.section] = entries.get("train", item)
        start = nodes[f"{stage.section}.from"] = entries.get("from", item)
        at = start.mapping or {}
        nodes |= {f"{stage.section}.from.{key}": at[key] for key in FROM_KEYS if key in at}
        choices[stage.section] = {"": Option("", None, Recipe, recipe)}
        stages.append(stage)
    return TrialTemplate(choices, nodes, template.references, tuple(stages))


def stage_mistake(
    stage: Stage,
    start: Mapping[str, Any],
    own: Mapping[str, Any],
    source: Mapping[str, Any],
    facts: DatasetFacts | None,
) -> Finding | None:
    """Say why a stage with the recipe `own` cannot `start` (a `StartPlace`) from a training with
    the recipe `source`: the optimizers differ, or that training may never reach that place. None if
    it can; divergence is not considered. Its field is ``from`` or, below that, ``from.epoch``.
    """
    if stage.optimizer == "kept" and own["optimizer"] != source["optimizer"]:
        return (
            "from",
            f"found optimizer: kept, but {stage.source} has {source['optimizer']} and this stage"
            f" {own['optimizer']}; allowed: one optimizer in both, or fresh",
        )
    at = place_in(start)
    if at is None:
        return None
    if None not in start.values():
        return "from.epoch", f"found {at} beside update {start['update']}; write one"
    unit, _, number = at.partition("-")
    if source["stop"] is not None and source["stop"]["rule"] == "plateau":
        return (
            f"from.{unit}",
            f"found {unit} {number} of {stage.source}, whose stop rule may end it earlier;"
            f" allowed: stop: null in {stage.source}, or starting from its end",
        )
    most = most_of(unit, source, facts)
    if most is not None and int(number) > most:
        message = (
            f"found {unit} {number}, which {stage.source} never reaches; allowed: at most {most}"
        )
        return f"from.{unit}", message
    return None


def place_in(start: Mapping[str, Any]) -> str | None:
    """Return the name of the checkpoint of a `StartPlace`; None: the end.

    >>> place_in({"epoch": 40, "update": None})
    'epoch-40'
    """
    named = [f"{unit}-{start[unit]}" for unit in UNITS if start[unit] is not None]
    return named[0] if named else None


def with_starts(
    recipe: Mapping[str, Json],
    name: str,
    stages: Sequence[Stage],
    starts: Mapping[str, Sequence[str | None]],
) -> Mapping[str, Json]:
    """Return the recipe of the training `name` with the checkpoints from which stages start,
    `starts` by the name of the stage. Of several, those that it publishes at intervals anyway are
    not listed: more of them do not change it.
    """
    for stage in stages:
        places = starts[stage.name] if stage.source == name else ()
        for at in places:
            known = len(places) > 1 and stage.optimizer == "fresh" and _is_regular(at, recipe)
            if not known:
                recipe = with_checkpoint(recipe, at, stage.optimizer == "kept")
    return recipe


def _is_regular(at: str | None, recipe: Mapping[str, Any]) -> bool:
    """Say whether a training publishes this checkpoint as one at intervals."""
    unit, _, number = (at or "").partition("-")
    every = (recipe["checkpoints"] or {}).get(f"every_{unit}s")
    return bool(number and every and int(number) % every == 0)


def most_of(unit: str, recipe: Mapping[str, Any], facts: DatasetFacts | None) -> int | None:
    """Return the largest number of epochs or updates of a training; None if unknown."""
    if unit == "update" and recipe["updates"] is not None:
        return int(recipe["updates"])
    if unit == "epoch" and recipe["updates"] is None:
        return int(recipe["epochs"])
    batches = None if facts is None else updates_per_epoch(recipe, facts)
    if batches is None:
        return None
    if unit == "update":
        return int(recipe["epochs"]) * batches
    return -(-int(recipe["updates"]) // batches)


def _read_stage(
    item: Node,
    entries: Mapping[str, Node],
    where: str,
    before: Sequence[Stage],
    later: Sequence[str],
    template: TrialTemplate,
    diagnostics: Diagnostics,
) -> tuple[Stage, dict[str, Json]]:
    known = [FIRST_STAGE, *(stage.name for stage in before)]
    name = _read_name(entries.get("name"), item, where, known, diagnostics)
    source, start, seed = _read_from(entries.get("from"), where, known, [name, *later], diagnostics)
    optimizer = _read_optimizer(entries.get("optimizer"), where, diagnostics)
    train = entries.get("train", Node({}, item.place))
    read = read_recipe(train, f"stages.{name}", template.references, diagnostics)
    written = set(train.mapping or {})
    written |= {"updates"} if "epochs" in written else set()
    objective = (train.mapping or {}).get("objective")
    if objective is not None and "label_smoothing" in (objective.mapping or {}):
        written.add("label_smoothing")
    own = tuple(field for field in read if field in written or field in LEAVES)
    base = template.choices[FIRST_STAGE][""].args
    recipe = {**base, **{field: read[field] for field in own}, "from": start}
    return Stage(name, source, optimizer, own, seed), recipe


def _read_name(
    node: Node | None, item: Node, where: str, known: Sequence[str], diagnostics: Diagnostics
) -> str:
    place = where.replace("stages.", "stage")  # a unique name, to read the rest
    if node is None:
        diagnostics.add(item, f"{where}.name", "found nothing; it is required, as in name: tune")
        return place
    name = node.value
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        allowed = "1 to 32 of a-z, 0-9 and '_', starting with a letter"
        diagnostics.add(
            node, f"{where}.name", f"found {plain_text(node.plain())}; allowed: {allowed}"
        )
        return place
    if name in known:
        taken = "the first training" if name == FIRST_STAGE else "another stage"
        diagnostics.add(
            node, f"{where}.name", f"found {name!r}, which is the name of {taken}; write another"
        )
        return place
    return name


def _read_from(
    node: Node | None,
    where: str,
    known: Sequence[str],
    later: Sequence[str],
    diagnostics: Diagnostics,
) -> tuple[str, dict[str, Json], int | None]:
    """Return the stage from which another starts, the checkpoint as a `StartPlace`, and the seed of
    the trial from which all start.
    """
    start: dict[str, Json] = dict.fromkeys(UNITS)
    if node is None or node.value is None:
        return known[-1], start, None
    if isinstance(node.value, str):
        return _source(node, f"{where}.from", known, later, diagnostics), start, None
    entries = check_keys(node, FROM_KEYS, f"{where}.from", diagnostics)
    source = known[-1]
    if "stage" in entries:
        source = _source(entries["stage"], f"{where}.from.stage", known, later, diagnostics)
    if "epoch" in entries and "update" in entries:
        message = "found update beside epoch; write one"
        diagnostics.add_key(entries["update"], f"{where}.from.update", message)
    allowed = "an integer, at least 0 (0: the initialisation)"
    whole = {
        key: _whole(entries[key], f"{where}.from.{key}", allowed, diagnostics)
        for key, allowed in (*((unit, allowed) for unit in UNITS), ("seed", "one of the seeds"))
        if key in entries
    }
    unit = next((unit for unit in UNITS if unit in whole), None)
    if unit is not None:
        start[unit] = whole[unit]
    return source, start, whole.get("seed")


def _whole(node: Node, where: str, allowed: str, diagnostics: Diagnostics) -> int | None:
    value = node.value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    diagnostics.add(node, where, f"found {plain_text(node.plain())}; allowed: {allowed}")
    return None


def check_seeds(template: TrialTemplate, seeds: Sequence[int], diagnostics: Diagnostics) -> None:
    """Note a stage that starts from the trial of a seed that the sweep does not have."""
    for stage in template.stages:
        path = f"{stage.section}.from.seed"
        if stage.seed is not None and stage.seed not in seeds and seeds:
            known = ", ".join(map(str, seeds[:10])) + (", ..." if len(seeds) > 10 else "")
            message = f"found {stage.seed}; allowed: one of the seeds: {known}"
            diagnostics.add(template.nodes[path], path, message)


def _source(
    node: Node, where: str, known: Sequence[str], later: Sequence[str], diagnostics: Diagnostics
) -> str:
    if isinstance(node.value, str) and node.value in known:
        return node.value
    found = plain_text(node.plain())
    allowed = ", ".join(known)
    if node.value in later:
        message = (
            f"found {found}, which does not stand before this stage; stages cannot start from each"
            f" other; allowed: {allowed}"
        )
    else:
        hint = suggest(node.value, known) if isinstance(node.value, str) else ""
        message = f"found {found}; allowed: a stage before this one: {allowed}{hint}"
    diagnostics.add(node, where, message)
    return known[-1]


def _read_optimizer(
    node: Node | None, where: str, diagnostics: Diagnostics
) -> Literal["fresh", "kept"]:
    for name in OPTIMIZERS:
        if node is None or node.value == name:
            return name
    assert node is not None
    found = plain_text(node.plain())
    hint = suggest(node.value, OPTIMIZERS) if isinstance(node.value, str) else ""
    message = f"found {found}; allowed: {', '.join(OPTIMIZERS)}{hint}"
    diagnostics.add(node, f"{where}.optimizer", message)
    return "fresh"


def _names(items: Sequence[Node]) -> list[str]:
    """Return the written names of the stages."""
    nodes = [item.mapping["name"] for item in items if item.mapping and "name" in item.mapping]
    return [node.value for node in nodes if isinstance(node.value, str)]
