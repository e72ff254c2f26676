"""YAML -> Sweep: strict, every mistake at once, each with its line and column.

A sweep file is read as data (`yaml_source`), merged with what it extends and overrides (`sweep_file`), its
sections resolved
(`space`, `axes`, `sweep_options`), its points chosen (`points`) and its cells built (`grid`). Neither torch nor Ray is
imported; code outside phasegrid runs only if the sweep names it (`plugins`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from phasegrid.arguments import check_keys
from phasegrid.axes import Scale, draft_axes, names_on_axes, overlap, read_scale
from phasegrid.couple import Expression, order_by_reference, parse_expression
from phasegrid.errors import Mistake
from phasegrid.grid import build_cells, check_recipe
from phasegrid.notebook import Notebook
from phasegrid.points import choose_points
from phasegrid.references import References
from phasegrid.space import Space, read_space
from phasegrid.sweep_file import read_sweep
from phasegrid.sweep_options import (
    read_metrics,
    read_name,
    read_resources,
    read_run,
    read_schema,
    read_seeds,
    read_text_field,
)
from phasegrid.sweep_types import (
    Axis,
    GridPoint,
    MetricRequest,
    Need,
    Resources,
    Retries,
    RunOptions,
    Sweep,
)
from phasegrid.yaml_source import Node, plain_text

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
    "load_sweep",
]

KEYS = (
    "schema",
    "name",
    "description",
    "extends",
    "dataset",
    "model",
    "train",
    "load",
    "temperature",
    "facets",
    "couple",
    "include",
    "exclude",
    "seeds",
    "metrics",
    "resources",
    "run",
    "storage",
)


def load_sweep(path: Path | str, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file, with overrides ``path=value`` (value as YAML), and resolve everything in it.

    Raises:
        SweepError: if there is any mistake. The message lists every one, a line each, as
            ``file:line:column: path: what was found, what is allowed, did you mean``; `mistakes` holds them as data.
    """
    path = Path(path)
    notebook = Notebook()
    root = read_sweep(path, overrides, notebook)
    sweep = _read(root, path, notebook) if root is not None else None
    notebook.raise_if_any(str(path))
    assert sweep is not None
    return sweep


def _read(root: Node, path: Path, notebook: Notebook) -> Sweep:
    entries = check_keys(root, KEYS, "", notebook)
    references = References(path.parent)
    read_schema(entries.get("schema"), root, notebook)
    drafts = draft_axes(entries, notebook)
    space = read_space(entries, root, names_on_axes(drafts), references, notebook)
    scales = [read_scale(draft, space, notebook) for draft in drafts]
    usable = [scale for scale in scales if scale is not None]
    for draft, scale in zip(drafts, scales, strict=True):
        if scale is None:
            notebook.mark_broken(draft.path)
    tied = _read_couple(entries.get("couple"), usable, space, notebook)
    seeds = read_seeds(entries.get("seeds"), root, notebook)
    metrics = read_metrics(entries.get("metrics"), len(seeds), references, notebook)
    return Sweep(
        name=read_name(entries.get("name"), root, notebook),
        description=read_text_field(entries.get("description"), "description", None, notebook),
        source=str(path),
        load=_axis(usable, "load"),
        temperature=_axis(usable, "temperature"),
        facets=tuple(scale.axis for scale in usable if scale.axis.role == "facet"),
        seeds=seeds,
        metrics=metrics,
        resources=read_resources(entries.get("resources"), metrics, notebook),
        run=read_run(entries.get("run"), notebook),
        storage=read_text_field(entries.get("storage"), "storage", "results", notebook),
        points=_read_points(entries, root, usable, space, tied, notebook),
    )


def _read_points(
    entries: Mapping[str, Node],
    root: Node,
    scales: Sequence[Scale],
    space: Space,
    tied: Mapping[str, tuple[Expression, Node]],
    notebook: Notebook,
) -> tuple[GridPoint, ...]:
    """Build the cells as far as mistakes made before allow, to find those that only cells show."""
    if not space.complete:
        check_recipe(space, notebook, [*(scale.axis.path for scale in scales), *tied])
        return ()
    axes_are_wrong = notebook.is_broken("load", "temperature", "facets")
    chosen = (
        {} if axes_are_wrong else {k: entries[k] for k in ("include", "exclude") if k in entries}
    )
    points = choose_points(scales, chosen, root, space, notebook)
    return build_cells(points, scales, space, tied, notebook)


def _axis(scales: Sequence[Scale], role: str) -> Axis | None:
    return next((scale.axis for scale in scales if scale.axis.role == role), None)


def _read_couple(
    node: Node | None, scales: Sequence[Scale], space: Space, notebook: Notebook
) -> dict[str, tuple[Expression, Node]]:
    """Return the expressions of ``couple`` by path, each after those it refers to."""
    if node is None or node.value is None:
        return {}
    if node.mapping is None:
        message = f"found {plain_text(node.plain())}; allowed: a mapping from fields to expressions"
        notebook.add(node, "couple", message)
        return {}
    tied: dict[str, tuple[Expression, Node]] = {}
    for path, entry in node.mapping.items():
        expression = _read_expression(path, entry, scales, tied, space, notebook)
        if expression is not None:
            tied[path] = (expression, entry)
    try:
        order = order_by_reference({path: expression for path, (expression, _) in tied.items()})
    except ValueError as error:
        notebook.add(node, "couple", f"fields refer to each other in a circle: {error}")
        return {}
    return {path: tied[path] for path in order}


def _read_expression(
    path: str,
    entry: Node,
    scales: Sequence[Scale],
    tied: Mapping[str, object],
    space: Space,
    notebook: Notebook,
) -> Expression | None:
    where = f"couple.{path}"
    fields = space.fields(path)
    if isinstance(fields, str):
        notebook.add_key(entry, where, fields)
        return None
    if not all({int, float} & field.kinds for field in fields.values()):
        notebook.add_key(entry, where, f"{path} is not a number")
        return None
    other = next((s.axis.path for s in scales if overlap(path, s.axis.path)), None)
    other = other or next((p for p in tied if overlap(path, p)), None)
    if other is not None:
        notebook.add_key(entry, where, f"{path} is given by the axis or expression {other} already")
        return None
    text = str(entry.value) if isinstance(entry.value, (int, float)) else entry.value
    if not isinstance(text, str) or isinstance(entry.value, bool):
        found = plain_text(entry.plain())
        message = (
            f"found {found}; allowed: a product or quotient, as in 0.05 * train.batch_size / 128"
        )
        notebook.add(entry, where, message)
        return None
    try:
        expression = parse_expression(text)
    except ValueError as error:
        notebook.add(entry, where, str(error))
        return None
    return expression if _fields_exist(expression, entry, where, space, notebook) else None


def _fields_exist(
    expression: Expression, entry: Node, where: str, space: Space, notebook: Notebook
) -> bool:
    for name in expression.fields():
        fields = space.fields(name)
        if isinstance(fields, str):
            notebook.add(entry, where, fields)
            return False
        if not all({int, float} & field.kinds for field in fields.values()):
            notebook.add(entry, where, f"{name} is not a number")
            return False
    return True
