"""Try every plug-in of a sweep once before planning; faults of plug-ins are mistakes of the sweep.

This module chooses what to try, without torch. The caller passes in how to try it, as `Trials`,
which is made only if there is a plug-in. A plug-in is tried with the arguments of the first cell
that names it; an objective and a schedule, which cost little, with those of every cell.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from phasegrid.config.axes import Scale
from phasegrid.config.cell_mistakes import in_cell
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.template import TrialTemplate, place_of
from phasegrid.config.types import FIRST_STAGE, GridPoint, MetricRequest, Tried, UserCode
from phasegrid.config.yaml import Node, Place
from phasegrid.declare import DatasetFacts
from phasegrid.jobs import MetricJob, Part
from phasegrid.keys import Json, canonical_json
from phasegrid.registry import identity
from phasegrid.texts import counted

Thing = TypeVar("Thing")
_MOST_NETWORKS = 3  # networks of a cell: enough to try a metric over several


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of trying a plug-in: a `fault`, for which it is refused, or a `note`; both are
    None if all is well.
    """

    fault: str | None = None
    note: str | None = None


class Trials(Protocol):
    """The ways to try plug-ins on two examples."""

    def try_network(
        self, part: Part, facts: DatasetFacts, batches: Sequence[tuple[int, bool]], /
    ) -> Verdict:
        """Build a network and run it forward and backward on batches of these sizes."""

    def try_dataset(self, part: Part, /) -> tuple[Verdict, DatasetFacts | None]:
        """Load a data set and say what it is."""

    def try_objective(self, recipe: Mapping[str, Any], facts: DatasetFacts, /) -> Verdict:
        """Compute and differentiate the objective of a recipe for made-up outputs."""

    def try_schedule(self, recipe: Mapping[str, Any], facts: DatasetFacts, /) -> Verdict:
        """Ask the schedule of a recipe for its factors in a training on a data set."""

    def try_metric(
        self, job: MetricJob, networks: Sequence[Part], facts: DatasetFacts, /
    ) -> Verdict:
        """Measure untrained networks."""


@dataclass(frozen=True, slots=True)
class _Training:
    """A training of a cell: its section of the sweep, its recipe and its data."""

    section: str
    recipe: Mapping[str, Any]
    point: GridPoint
    facts: DatasetFacts | None


