"""What a sweep is once it is read: everything resolved, nothing left to look up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import DatasetFacts, FigureRequest
from phasegrid.jobs import Over, Part
from phasegrid.keys import Json
from phasegrid.user_code import Code


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the grid: the dotted path it varies, and its values, resolved, in the order
    given.
    """

    path: str
    values: tuple[Json, ...]
    role: Literal["load", "temperature", "facet"]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class MetricRequest:
    """One metric to compute. `pairs` is set for metrics of pairs; `modes` (the first so many trials
    of a cell, None: all) is for metrics of cells. `together`: several jobs of a cell can be done by
    one call. `takes`: the data it is for.

    `over` is what the sweep asks for, `declared_over` what the metric is over by itself. `at` are
    the epochs of a trajectory, `chosen` the trials across cells, each by its cell and its place
    among the seeds. `of` is the place of the request whose artifacts, called `reads`, it reads;
    `wanted` names the artifacts of its own that others read; `id` is what the sweep calls it.
    `stage` is the training whose trials it is about, None: the last.
    """

    name: str
    part: Part
    over: Over
    pairs: Literal["first", "ring", "all"] | None
    modes: int | None
    heavy: bool
    min_trials: int
    together: bool = False
    takes: str = "any"
    declared_over: Literal["trial", "pair", "cell", "artifact"] = "trial"
    id: str | None = None
    of: int | None = None
    reads: str | None = None
    wanted: tuple[str, ...] = ()
    at: tuple[int, ...] = ()
    chosen: tuple[tuple[int, int], ...] = ()
    stage: str | None = None


FIRST_STAGE = "train"
"""The name of the first training of a cell, that of the section ``train``."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A further training of every cell. It starts from what the stage `source` leaves: its final
    weights, or those `at` a checkpoint (``epoch-40``, ``update-900``), with a fresh optimizer or
    with that of `source`, as it was then. Its recipe is that of ``train`` but for the fields that
    are its `own`, and those of its section on an axis or tied.
    """

    name: str
    source: str
    at: str | None
    optimizer: Literal["fresh", "kept"]
    own: tuple[str, ...]

    @property
    def section(self) -> str:
        """Its section of the sweep, with which the paths of its fields begin."""
        return f"stages.{self.name}"


@dataclass(frozen=True, slots=True)
class GridPoint:
    """One cell of the grid, resolved. `facet` holds (path, value) pairs; `load` and `temperature`
    are None where there is no such axis. `recipe` has every field of `Recipe`, so has each of
    `stage_recipes`, one for each stage of the sweep. Equal parts and recipes are one object.
    `facts` is None where the data set is a plug-in that cannot say before loading.
    """

    facet: tuple[tuple[str, Json], ...]
    load: Json
    temperature: Json
    dataset: Part
    model: Part
    recipe: Mapping[str, Json]
    facts: DatasetFacts | None
    stage_recipes: tuple[Mapping[str, Json], ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    """What one pack needs, in Ray's words; `memory` in bytes, None: what Ray gives."""

    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    memory: Annotated[int, Field(gt=0)] | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What a pack needs, and what packs of single metrics need instead."""

    num_cpus: float = 1.0
    num_gpus: float | None = None
    memory: int | None = None
    metrics: Mapping[str, Need] = field(default_factory=dict)

    def of(self, metric: str | None = None) -> Need:
        """Return the need of a training pack, or of a pack of one metric."""
        default = Need(self.num_cpus, self.num_gpus, self.memory)
        return default if metric is None else self.metrics.get(metric, default)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a job is tried again: after an exception of its own (`app`), after its process or
    node was lost (`infra`).
    """

    app: Annotated[int, Field(ge=0)] = 0
    infra: Annotated[int, Field(ge=0)] = 5


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run behaves; nothing here is part of any key.

    At most `max_in_flight` packs at a time (null: as many as fit); `on_error` goes on or stops;
    `max_failures` failed jobs stop the run (null: any number); `pack_size` trainings in one pack
    (null: chosen); `timeout_s` seconds without a finished epoch or measurement end the process of a
    pack as hung (null: never; on Ray only). `reproducible`: nothing is computed together with
    anything else, and a GPU uses deterministic kernels only, so that no number depends on what else
    the sweep or the store holds; slower.
    """

    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    retries: Retries = field(default_factory=Retries)
    on_error: Literal["continue", "stop"] = "continue"
    max_failures: Annotated[int, Field(ge=0)] | None = None
    pack_size: Annotated[int, Field(ge=1)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    reproducible: bool = False


@dataclass(frozen=True, slots=True)
class UserCode:
    """A plug-in that a sweep names: what keys and tables call it, its declared version, what the
    sweep writes of its file or module, and its code.
    """

    kind: Literal["model", "dataset", "metric", "schedule", "objective", "figure"]
    name: str
    version: int
    shown: str
    code: Code


@dataclass(frozen=True, slots=True)
class Tried:
    """Which plug-ins were tried, and how; what there is to say of those that were not, or not to
    the end. A line each.
    """

    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep, fully resolved. `points` are in the order facets, load, temperature; `source` is the
    file it was read from. `figures` are those beside the ones that every sweep gets; no key depends
    on them. `code` are the plug-ins that it names, `stages` the trainings after the first, in
    order; `tried` says what trying the plug-ins showed.
    """

    name: str
    description: str | None
    source: str | None
    load: Axis | None
    temperature: Axis | None
    facets: tuple[Axis, ...]
    seeds: tuple[int, ...]
    metrics: tuple[MetricRequest, ...]
    points: tuple[GridPoint, ...]
    resources: Resources
    run: RunOptions
    storage: str | None
    figures: tuple[FigureRequest, ...] = ()
    code: tuple[UserCode, ...] = ()
    stages: tuple[Stage, ...] = ()
    tried: Tried = field(default_factory=Tried)
