"""Load a sweep from YAML: strictly, with every mistake reported at once, each with line and column.

A sweep file is read as data (`yaml`) and merged with what it extends and overrides (`merge`). Its
sections are resolved (`template`, `axes`, `couple`, `sections`, `figures`), its points are chosen
(`points`) and its cells are built (`cells`). Neither torch nor Ray is imported. Code outside
phasegrid runs only if the sweep names it; the caller says how to try it (`contracts`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from phasegrid.config.axes import Scale, draft_axes, names_on_axes, read_scale
from phasegrid.config.blocks import with_blocks
from phasegrid.config.cells import build_cells, check_recipe
from phasegrid.config.chosen import choose_networks
from phasegrid.config.contracts import Trials, Trier
from phasegrid.config.couple import read_couple
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.figures import read_figures
from phasegrid.config.idle import check_idle
from phasegrid.config.mapping import NAME as MAPPING
from phasegrid.config.merge import read_sweep
from phasegrid.config.points import choose_points
from phasegrid.config.references import References
from phasegrid.config.requests import read_metrics
from phasegrid.config.sections import (
    read_name,
    read_resources,
    read_run,
    read_schema,
    read_seeds,
    read_text_field,
)
from phasegrid.config.stages import check_seeds, read_stages
from phasegrid.config.template import TrialTemplate, read_space
from phasegrid.config.ties import Tied
from phasegrid.config.types import (
    FIRST_STAGE,
    Axis,
    GridPoint,
    MetricRequest,
    Need,
    Resources,
    Retries,
    RunOptions,
    Sweep,
    Tried,
)
from phasegrid.config.validate import check_keys
from phasegrid.config.varying import (
    Variation,
    arguments_that_vary,
    names_of_requests,
    refuse_two_names,
    with_requests,
)
from phasegrid.config.yaml import Node, plain_text
from phasegrid.errors import Mistake, SweepError
from phasegrid.user_code import is_installed

__all__ = [
    "Axis",
    "GridPoint",
    "MetricRequest",
    "Mistake",
    "Need",
    "Resources",
    "Retries",
    "RunOptions",
    "Sweep",
    "Tried",
    "load_sweep",
    "user_files",
]

KEYS = (
    "schema",
    "name",
    "description",
    "extends",
    "dataset",
    "model",
    "train",
    "stages",
    "load",
    "temperature",
    "facets",
    "couple",
    "include",
    "exclude",
    "seeds",
    "metrics",
    "figures",
    "resources",
    "run",
    "storage",
)


def load_sweep(
    source: Path | str | Mapping[str, object],
    overrides: Sequence[str] = (),
    trials: Callable[[], Trials] | None = None,
) -> Sweep:
    """Read a sweep file, or the mapping that such a file holds, with overrides ``path=value`` (the
    value is YAML), and resolve everything in it.

    Files are named relative to the sweep file, and in a mapping relative to the current folder. If
    `trials` is given, it tries the sweep's plug-ins.

    Raises:
        SweepError: if there is any mistake. The message lists every mistake on a line, as
            ``file:line:column: path: what was found, what is allowed, did you mean`` (of a mapping
            ``<mapping>: path: ...``); `mistakes` holds them as data.
    """
    if not isinstance(source, (Mapping, str, Path)):
        found = f"{type(source).__name__} {plain_text(source)}"
        raise SweepError(f"load_sweep: found {found}; allowed: the path of a file, or a mapping")
    given = source if isinstance(source, Mapping) else Path(source)
    path = given if isinstance(given, Path) else None
    diagnostics = Diagnostics()
    root = read_sweep(given, overrides, diagnostics)
    sweep = _read(root, path, diagnostics, trials) if root is not None else None
    diagnostics.raise_if_any(MAPPING if path is None else str(path))
    assert sweep is not None
    return sweep


def user_files(sweep: Sweep) -> list[Path]:
    """Return the user's files of a sweep: the sweep file, and plug-ins that are not installed."""
    code = [path for one in sweep.code for path in one.code.paths.values()]
    own = [] if sweep.source is None else [Path(sweep.source)]
    return [path for path in code if not is_installed(path)] + own


