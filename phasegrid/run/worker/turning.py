"""Do several measurements of one metric side by side on a GPU, each in a lane."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import Metric, import_function
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import MetricJob
from phasegrid.metrics.network.turns import MOST, Work, in_turn
from phasegrid.packs import Outcome, Pack
from phasegrid.run.stopping import ShouldStop
from phasegrid.run.worker.failing import failed, raise_if_of_no_job
from phasegrid.run.worker.inputs import JobInputs, arguments_of, generator_of
from phasegrid.train.lanes import Lanes


def can_take_turns(metric: Metric, jobs: Sequence[MetricJob], device: torch.device) -> bool:
    """Say whether jobs of a metric are measured side by side."""
    turns = metric.by_turns is not None and not any(job.sources for job in jobs)
    return turns and device.type == "cuda"


@dataclass(frozen=True, slots=True)
class Turning:
    """Measurements of one metric in lanes; each is published as it ends. `outcomes` are by key."""

    pack: Pack
    inputs: JobInputs
    metric: Metric
    lanes: Lanes
    should_stop: ShouldStop
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def measure(self, jobs: Sequence[MetricJob]) -> dict[str, Outcome]:
        """Measure jobs side by side and return their outcomes by key.

        A job that fails fails alone. Those have no outcome that were not begun because
        `should_stop` said so, or, where memory ran out for one alone, were not done before.
        """
        alike: dict[object, list[MetricJob]] = {}
        for job in jobs:
            alike.setdefault(self.inputs.data_and_objective(job), []).append(job)
        for several in alike.values():
            networks = list(dict.fromkeys(network for job in several for network in job.networks))
            places = [[networks.index(network) for network in job.networks] for job in several]
            try:
                self.inputs.watched(several[0], networks, partial(self._measure, several, places))
            except torch.OutOfMemoryError as error:
                name = several[0].metric.name
                fall_back(f"jobs of {name} were done one by one, because memory ran out", error)
        return self.outcomes

    def _measure(
        self,
        jobs: Sequence[MetricJob],
        places: Sequence[Sequence[int]],
        models: Sequence[nn.Module],
        data: Dataset,
    ) -> None:
        """Measure jobs whose networks have these `places` among all `models`."""
        works = [
            partial(self._one, job, own, models, data)
            for job, own in zip(jobs, places, strict=True)
        ]
        in_turn(works, self.lanes)

    def _one(
        self, job: MetricJob, places: Sequence[int], models: Sequence[nn.Module], data: Dataset
    ) -> Work[None]:
        if self.should_stop():
            return
        assert self.metric.by_turns is not None
        compute: Callable[..., Work[object]] = import_function(self.metric.by_turns)
        started = self.lanes.now()
        try:
            own, rng = [models[place] for place in places], generator_of(job.key)
            rows = yield from compute(own, data, rng, **arguments_of(job, self.metric))
            seconds = self.lanes.now() - started
            self.outcomes[job.key] = self.inputs.publish(self.metric, job, rows, seconds)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise_if_of_no_job(error)
            self.outcomes[job.key] = failed(self.inputs.store, self.pack, job.key, error)


def new_lanes(device: torch.device) -> Lanes:
    """Return the lanes of the measurements of a process."""
    return Lanes(device, MOST)
