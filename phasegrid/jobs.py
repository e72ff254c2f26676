"""What a job is.

A *trial* is one training: a cell and a seed, fully resolved. A *metric job* measures what other
jobs have left: their *artifacts*. A trial leaves its weights; a measurement may leave more (a
curve, directions).

A job is called by its key (`phasegrid.keys`). What cannot change the answer (device, workers, pack,
retries, storage, the sweep's name, the place in the grid) is not in it. Standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from phasegrid.keys import Json, stream_seed


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

AVERAGED = "averaged"
MOMENTS = "moments"
"""The names of what a trial's collector leaves: a network, and the moments of its weights."""

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
