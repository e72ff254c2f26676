"""Count the work in the jobs of a cell, once for each model and data set."""

import math
from collections.abc import Mapping

from phasegrid.config.types import GridPoint
from phasegrid.estimates import Workload
from phasegrid.jobs import Part
from phasegrid.keys import Json
from phasegrid.models.counting import count_work


class Workloads:
    """The workloads of points, by their data set and model.

    These are told apart by identity and kept alive here, so an id is never reused.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[GridPoint, Workload | None]] = {}

    def of(self, point: GridPoint) -> Workload | None:
        """Return the workload of the jobs of a point; None if a plug-in does not say."""
        place = (id(point.dataset), id(point.model))
        if place not in self._known:
            self._known[place] = (point, _count(point))
        return self._known[place][1]


def _count(point: GridPoint) -> Workload | None:
    facts = point.facts
    if facts is None:
        return None
    args: Mapping[str, Json] = point.model.args
    counts = count_work(Part(point.model.name, point.model.version, args), facts)
    if counts is None:
        return None
    size, labels = math.prod(facts.input_shape), facts.labels_per_example
    sets = facts.num_train, facts.num_test, facts.num_classes
    parameters, flops, activations, layers = counts
    return Workload(*sets, parameters, flops, activations, size, labels, facts.num_aside, layers)
