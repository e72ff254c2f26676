"""What a job is and what it is called.

A *cell* is one (load, temperature) point of one facet. A *trial* is one training: a cell and a
seed, fully resolved. A *metric job* measures what other jobs have left: their *artifacts*. A trial
leaves its weights; a measurement may leave more (a curve, directions). A *pack* is a list of jobs
that one process does together; it is how work is scheduled and never part of a job's identity.

A job's key is the first 32 hexadecimal digits of the SHA-256 of ``[kind, version, resolved
specification]`` as canonical JSON. What cannot change the answer (device, workers, pack, retries,
storage, the sweep's name, the place in the grid) is not in it. Standard library only.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

KEY_DIGITS = 32


def canonical_json(value: Json) -> str:
    """Write `value` as the one JSON text that stands for it: sorted keys, no spaces, shortest
    floats.

    An integral float is written as a float (``1.0``), so a value must be coerced to its declared
    type first.

    Raises:
        ValueError: for NaN or an infinity, which JSON does not have.
        TypeError: for anything that is not JSON.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def as_label(value: Json) -> str | None:
    """Return a value of an axis as text: text itself, null as None, anything else as canonical
    JSON.
    """
    if value is None or isinstance(value, str):
        return value
    return canonical_json(value)


def text_key(text: str) -> str:
    """Return the key of a specification that is already canonical JSON text."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def content_key(kind: str, version: int, spec: Json) -> str:
    """Return the key of a job: 32 hexadecimal digits of SHA-256 over canonical JSON.

    >>> content_key("trial", 1, {"seed": 0}) == content_key("trial", 1, {"seed": 1})
    False
    """
    return text_key(canonical_json([kind, version, spec]))


def stream_seed(seed: int | str, stream: str) -> int:
    """Derive the 63-bit seed of a named random stream from a trial's seed or a job's key.

    Streams of one trial (``init``, ``order``, ``augment``) are independent of each other and of
    every other trial's, whatever ran before them.
    """
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, slots=True)
class Part:
    """A named thing of a trial or a metric job, every argument resolved.

    `args` is hashed. `locators` (a data folder, whether to download) say where to find the thing
    and are not.
    """

    name: str
    version: int
    args: Mapping[str, Json]
    locators: Mapping[str, Json] = field(default_factory=dict)

    def spec(self) -> Json:
        """Return what is hashed."""
        return {"name": self.name, "version": self.version, "args": self.args}


WEIGHTS = "weights"
"""The name of the artifact that every training leaves: the weights that the trial is known by."""

OPTIMIZER = "optimizer"
"""The name of the artifact that holds what a trial's optimizer remembered at its weights."""


Over: TypeAlias = Literal["trial", "pair", "cell", "trajectory", "across"]
"""What a measurement is over: a trial, a pair of trials or all of a cell, the checkpoints along a
trial, or trials of several cells.
"""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Named tensors that a job leaves in the store.

    A trial leaves ``weights``, and checkpoints along it ``weights@epoch-40`` or
    ``weights@update-900``. What a measurement leaves its metric declares (``curve``,
    ``directions``).
    """

    job: str
    name: str = WEIGHTS

    def spec(self) -> Json:
        """Return what is hashed."""
        return [self.job, self.name]


@dataclass(frozen=True, slots=True)
class Start:
    """What a training starts from: weights that another job left, and a fresh optimizer, or the
    other training's, kept as it was.
    """

    artifact: Artifact
    optimizer: Literal["fresh", "kept"] = "fresh"

    def spec(self) -> Json:
        """Return what is hashed."""
        return {"artifact": self.artifact.spec(), "optimizer": self.optimizer}


@dataclass(frozen=True, slots=True)
class Trial:
    """One training: what to train on, what to train, how, the seed, and what it starts from (None:
    a network initialised from the seed).
    """

    key: str
    dataset: Part
    model: Part
    recipe: Mapping[str, Json]
    seed: int
    start: Start | None = None

    @property
    def stream(self) -> int:
        """Return the seed that its streams of random numbers derive from: its own, or, where it
        starts from another training, one of its own seed and that start, so that it does not see
        the order of that training again.
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
class MetricJob:
    """One measurement: a metric with its arguments, over trials named by their keys.

    `reads` are the artifacts that it reads; none stands for the final weights of its trials. Where
    it reads what other measurements left, `trials` are those that these were about, and `depth`
    counts the measurements on the longest way to a trial. `wanted` names those artifacts of its own
    that another job of the plan reads. `over` says what it is over where that is not what its
    metric is over by itself, `request` what the sweep calls the request that it is of. A `heavy`
    one trains something: it gets a pack of its own, or, where a metric can do them `together`, one
    with the others of its cell. Of all this only metric and inputs are in the key.
    """

    key: str
    metric: Part
    trials: tuple[str, ...]
    heavy: bool = False
    together: bool = False
    reads: tuple[Artifact, ...] = ()
    depth: int = 0
    wanted: tuple[str, ...] = ()
    over: Over | None = None
    request: str | None = None

    @property
    def inputs(self) -> tuple[Artifact, ...]:
        """Return the artifacts that it reads."""
        return self.reads or tuple(Artifact(key) for key in self.trials)

    @property
    def networks(self) -> tuple[Artifact, ...]:
        """Return the weights of the networks that it is about, in order."""
        return self.reads if self.depth == 0 and self.reads else tuple(map(Artifact, self.trials))

    @property
    def sources(self) -> tuple[Artifact, ...]:
        """Return those of its inputs that other measurements left."""
        return self.reads if self.depth > 0 else ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the keys of the jobs that must be stored before it can be measured."""
        if self.depth == 0:
            return self.trials
        return tuple(dict.fromkeys([*self.trials, *(artifact.job for artifact in self.reads)]))


@dataclass(frozen=True, slots=True)
class Workload:
    """What a cell's jobs are made of, for predicting their cost: examples, classes, parameters,
    forward FLOPs of one example (a multiply-add counts 2), numbers of one that a backward pass
    keeps, numbers that one consists of, labels of one.
    """

    num_train: int
    num_test: int
    num_classes: int
    num_parameters: int
    forward_flops: int
    activations: int = 0
    input_size: int = 0
    labels_per_example: float = 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid with its trials (in the order of the seeds) and its metric jobs.

    Where the sweep has several `stages`, it has the trials of each, one stage after the other.
    `facet` holds (path, value) pairs; `load` and `temperature` are None where the sweep has no such
    axis; `work` is None where the model or the data set is a plug-in that does not say.
    """

    index: int
    facet: tuple[tuple[str, Json], ...]
    load: Json
    temperature: Json
    trials: tuple[Trial, ...]
    metric_jobs: tuple[MetricJob, ...]
    work: Workload | None = None
    stages: tuple[str, ...] = ()

    def trials_of(self, stage: str | None = None) -> tuple[Trial, ...]:
        """Return the trials of a stage, in the order of the seeds; None: of the last."""
        if not self.stages:
            return self.trials
        num = len(self.trials) // len(self.stages)
        place = len(self.stages) - 1 if stage is None else self.stages.index(stage)
        return self.trials[num * place : num * (place + 1)]

    def staged(self) -> Iterator[tuple[str | None, Trial]]:
        """Yield every trial with its stage; None where the sweep has but one."""
        for stage in self.stages or (None,):
            for trial in self.trials_of(stage):
                yield stage, trial