@dataclass(slots=True)
class Trier:
    """Tries the plug-ins among `code`; notes mistakes in `diagnostics`, at the place where the
    sweep names the plug-in.
    """

    code: Sequence[UserCode]
    template: TrialTemplate
    scales: Sequence[Scale]
    diagnostics: Diagnostics
    trials: Callable[[], Trials] | None = None
    _lines: list[str] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)
    _faulty: set[tuple[str, str]] = field(default_factory=set)

    def tried(
        self,
        points: Sequence[GridPoint],
        metrics: Sequence[MetricRequest],
        items: Sequence[Node],
        num_seeds: int,
    ) -> Tried:
        """Try data sets, networks, objectives, schedules and metrics; `items` are the nodes of
        `metrics`.
        """
        if (
            self.trials is None
            or not self.code
            or not points
            or self.diagnostics.is_broken("dataset", "model")
        ):
            return Tried()
        facts = {point.dataset.name: point.facts for point in points}
        for point in _firsts(points, lambda p: p.dataset.name):
            if self._is_plugin("dataset", point.dataset.name):
                facts[point.dataset.name] = self._try_dataset(point)
        for point in _firsts(points, lambda p: (p.model.name, p.dataset.name)):
            if self._is_plugin("model", point.model.name):
                self._try_network(point, points, facts[point.dataset.name])
        trainings = self._trainings(points, facts)
        self._try_objectives(trainings)
        self._try_schedules(trainings)
        if not self.diagnostics.is_broken("metrics"):
            sound = next((p for p in points if not self._is_faulty(p)), None)
            pairs = list(zip(metrics, items, strict=True))
            for request, item in _firsts(pairs, lambda pair: pair[0].name):
                if sound is not None and self._is_plugin("metric", request.name):
                    self._try_metric(request, item, sound, facts[sound.dataset.name], num_seeds)
        return Tried(tuple(self._lines), tuple(self._notes))

    def _try_dataset(self, point: GridPoint) -> DatasetFacts | None:
        part = point.dataset
        if (
            point.facts is not None and part.locators
        ):  # its files are elsewhere or large: a run loads them
            return point.facts
        verdict, found = self._how().try_dataset(part)
        self._keep("dataset", part.name, verdict, "loaded")
        return point.facts or found

    def _try_network(
        self, point: GridPoint, points: Sequence[GridPoint], facts: DatasetFacts | None
    ) -> None:
        if facts is None:
            self._notes.append(
                f"model {point.model.name!r}: not tried: its data set does not say what its"
                " examples are"
            )
            return
        names = (point.model.name, point.dataset.name)
        recipes: list[Mapping[str, Any]] = [
            p.recipe for p in points if (p.model.name, p.dataset.name) == names
        ]
        sizes = {
            (recipe["batch_size"], recipe["drop_last"])
            for recipe in recipes
            if recipe["batch_unit"] == "examples" and recipe["batch_size"] <= facts.num_train
        }
        verdict = self._how().try_network(point.model, facts, sorted(sizes))
        how = f"built, run forward and backward on 2 made-up examples of shape {facts.input_shape}"
        self._keep("model", point.model.name, verdict, how)

    def _trainings(
        self, points: Sequence[GridPoint], facts: Mapping[str, DatasetFacts | None]
    ) -> list[_Training]:
        """Return the trainings of all cells; one for those with the same recipe and data."""
        sections = [FIRST_STAGE, *(stage.section for stage in self.template.stages)]
        every = (
            _Training(section, recipe, point, point.facts or facts[point.dataset.name])
            for point in points
            for section, recipe in zip(sections, (point.recipe, *point.stage_recipes), strict=True)
        )
        return _firsts(every, lambda one: (id(one.recipe), id(one.point.dataset)))

    def _try_objectives(self, trainings: Sequence[_Training]) -> None:
        def outputs(one: _Training) -> Hashable:
            known = one.facts and (one.facts.task, one.facts.input_shape, one.facts.num_classes)
            return canonical_json(one.recipe["objective"]), known

        how = "computed and differentiated for made-up outputs of 2 examples"
        self._try_named("objective", trainings, outputs, how)

    def _try_schedules(self, trainings: Sequence[_Training]) -> None:
        def updates(one: _Training) -> Hashable:
            fields = ("schedule", "epochs", "updates", "batch_size", "batch_unit", "drop_last")
            return canonical_json([one.recipe[field] for field in fields]), id(one.point.dataset)

        how = "asked for its factors from the first update to the last"
        self._try_named("schedule", trainings, updates, how)

    def _try_named(
        self,
        kind: Literal["objective", "schedule"],
        trainings: Sequence[_Training],
        differs: Callable[[_Training], Hashable],
        how: str,
    ) -> None:
        """Try the plug-ins that recipes name, each in the trainings that differ, until it breaks
        its contract.
        """
        of_name: dict[str, list[_Training]] = {}
        for training in trainings:
            chosen = training.recipe[kind]
            if chosen is not None and self._is_plugin(kind, chosen["name"]):
                of_name.setdefault(chosen["name"], []).append(training)
        for name, users in of_name.items():
            several = _firsts(users, differs)
            for number, training in enumerate(several, start=1):
                verdict = self._verdict(kind, training)
                if verdict != Verdict() or number == len(several):
                    cell = in_cell(training.point) if len(several) > 1 else ""
                    path = f"{training.section}.{kind}.name"
                    self._keep(kind, name, verdict, how, path=path, cell=cell)
                    break

    def _verdict(self, kind: Literal["objective", "schedule"], training: _Training) -> Verdict:
        if training.facts is None:
            return Verdict(note="not tried: its data set does not say what its examples are")
        how = self._how()
        if kind == "objective":
            return how.try_objective(training.recipe, training.facts)
        return how.try_schedule(training.recipe, training.facts)

    def _try_metric(
        self,
        request: MetricRequest,
        item: Node,
        point: GridPoint,
        facts: DatasetFacts | None,
        num_seeds: int,
    ) -> None:
        if facts is None:
            self._notes.append(
                f"metric {request.name!r}: not tried: the data set does not say what its"
                " examples are"
            )
            return
        if request.of is not None:
            self._notes.append(
                f"metric {request.name!r}: not tried: it reads what other measurements leave"
            )
            return
        of_cell = max(request.min_trials, min(request.modes or num_seeds, _MOST_NETWORKS))
        count = {"trial": 1, "pair": 2, "cell": of_cell}[request.declared_over]
        keys = tuple(f"{index:032x}" for index in range(count))
        job = MetricJob(keys[0], request.part, keys)
        verdict = self._how().try_metric(job, [point.model] * count, facts)
        how = f"measured {counted(count, 'untrained network')} on 2 made-up examples"
        self._keep("metric", request.name, verdict, how, item)

    def _keep(
        self,
        kind: str,
        name: str,
        verdict: Verdict,
        how: str,
        item: Node | None = None,
        path: str = "",
        cell: str = "",
    ) -> None:
        if verdict.fault is not None:
            self._faulty.add((kind, name))
            where = self._place_of_item(item) if item else self._place(path or f"{kind}.name", name)
            self.diagnostics.add(*where, f"{kind} {name!r}: {verdict.fault}{cell}")
        elif verdict.note is not None:
            self._notes.append(f"{kind} {name!r}: {verdict.note}")
        else:
            self._lines.append(f"{kind} {name!r}: {how}")

    def _place_of_item(self, item: Node) -> tuple[Place, str]:
        key = next(iter(item.mapping.values())).key_place if item.mapping else None
        return key or item.place, "metrics"

    def _place(self, path: str, name: str) -> tuple[Place, str]:
        """Return the place of the name at a path: on an axis, or in its section."""
        for scale in self.scales:
            if scale.axis.path in (path, path.removesuffix(".name")):
                for node, value in zip(scale.nodes, scale.values, strict=True):
                    if _names(next(iter(value.values())), name):
                        return node.place, path
        return place_of(self.template, path), path

    def _how(self) -> Trials:
        assert self.trials is not None
        return self.trials()

    def _is_plugin(self, kind: str, name: str) -> bool:
        return any((one.kind, one.name) == (kind, name) for one in self.code)

    def _is_faulty(self, point: GridPoint) -> bool:
        parts = {("model", point.model.name), ("dataset", point.dataset.name)}
        return not parts.isdisjoint(self._faulty)


def _names(value: Json, name: str) -> bool:
    """Say whether a value of an axis, a name or a mapping with one, names a plug-in."""
    found = value["name"] if isinstance(value, Mapping) else value
    return isinstance(found, str) and identity(found) == name


def _firsts(things: Iterable[Thing], key: Callable[[Thing], Hashable]) -> list[Thing]:
    """Return the first of the things that share a key."""
    found: dict[Hashable, Thing] = {}
    for thing in things:
        found.setdefault(key(thing), thing)
    return list(found.values())