def _read(
    root: Node, path: Path | None, diagnostics: Diagnostics, trials: Callable[[], Trials] | None
) -> Sweep:
    entries = check_keys(root, KEYS, "", diagnostics)
    references = References(Path.cwd() if path is None else path.parent)
    read_schema(entries.get("schema"), root, diagnostics)
    drafts = draft_axes(entries, diagnostics)
    template = read_space(entries, root, names_on_axes(drafts), references, diagnostics)
    template = read_stages(entries.get("stages"), template, diagnostics)
    couple = entries.get("couple")
    tied_paths = couple.mapping or () if couple is not None else ()
    paths = [*(draft.path for draft in drafts), *tied_paths]
    seeds = read_seeds(entries.get("seeds"), root, diagnostics)
    check_seeds(template, seeds, diagnostics)
    stages = (FIRST_STAGE, *(stage.name for stage in template.stages))
    asked_for = entries.get("metrics")
    names = names_of_requests(asked_for)
    varied = arguments_that_vary(paths, names)
    asked = read_metrics(asked_for, len(seeds), references, diagnostics, stages, varied)
    template = with_blocks(with_requests(template, asked, names), paths)
    scales = [read_scale(draft, template, diagnostics) for draft in drafts]
    usable = [scale for scale in scales if scale is not None]
    for draft, scale in zip(drafts, scales, strict=True):
        if scale is None:
            diagnostics.mark_broken(draft.path)
    tied = read_couple(couple, usable, template, diagnostics)
    given = {one.path: one.entries["param"] for one in drafts}
    refuse_two_names({**given, **{p: n for p, (_, n) in tied.items()}}, template, diagnostics)
    name = read_name(entries.get("name"), root, diagnostics)
    points, variations = _read_points(
        entries, root, usable, template, tied, references, diagnostics
    )
    check_idle(points, usable, tied, template, diagnostics)
    asking = choose_networks(asked, variations, points, seeds, template.stages, diagnostics)
    metrics = asking[0]
    trier = Trier(references.code, template, usable, diagnostics, trials)
    items = asked_for.items if asked_for is not None else None
    tried = trier.tried(points, metrics, items or (), len(seeds))
    return Sweep(
        name=name,
        description=read_text_field(entries.get("description"), "description", None, diagnostics),
        source=None if path is None else str(path),
        load=_axis(usable, "load"),
        temperature=_axis(usable, "temperature"),
        facets=tuple(scale.axis for scale in usable if scale.axis.role == "facet"),
        seeds=seeds,
        metrics=metrics,
        resources=read_resources(entries.get("resources"), metrics, diagnostics),
        run=read_run(entries.get("run"), diagnostics),
        storage=read_text_field(entries.get("storage"), "storage", "results", diagnostics),
        points=points,
        figures=read_figures(
            entries.get("figures"),
            name,
            points,
            usable,
            metrics,
            "" if asked_for is None else asked_for.place.file,
            references,
            diagnostics,
        ),
        code=references.code,
        stages=template.stages,
        tried=tried,
        varied=asking if variations else (),
    )


def _read_points(
    entries: Mapping[str, Node],
    root: Node,
    scales: Sequence[Scale],
    template: TrialTemplate,
    tied: Tied,
    references: References,
    diagnostics: Diagnostics,
) -> tuple[tuple[GridPoint, ...], Sequence[Variation]]:
    """Build the cells as far as earlier mistakes allow, to find the mistakes that only cells
    show. Also return what varies in the requests.
    """
    if not template.complete:
        check_recipe(template, diagnostics, [*(scale.axis.path for scale in scales), *tied])
        return (), ()
    axes_are_wrong = diagnostics.is_broken("load", "temperature", "facets")
    chosen = (
        {} if axes_are_wrong else {k: entries[k] for k in ("include", "exclude") if k in entries}
    )
    points = choose_points(scales, chosen, root, template, diagnostics)
    return build_cells(points, scales, template, tied, references, diagnostics)


def _axis(scales: Sequence[Scale], role: str) -> Axis | None:
    return next((scale.axis for scale in scales if scale.axis.role == role), None)
