"""Turn the metric requests of a sweep into metric jobs: their trials, artifacts and keys. Pure.

A request is over the trials of a cell (one by one, in pairs or together), over the checkpoints
along a trial (``trajectory``), or over trials chosen ``across`` cells. A request ``of`` another one
reads the artifacts of its jobs, and has one job for each of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from phasegrid.config.types import MetricRequest
from phasegrid.jobs import AVERAGED, WEIGHTS, Artifact, MetricJob, Part, RequestFacts, Trial
from phasegrid.keys import Json, canonical_json, text_key

Text = Callable[[Mapping[str, Json]], str]
"""Returns the canonical JSON of arguments, written once for each object."""


def _ranks(places: Sequence[str]) -> list[int]:
    """Return for each place along a training how many of the others come before it: averages, then
    epochs by number, then updates by number.
    """

    def order(place: str) -> tuple[str, int]:
        unit, _, number = place.partition("-")
        return unit, int(number or 0)

    ordered = sorted(places, key=order)
    return [ordered.index(place) for place in places]


def choose_pairs(seeds: Sequence[int], how: str) -> list[tuple[int, int]]:
    """Choose pairs of positions: ``first`` two, ``ring`` (0,1), (1,2), ..., (n-1,0), or ``all``
    unordered pairs.

    In a pair the lower seed comes first, so that the same two trials are the same pair in every
    sweep.

    >>> choose_pairs([0, 1, 2], "ring")
    [(0, 1), (1, 2), (0, 2)]
    """
    count = len(seeds)
    if how == "first":
        pairs = [(0, 1)]
    elif how == "ring" and count > 2:
        pairs = [(i, (i + 1) % count) for i in range(count)]
    else:
        pairs = list(combinations(range(count), 2))
    return [(i, j) if seeds[i] < seeds[j] else (j, i) for i, j in pairs]


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
        self._texts = {id(request): self._text(request.part) for request in self.requests}
        for request in (self.requests[index] for index in self._order):
            self._facts[id(request)] = self._facts_of(request)

    def of_cell(
        self, of_stage: Mapping[str, Sequence[Trial]], seeds: tuple[int, ...]
    ) -> list[MetricJob]:
        """Return the jobs of a cell with the trials of these stages, in the order of the requests.
        A request without a stage measures the last one.
        """
        made: dict[int, list[MetricJob]] = {}
        *_, last = of_stage
        for index in self._order:
            request = self.requests[index]
            trials = of_stage[request.stage or last]
            if request.of is not None:
                made[index] = [self._reading(request, job) for job in made[request.of]]
            elif request.over == "trajectory":
                made[index] = [job for t in trials for job in self._along(request, t)]
            elif request.over == "across":
                made[index] = []
            else:
                made[index] = self._over(request, trials, seeds)
        return [job for index in range(len(self.requests)) for job in made[index]]

    def across(self, chosen: Callable[[MetricRequest], Sequence[Trial]]) -> list[MetricJob]:
        """Return the jobs over trials of several cells, in the order of the requests; `chosen`
        selects the trials of a request.
        """
        made: dict[int, list[MetricJob]] = {}
        for index in self._order:
            request = self.requests[index]
            if request.of is not None:
                upstream = made.get(request.of, [])
                made[index] = [self._reading(request, job) for job in upstream]
            elif request.over == "across":
                made[index] = self._over_chosen(request, chosen(request))
        return [job for index in range(len(self.requests)) for job in made.get(index, ())]

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

    def _over_chosen(self, request: MetricRequest, trials: Sequence[Trial]) -> list[MetricJob]:
        """Return the jobs over trials of several cells. They come in order of seed and key: the
        same trials are the same job in every sweep.
        """
        trials = list({trial.key: trial for trial in trials}.values())  # cells may share some
        groups: list[Sequence[Trial]] = [trials]
        if request.declared_over == "pair":
            pairs = choose_pairs(range(len(trials)), request.pairs or "all")
            groups = [[trials[i], trials[j]] for i, j in pairs]
        head = self._head(request, "trials")
        jobs = []
        for group in groups:
            keys = tuple(t.key for t in sorted(group, key=lambda t: (t.seed, t.key)))
            key = text_key(f'{head}["' + '","'.join(keys) + '"]}]')
            jobs.append(self._job(request, key, keys))
        return jobs

    def _along(self, request: MetricRequest, trial: Trial) -> list[MetricJob]:
        """Return the jobs over what a trial leaves along it."""
        at = [
            Artifact(trial.key, AVERAGED if place == AVERAGED else f"{WEIGHTS}@{place}")
            for place in request.at
        ]
        groups: list[tuple[Artifact, ...]] = [(one,) for one in at]
        if request.declared_over == "pair":
            pairs = choose_pairs(_ranks(request.at), request.pairs or "all")
            groups = [(at[i], at[j]) for i, j in pairs]
        elif request.declared_over == "cell":
            groups = [tuple(at)]
        return [
            self._job(request, self._key(request, group), (trial.key,), group) for group in groups
        ]

    def _reading(self, request: MetricRequest, job: MetricJob) -> MetricJob:
        """Return the job that reads the artifact of another measurement, over the same trials."""
        assert request.reads is not None
        reads = (Artifact(job.key, request.reads),)
        on = job.networks if job.reads else ()
        return self._job(request, self._key(request, reads), job.trials, reads, on)

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
        made = replace(made, wanted=request.wanted)
        if request.of is not None:
            source = self._facts[id(self.requests[request.of])]
            return replace(made, over=source.over, depth=source.depth + 1, together=False)
        return replace(made, together=False) if request.over == "across" else made

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
            chosen = range(len(seeds))[: request.modes]
            groups = [tuple(sorted(chosen, key=lambda i: seeds[i]))]
        self._groups[(id(request), seeds)] = groups
        return groups
