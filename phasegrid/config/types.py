"""Define a resolved sweep: everything is looked up, and every default is filled in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, DatasetFacts, FigureRequest
from phasegrid.jobs import Over, Part
from phasegrid.keys import Json
from phasegrid.user_code import Code


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the grid: the dotted path of the field that it varies, and its resolved values in
    the given order.
    """

    path: str
    values: tuple[Json, ...]
    role: Literal["load", "temperature", "facet"]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """Networks of one training that a request names: of the trial with the seed of this index, in
    this `cell` (None: in every one), after this `stage` (None: the last), at the places `at` along
    it, in this order (empty: its final weights).
    """

    cell: int | None
    seed: int
    stage: str | None = None
    at: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricRequest:
    """One metric to compute. `pairs` is set for metrics of pairs. `modes` and `runs` are for
    metrics of cells: a job has the first `modes` trials (None: all), or there is a job for each
    `runs` of them. `together` says that one call can do several jobs of a cell. `takes` names the
    data that it accepts.

    `over` is the value of the sweep, `declared_over` the metric's default. `at` holds the places
    along trainings (``epoch-5``, ``lowest_rate``) where networks are measured. `chosen` holds the
    trials across cells, each as (cell, index of its seed). `networks` names the networks of the one
    job. `asked` says in the words of the sweep which networks a job has, if it is more than one
    place along each training, and some trials. With `samples` its networks are drawn from moments
    of weights. `of` is the index of the request whose artifacts, named `reads`, are measured; it
    `joins` them if a job reads those of all jobs of a cell, or of each `runs` of them. `wanted`
    names the artifacts that other requests read. `id` is the name of the request in the sweep.
    `stage` is the training whose trials are measured (None: the last). `through` is the request by
    which each network is measured first; it is in no sweep. `varied` are the arguments that an
    axis or ``couple`` gives, cell by cell.
    """

    name: str
    part: Part
    over: Over
    pairs: Literal["first", "from_first", "ring", "all"] | None
    modes: int | None
    heavy: bool
    min_trials: int
    together: bool = False
    takes: str = "any"
    declared_over: Literal["trial", "pair", "cell", "artifact"] = "trial"
    id: str | None = None
    of: int | None = None
    reads: str | None = None
    joins: bool = False
    samples: bool = False
    wanted: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    chosen: tuple[tuple[int, int], ...] = ()
    stage: str | None = None
    runs: int | None = None
    networks: tuple[Network, ...] = ()
    asked: Mapping[str, Json] = field(default_factory=dict)
    through: "MetricRequest | None" = None
    varied: tuple[str, ...] = ()


FIRST_STAGE = "train"
"""The name of the first training of a cell, that of the section ``train``."""


@dataclass(frozen=True, slots=True)
class StartPlace:
    """The checkpoint from which a stage starts; neither: the end of the training before it."""

    epoch: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = None
    update: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A further training of every cell. It starts from what the stage `source` leaves: its final
    weights, or a checkpoint (`StartPlace`), which may differ from cell to cell. Each trial starts
    from the one of its own seed, or all start from that of `seed`. Its optimizer is fresh, or has
    the state that it had there. Its recipe is the recipe of ``train``, with the fields of `own`,
    and with those of its section that are on an axis or tied.
    """

    name: str
    source: str
    optimizer: Literal["fresh", "kept"]
    own: tuple[str, ...]
    seed: int | None = None

    @property
    def section(self) -> str:
        """Its section of the sweep: the paths of its fields begin with it."""
        return f"stages.{self.name}"


@dataclass(frozen=True, slots=True)
class GridPoint:
    """One cell of the grid, resolved. `facet` holds (path, value) pairs; `load` and `temperature`
    are None if there is no such axis. `recipe` has every field of `Recipe`, and so has each of
    `stage_recipes`, one per stage of the sweep. Equal parts and recipes are the same object.
    `facts` is None if the data set is a plug-in that knows them only after loading. `starts` are
    the checkpoints from which the stages start (``epoch-40``, ``update-900``; None: the end of the
    training before). `asks` says which requests are measured (`Sweep.requests_of`).
    """

    facet: tuple[tuple[str, Json], ...]
    load: Json
    temperature: Json
    dataset: Part
    model: Part
    recipe: Mapping[str, Json]
    facts: DatasetFacts | None
    stage_recipes: tuple[Mapping[str, Json], ...] = ()
    starts: tuple[str | None, ...] = ()
    asks: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """The resources of one pack, in Ray's terms; `memory` in bytes (None: Ray's default)."""

    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    memory: Annotated[int, Field(gt=0)] | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of a pack, and those of packs of single metrics that differ."""

    num_cpus: float = 1.0
    num_gpus: float | None = None
    memory: int | None = None
    metrics: Mapping[str, Need] = field(default_factory=dict)

    def of(self, metric: str | None = None) -> Need:
        """Return the resources of a training pack, or of a pack of one metric."""
        default = Need(self.num_cpus, self.num_gpus, self.memory)
        return default if metric is None else self.metrics.get(metric, default)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a job is retried: after its own exception (`app`), or after its process or node was
    lost (`infra`).
    """

    app: Annotated[int, Field(ge=0)] = 0
    infra: Annotated[int, Field(ge=0)] = 5


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The behaviour of a run; no key depends on it.

    At most `max_in_flight` packs at a time (null: as many as fit); `on_error` goes on or stops;
    `max_failures` failed jobs stop the run (null: any number); `pack_size` trainings in one pack
    (null: chosen); `timeout_s` seconds without a finished epoch or measurement end the process of a
    pack as hung (null: never; on Ray only). `reproducible`: each job is computed alone, and a GPU
    uses only deterministic kernels, so that no number depends on the rest of the sweep or on the
    store; this is slower. `price_per_gpu_hour` is that of a GPU, in any currency; `phasegrid plan`
    multiplies it.
    """

    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    retries: Retries = field(default_factory=Retries)
    on_error: Literal["continue", "stop"] = "continue"
    max_failures: Annotated[int, Field(ge=0)] | None = None
    pack_size: Annotated[int, Field(ge=1)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    reproducible: bool = False
    price_per_gpu_hour: Annotated[float, Field(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class UserCode:
    """A plug-in that a sweep names: its name in keys and tables, its declared version, its file or
    module as the sweep writes it, and its code.
    """

    kind: Literal["model", "dataset", "metric", "schedule", "objective", "figure"]
    name: str
    version: int
    shown: str
    code: Code


@dataclass(frozen=True, slots=True)
class Tried:
    """The plug-ins that were tried, and how; and why others were not tried, or only in part. One
    line each.
    """

    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep, fully resolved. `points` are in the order facets, load, temperature; `source` is the
    file of the sweep. `figures` are the additional figures; no key depends on them. `code` are the
    plug-ins that the sweep names. `stages` are the trainings after the first, in order. `tried`
    holds the results of trying the plug-ins. `metrics` are the requests of the first cell. Where
    their arguments vary from cell to cell, `varied` holds the requests of all cells; cells with the
    same arguments share theirs.
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
    varied: tuple[tuple[MetricRequest, ...], ...] = ()

    def requests_of(self, point: GridPoint) -> tuple[MetricRequest, ...]:
        """Return the requests that are measured in a cell."""
        return self.varied[point.asks] if self.varied else self.metrics
