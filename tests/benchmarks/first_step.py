"""The digits and a perceptron that note when they are loaded, built and first trained, to time what
a run waits for.

Declared here, without torch; what they do is in first_step_network.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from phasegrid.declare import DatasetFacts, DatasetKind, Model
from phasegrid.keys import Json


@dataclass(frozen=True, slots=True)
class NoArgs:
    """Nothing to choose."""


def _facts(_args: Mapping[str, Json]) -> DatasetFacts:
    return DatasetFacts(1297, 500, (1, 8, 8), 10)


DIGITS = DatasetKind(args=NoArgs, load="tests.benchmarks.first_step_network:load", facts=_facts)
MLP = Model(args=NoArgs, make="tests.benchmarks.first_step_network:make")
