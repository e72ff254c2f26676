"""Turn the metric requests of a sweep into metric jobs: their trials, artifacts and keys. Pure.

A request is over the trials of a cell (one by one, in pairs or together), over the checkpoints
along a trial (``trajectory``), over trials chosen ``across`` cells, or over the networks that it
names. A network is the artifact of a trial that holds its weights. A request ``of`` another one
reads the artifacts of its jobs, and has one job for each of them, or for several that it joins. A
request `through` another metric reads what that metric leaves of each network; these jobs come with
it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TypeVar

from phasegrid.config.networks import choose_pairs
from phasegrid.config.types import MetricRequest
from phasegrid.declare import DatasetFacts
from phasegrid.jobs import WEIGHTS, Artifact, MetricJob, Part, RequestFacts, Trial
from phasegrid.keys import Json, canonical_json, text_key
from phasegrid.plan.contents import Cell
from phasegrid.plan.networks import (
    Networks,
    at_places,
    behind,
    chosen_networks,
    named_networks,
    networks_of,
    ranks,
)

T = TypeVar("T")

Text = Callable[[Mapping[str, Json]], str]
"""Returns the canonical JSON of arguments, written once for each object."""


def _on(job: MetricJob) -> tuple[Artifact, ...]:
    """Return the networks of a measurement; none for the final weights of its trials."""
    return job.networks if job.reads else ()


def _in_order(
    made: Mapping[int, Sequence[MetricJob]], first: Mapping[str, MetricJob]
) -> list[MetricJob]:
    """Return jobs in the order of their requests, after those of `first` that no request names."""
    named = [job for index in sorted(made) for job in made[index]]
    keys = {job.key for job in named} if first else set()
    return [job for key, job in first.items() if key not in keys] + named


def _without(first: Mapping[str, MetricJob], cells: Sequence[Cell]) -> dict[str, MetricJob]:
    """Return those jobs that no cell has."""
    planned = {job.key for cell in cells for job in cell.metric_jobs}
    return {key: job for key, job in first.items() if key not in planned}


def in_order_of_need(requests: Sequence[MetricRequest]) -> list[int]:
    """Return the positions of requests, ordered so that each comes after the one that it reads."""
    ordered: list[int] = []

    def place(index: int) -> None:
        if index in ordered:
            return
        of = requests[index].of
        if of is not None:
            place(of)
        ordered.append(index)

    for index in range(len(requests)):
        place(index)
    return ordered


@dataclass(slots=True)
class Measurements:
    """Makes the metric jobs of a sweep's requests; the positions of their trials are computed once
    for all cells.
    """

    requests: Sequence[MetricRequest]
    text: Text
    _order: list[int] = field(init=False)
    _facts: dict[int, RequestFacts] = field(default_factory=dict)
    _texts: dict[int, tuple[str, str]] = field(init=False)
    _groups: dict[tuple[int, tuple[int, ...]], list[tuple[int, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._order = in_order_of_need(self.requests)
        ordered = [self.requests[index] for index in self._order]
        every = [one for request in ordered for one in (request.through, request) if one]
        self._texts = {id(request): self._text(request.part) for request in every}
        for request in every:
            self._facts[id(request)] = self._facts_of(request)

    def of_cell(
        self,
        of_stage: Mapping[str, Sequence[Trial]],
        seeds: tuple[int, ...],
        facts: DatasetFacts | None = None,
    ) -> list[MetricJob]:
        """Return the jobs of a cell with the trials of these stages, in the order of the requests.
        A request without a stage measures the last one. `facts` are those of its data.
        """
        made: dict[int, list[MetricJob]] = {}
        first: dict[str, MetricJob] = {}
        *_, last = of_stage
        for index in self._order:
            request = self.requests[index]
            trials = of_stage[request.stage or last]
            if request.of is not None:
                upstream: Sequence[MetricJob] = made[request.of]
                upstream = _in_order_of_seeds(upstream, of_stage) if request.joins else upstream
                made[index] = self._of(request, upstream, first)
            elif request.over == "across":
                made[index] = []
            elif request.networks:
                named = [
                    networks_of(of_stage[one.stage or last][one.seed], one.at, facts)
                    for one in request.networks
                ]
                found = [self._measuring(request, list(chain.from_iterable(named)))]
                made[index] = self._through(request, found, first)
            elif request.at:
                along = [networks_of(trial, request.at, facts) for trial in trials]
                made[index] = self._through(request, self._along(request, along, seeds), first)
            else:
                made[index] = self._through(request, self._over(request, trials, seeds), first)
        return _in_order(made, first)

    def across(
        self, cells: Sequence[Cell], facts: Sequence[DatasetFacts | None]
    ) -> list[MetricJob]:
        """Return the jobs over networks of several cells, in the order of the requests; `facts` are
        those of the data of each cell.
        """
        made: dict[int, list[MetricJob]] = {}
        first: dict[str, MetricJob] = {}
        for index in self._order:
            request = self.requests[index]
            if request.of is not None:
                made[index] = self._of(request, made.get(request.of, []), first)
            elif request.over == "across":
                choose = named_networks if request.networks else chosen_networks
                groups = choose(request, cells, facts)
                found = [self._measuring(request, group) for group in groups]
                made[index] = self._through(request, found, first)
        if first:
            first = _without(first, cells)
        return _in_order(made, first)

    def over(self, request: MetricRequest, networks: Networks) -> list[MetricJob]:
        """Return the job of a request over these networks, after the jobs whose artifacts it
        reads.
        """
        first: dict[str, MetricJob] = {}
        jobs = self._through(request, [self._measuring(request, networks)], first)
        return [*first.values(), *jobs]

    def _over(
        self, request: MetricRequest, trials: Sequence[Trial], seeds: tuple[int, ...]
    ) -> list[MetricJob]:
        """Return the jobs over the final weights of the trials of a cell: the common case, written
        to be fast.
        """
        head, part = self._head(request, "trials"), request.part
        facts = self._facts[id(request)]
        jobs, every = [], [trial.key for trial in trials]
        for group in self._positions(request, seeds):
            keys = tuple([every[i] for i in group])
            key = text_key(f'{head}["' + '","'.join(keys) + '"]}]')
            jobs.append(MetricJob(key, part, keys, facts))
        return jobs

    def _along(
        self, request: MetricRequest, along: Sequence[Networks], seeds: tuple[int, ...]
    ) -> list[MetricJob]:
        """Return the jobs over networks `along` each trial of a cell."""
        groups: list[Networks]
        if request.over != "trajectory":
            chosen = [[along[i] for i in group] for group in self._positions(request, seeds)]
            groups = [group for each in chosen for group in at_places(each, request.over)]
        elif request.declared_over == "pair":
            how = request.pairs or "all"
            groups = [[t[i], t[j]] for t in along for i, j in choose_pairs(ranks(t), how)]
        elif request.declared_over == "cell":
            groups = list(along)
        else:
            groups = [[network] for networks in along for network in networks]
        return [self._measuring(request, group) for group in groups]

    def _measuring(self, request: MetricRequest, networks: Networks) -> MetricJob:
        """Return the job over some networks. If all of them are final weights of trials, it has the
        key that it has in a request without places.
        """
        trials = tuple(dict.fromkeys(network.job for network in networks))
        if all(network.name == WEIGHTS for network in networks):
            head = self._head(request, "trials")
            return self._job(request, text_key(f"{head}{canonical_json(list(trials))}}}]"), trials)
        reads = tuple(networks)
        return self._job(request, self._key(request, reads), trials, reads, behind(reads))

    def _of(
        self, request: MetricRequest, upstream: Sequence[MetricJob], first: dict[str, MetricJob]
    ) -> list[MetricJob]:
        """Return the jobs that read the artifact of each job of another request, or of several of
        them.
        """
        sources = upstream
        if request.through is not None:
            sources = [self._reading(request.through, [job], job, _on(job)) for job in upstream]
            first.update({job.key: job for job in sources})
        if not request.joins or not sources:
            return [self._reading(request, [job], job, _on(job)) for job in sources]
        return [self._joining(request, group) for group in _cut(sources, request.runs)]

    def _joining(self, request: MetricRequest, sources: Sequence[MetricJob]) -> MetricJob:
        """Return the job that reads the artifacts of several measurements of a cell; behind it are
        the networks of each, one after another.
        """
        assert request.reads is not None
        reads = tuple([Artifact(source.key, request.reads) for source in sources])
        trials = tuple(dict.fromkeys(chain.from_iterable(source.trials for source in sources)))
        on = tuple(chain.from_iterable(source.networks for source in sources))
        return self._job(request, self._key(request, reads), trials, reads, on)

    def _through(
        self, request: MetricRequest, jobs: Sequence[MetricJob], first: dict[str, MetricJob]
    ) -> list[MetricJob]:
        """Return the jobs of a request that read what another metric leaves of each of their
        networks, and note the jobs of that metric in `first`; as they are if there is none.
        """
        if request.through is None:
            return [*jobs]
        found = []
        for job in jobs:
            sources = [self._measuring(request.through, [network]) for network in job.inputs]
            first.update({source.key: source for source in sources})
            found.append(self._reading(request, sources, job, job.on or job.reads))
        return found

    def _reading(
        self,
        request: MetricRequest,
        sources: Sequence[MetricJob],
        over: MetricJob,
        on: tuple[Artifact, ...],
    ) -> MetricJob:
        """Return the job that reads the artifacts of other measurements, over the trials of `over`
        and the networks `on`.
        """
        assert request.reads is not None
        reads = tuple([Artifact(source.key, request.reads) for source in sources])
        return self._job(request, self._key(request, reads), over.trials, reads, on)

    def _job(
        self,
        request: MetricRequest,
        key: str,
        trials: tuple[str, ...],
        reads: tuple[Artifact, ...] = (),
        on: tuple[Artifact, ...] = (),
    ) -> MetricJob:
        return MetricJob(key, request.part, trials, self._facts[id(request)], reads, on)

    def _facts_of(self, request: MetricRequest) -> RequestFacts:
        """Return what the jobs of a request have in common. What a request reads is known before;
        only jobs over a cell's own trials are done together.
        """
        made = RequestFacts(request.id, request.over, request.heavy, request.together)
        made = replace(made, wanted=request.wanted, asked=request.asked, varied=request.varied)
        source = None if request.of is None else self._facts[id(self.requests[request.of])]
        depth = 0 if source is None else source.depth + 1
        if source is not None:
            assert request.of is not None
            asked = {key: value for key, value in source.asked.items() if key == "runs"}
            made = replace(made, over=source.over, asked=asked, of=self.requests[request.of].id)
        if request.joins:
            made = replace(made, over="cell", asked={"runs": request.runs or "all"})
        depth += request.through is not None
        if depth or request.over == "across":
            return replace(made, depth=depth, together=False)
        return made

    def _key(self, request: MetricRequest, reads: Sequence[Artifact]) -> str:
        return text_key(self._head(request, "inputs", canonical_json([a.spec() for a in reads])))

    def _head(self, request: MetricRequest, kind: str, inputs: str | None = None) -> str:
        """Return the hashed text of a job: the part before its trials, or all of it with its
        `inputs`.
        """
        args, name = self._texts[id(request)]
        if inputs is None:
            return f'{args}{name},"{kind}":'
        return f'{args}"{kind}":{inputs},{name}}}]'

    def _text(self, part: Part) -> tuple[str, str]:
        """Return the hashed text of a metric: the part up to its arguments, and its name."""
        args = f'["metric",{part.version},{{"args":{self.text(part.args)},'
        return args, f'"name":{canonical_json(part.name)}'

    def _positions(self, request: MetricRequest, seeds: tuple[int, ...]) -> list[tuple[int, ...]]:
        known = self._groups.get((id(request), seeds))
        if known is not None:
            return known
        groups: list[tuple[int, ...]]
        if request.over == "trial":
            groups = [(i,) for i in range(len(seeds))]
        elif request.over == "pair":
            groups = list(choose_pairs(seeds, request.pairs or "all"))
        else:
            ordered = sorted(range(len(seeds))[: request.modes], key=lambda i: seeds[i])
            groups = [tuple(group) for group in _cut(ordered, request.runs)]
        self._groups[(id(request), seeds)] = groups
        return groups


def _cut(ordered: Sequence[T], runs: int | None) -> list[Sequence[T]]:
    """Cut into groups of so many, without a shorter rest (None: one group of all)."""
    num = runs or len(ordered)
    return [ordered[i : i + num] for i in range(0, len(ordered) - num + 1, num)]


def _in_order_of_seeds(
    jobs: Sequence[MetricJob], of_stage: Mapping[str, Sequence[Trial]]
) -> list[MetricJob]:
    """Return the jobs of a cell in order of the seeds of their trials, in whichever order a sweep
    lists these.
    """
    seeds = {trial.key: trial.seed for trials in of_stage.values() for trial in trials}
    return sorted(jobs, key=lambda job: [seeds[key] for key in job.trials])
