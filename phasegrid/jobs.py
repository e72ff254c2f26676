"""Jobs: what can be trained and measured.

A *trial* is one training: a cell and a seed, fully resolved. A *metric job* is one measurement.
Both leave *artifacts*, named tensors that later jobs read: a trial leaves its weights; a
measurement may leave a curve or directions.

A job is identified by its key (`phasegrid.keys`). What cannot change the result (device, workers,
pack, retries, storage, the sweep's name, the place in the grid) is not part of the key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from phasegrid.keys import Json, stream_seed


@dataclass(frozen=True, slots=True)
class Part:
    """A named part of a job (a model, a data set or a metric), with all arguments resolved.

    `args` are hashed. `locators` (a data folder, whether to download) only say where to find the
    part, and are not hashed.
    """

    name: str
    version: int
    args: Mapping[str, Json]
    locators: Mapping[str, Json] = field(default_factory=dict)

    def spec(self) -> Json:
        """Return what is hashed."""
        return {"name": self.name, "version": self.version, "args": self.args}


WEIGHTS, AVERAGED, MOMENTS, OPTIMIZER = "weights", "averaged", "moments", "optimizer"
"""Artifacts of a trial: final weights; averaged weights and moments of weights, from a collector;
the state of the optimizer when weights were saved.
"""

Over: TypeAlias = Literal["trial", "pair", "cell", "trajectory", "across"]
"""What a metric is over: one trial, two, those of a cell or of several, or checkpoints of one."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Named tensors that a job leaves in the store.

    A trial leaves ``weights``, and checkpoints as ``weights@epoch-40`` or ``weights@update-900``;
    a measurement leaves what its metric declares (``curve``, ``directions``).
    """

    job: str
    name: str = WEIGHTS

    def spec(self) -> Json:
        """Return what is hashed."""
        return [self.job, self.name]


@dataclass(frozen=True, slots=True)
class Start:
    """What a training starts from: weights that another job left, and a fresh or the kept state of
    its optimizer.
    """

    artifact: Artifact
    optimizer: Literal["fresh", "kept"] = "fresh"

    def spec(self) -> Json:
        """Return what is hashed."""
        return {"artifact": self.artifact.spec(), "optimizer": self.optimizer}


@dataclass(frozen=True, slots=True)
class Trial:
    """One training. Without a `start` its network is initialised from the seed."""

    key: str
    dataset: Part
    model: Part
    recipe: Mapping[str, Json]
    seed: int
    start: Start | None = None

    @property
    def stream(self) -> int:
        """Return the seed of its random streams. A start is mixed in, so that the trial does not
        repeat the data order of the training that it continues.
        """
        if self.start is None:
            return self.seed
        artifact = self.start.artifact
        return stream_seed(self.seed, f"from/{artifact.job}/{artifact.name}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the keys of the jobs that must be stored before it can be trained."""
        return () if self.start is None else (self.start.artifact.job,)


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What all jobs of one request of a sweep have in common, besides the metric.

    - `name`: the name of the request in the sweep.
    - `over`: what the jobs are over; None for the metric's `over`.
    - `heavy`: each job has a pack of its own (`together`: all such jobs of a cell share one).
    - `of`: the name of the request whose jobs left what the jobs read.
    - `samples`: the jobs draw networks from moments of weights.
    - `depth`: the number of measurements on the longest path from a job to a trial.
    - `wanted`: the artifacts of a job that another job of the plan reads.
    - `asked`: in the words of the sweep, which networks a job has: places ``at`` along trials, the
      number of ``runs``, or the ``networks`` themselves; empty where its inputs say it.
    - `varied`: the arguments whose value is that of the cell, from an axis or ``couple``.
    """

    name: str | None = None
    over: Over | None = None
    heavy: bool = False
    together: bool = False
    of: str | None = None
    samples: bool = False
    depth: int = 0
    wanted: tuple[str, ...] = ()
    asked: Mapping[str, Json] = field(default_factory=dict)
    varied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricJob:
    """One measurement. Only its metric and its inputs are in its key.

    - `trials`: keys; those of the other measurements, if it reads artifacts of measurements.
    - `request`: one object for all jobs of a request, because a plan may hold a million jobs.
    - `reads`: the artifacts that it reads; empty for the final weights of its trials.
    - `on`: the networks behind what it reads, if not the final weights of its trials.
    """

    key: str
    metric: Part
    trials: tuple[str, ...]
    request: RequestFacts = RequestFacts()
    reads: tuple[Artifact, ...] = ()
    on: tuple[Artifact, ...] = ()

    @property
    def inputs(self) -> tuple[Artifact, ...]:
        """Return the artifacts that it reads."""
        return self.reads or tuple(Artifact(key) for key in self.trials)

    @property
    def networks(self) -> tuple[Artifact, ...]:
        """Return the weights of the networks that it measures, in order."""
        own = self.on if self.on or self.request.depth else self.reads
        return own or tuple(map(Artifact, self.trials))

    @property
    def sources(self) -> tuple[Artifact, ...]:
        """Return those of its inputs that are no weights: what other measurements left, or moments
        of weights.
        """
        return self.reads if self.request.depth > 0 or self.on else ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the keys of the jobs that must be stored before it can be measured."""
        if not self.reads:
            return self.trials
        return tuple(dict.fromkeys([*self.trials, *(artifact.job for artifact in self.reads)]))