@dataclass(frozen=True, slots=True)
class Plan:
    """Every cell of a sweep, with the paths of its axes and what the sweep calls them (path,
    label).

    `across` are the measurements over trials of several cells. They belong to the sweep and to no
    cell; each stands with the index of the cell of its first trial, where it is scheduled.
    """

    sweep: str
    load_path: str | None
    temperature_path: str | None
    cells: tuple[Cell, ...]
    axis_names: tuple[tuple[str, str], ...] = ()
    across: tuple[tuple[int, MetricJob], ...] = ()

    def metric_jobs(self) -> Iterator[tuple[Cell, MetricJob]]:
        """Yield every measurement with the cell that it is scheduled with: those of the cells, then
        those across cells.
        """
        for cell in self.cells:
            for job in cell.metric_jobs:
                yield cell, job
        for index, job in self.across:
            yield self.cells[index], job


@dataclass(frozen=True, slots=True)
class Layout:
    """What a pack was laid out to do, some of which may be stored by now.

    Shapes of what is computed together follow from this and not from what is missing, so that a run
    that goes on rounds as one that was never interrupted. `trials` are those of a training pack, in
    order; `groups` are measurements that one computation does; `cost_s` is what all of it was
    predicted to take.
    """

    trials: tuple[Trial, ...] = ()
    groups: tuple[tuple[MetricJob, ...], ...] = ()
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pack:
    """Jobs that one process does together.

    `kind` is ``train`` or ``measure``. `key` names the pack for logs and snapshots; it is derived
    from the keys of its jobs. `needs` are the keys of the jobs that must be stored before it can
    start. `trials` are the trials to train (``train``) or those the metric jobs, and those of their
    groups, are about (``measure``). `layout` None: these jobs are all, torn from what they were
    laid out with.
    """

    key: str
    kind: Literal["train", "measure"]
    cell: int
    trials: tuple[Trial, ...]
    metric_jobs: tuple[MetricJob, ...] = ()
    needs: tuple[str, ...] = ()
    cost_s: float = 0.0
    layout: Layout | None = None

    @property
    def jobs(self) -> "tuple[Trial, ...] | tuple[MetricJob, ...]":
        """Return the jobs this pack does."""
        return self.trials if self.kind == "train" else self.metric_jobs

    def job_keys(self) -> tuple[str, ...]:
        """Return the keys of the jobs this pack does."""
        return tuple(job.key for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one job of a pack ended; small enough to travel through any executor.

    `status` is ``done``, ``diverged`` (a result), ``not_applicable`` (a metric over a diverged
    trial; a result), ``already`` (it was stored before) or ``failed``. `error` holds exception and
    traceback of a failure. The first outcome of a pack says what of the pack was done another way
    because the first way failed (`fallbacks`).
    """

    key: str
    status: Literal["done", "diverged", "not_applicable", "already", "failed"]
    seconds: float = 0.0
    error: str | None = None
    kind: Literal["app", "infra", "oom"] | None = None
    fallbacks: tuple[str, ...] = ()


def needs_of(jobs: "Iterable[Trial | MetricJob]") -> tuple[str, ...]:
    """Return the keys of the jobs that must be stored before these can be done."""
    return tuple(dict.fromkeys(key for job in jobs for key in job.needs))


def is_finite_number(value: object) -> bool:
    """Say whether `value` is a number (not a bool) that is neither NaN nor infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
