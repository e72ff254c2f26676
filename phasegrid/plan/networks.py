"""Find the networks that the jobs of a request measure. Pure.

A network is the artifact of a trial that holds its weights. In place of networks that are drawn
there are the moments of their weights.
"""

from collections.abc import Sequence
from itertools import chain

from phasegrid.config.networks import choose_pairs
from phasegrid.config.places import Training, artifact_at, places_in
from phasegrid.config.types import MetricRequest
from phasegrid.declare import DatasetFacts
from phasegrid.jobs import AVERAGED, MOMENTS, Artifact, Over, Trial
from phasegrid.plan.contents import Cell

Networks = Sequence[Artifact]
"""Weights of networks, in order."""


def networks_of(trial: Trial, at: Sequence[str], facts: DatasetFacts | None) -> list[Artifact]:
    """Return the networks of a trial at places along it; its final weights if there are none."""
    if not at:
        return [Artifact(trial.key)]
    places = places_in(at, Training("", trial.recipe, facts))
    return [Artifact(trial.key, artifact_at(place)) for place in places]


def behind(reads: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
    """Return the networks behind moments: the mean of each; none if weights themselves are read."""
    if not any(artifact.name == MOMENTS for artifact in reads):
        return ()
    return tuple(Artifact(artifact.job, AVERAGED) for artifact in reads)


def ranks(networks: Networks) -> list[int]:
    """Return for each network along a training how many of the others come before it: averages,
    then those after epochs by number, then those after updates by number.
    """

    def order(network: Artifact) -> tuple[str, int]:
        unit, _, number = network.name.partition("-")
        return unit, int(number or 0)

    ordered = sorted(networks, key=order)
    return [ordered.index(network) for network in networks]


def at_places(along: Sequence[Networks], over: Over) -> list[Networks]:
    """Return the groups of networks of some trials: those of each place by themselves, or all."""
    if over == "cell":
        return [list(chain.from_iterable(along))]
    return [list(group) for group in zip(*along, strict=True)]


def named_networks(
    request: MetricRequest, cells: Sequence[Cell], facts: Sequence[DatasetFacts | None]
) -> list[Networks]:
    """Return the networks that a request names in cells, as one group."""
    found: list[Artifact] = []
    for one in request.networks:
        assert one.cell is not None
        trial = cells[one.cell].trials_of(one.stage)[one.seed]
        found += networks_of(trial, one.at, facts[one.cell])
    return [found]


def chosen_networks(
    request: MetricRequest, cells: Sequence[Cell], facts: Sequence[DatasetFacts | None]
) -> list[Networks]:
    """Return the groups of networks of the trials that a request chooses across cells. Each group
    is in order of seed and key: the same networks are the same job in every sweep.
    """
    trials: dict[str, tuple[Trial, DatasetFacts | None]] = {}
    for cell, place in request.chosen:
        trial = cells[cell].trials_of(request.stage)[place]
        trials.setdefault(trial.key, (trial, facts[cell]))  # cells may share some
    found = list(trials.values())
    groups: list[Sequence[tuple[Trial, DatasetFacts | None]]] = [found]
    if request.declared_over == "pair":
        pairs = choose_pairs(range(len(found)), request.pairs or "all")
        groups = [[found[i], found[j]] for i, j in pairs]
    over: Over = "pair" if request.declared_over == "pair" else "cell"
    made = []
    for group in groups:
        ordered = sorted(group, key=lambda one: (one[0].seed, one[0].key))
        made += at_places([networks_of(t, request.at, data) for t, data in ordered], over)
    return made
