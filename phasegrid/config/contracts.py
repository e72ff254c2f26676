"""Try every plug-in of a sweep once before planning; faults of plug-ins are mistakes of the sweep.

This module chooses what to try, without torch. The caller passes in how to try it, as `Trials`,
which is made only if there is a plug-in. Each plug-in is tried with the arguments of the first cell
that names it.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.template import TrialTemplate, place_of
from phasegrid.config.types import GridPoint, MetricRequest, Tried, UserCode
from phasegrid.config.yaml import Node, Place
from phasegrid.declare import DatasetFacts
from phasegrid.jobs import MetricJob, Part
from phasegrid.registry import identity

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

    def try_metric(
        self, job: MetricJob, networks: Sequence[Part], facts: DatasetFacts, /
    ) -> Verdict:
        """Measure untrained networks."""


@dataclass(slots=True)
class Trier:
    """Tries the plug-ins among `code`; notes mistakes in `diagnostics`, at the place where the
    sweep names the plug-in.
    """

    code: Sequence[UserCode]
    template: TrialTemplate
    names_on_axes: Mapping[str, Sequence[Node]]
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
        """Try data sets, networks and metrics; `items` are the nodes of `metrics`."""
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
        how = f"measured {count} untrained network{'s' * (count > 1)} on 2 made-up examples"
        self._keep("metric", request.name, verdict, how, item)

    def _keep(
        self, kind: str, name: str, verdict: Verdict, how: str, item: Node | None = None
    ) -> None:
        if verdict.fault is not None:
            self._faulty.add((kind, name))
            self.diagnostics.add(
                *self._place(kind, name, item), f"{kind} {name!r}: {verdict.fault}"
            )
        elif verdict.note is not None:
            self._notes.append(f"{kind} {name!r}: {verdict.note}")
        else:
            self._lines.append(f"{kind} {name!r}: {how}")

    def _place(self, kind: str, name: str, item: Node | None) -> tuple[Place, str]:
        if item is not None:
            key = next(iter(item.mapping.values())).key_place if item.mapping else None
            return key or item.place, "metrics"
        path = f"{kind}.name"
        for node in self.names_on_axes.get(path, ()):
            if isinstance(node.value, str) and identity(node.value) == name:
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


def _firsts(things: Iterable[Thing], key: Callable[[Thing], Hashable]) -> list[Thing]:
    """Return the first of the things that share a key."""
    found: dict[Hashable, Thing] = {}
    for thing in things:
        found.setdefault(key(thing), thing)
    return list(found.values())
