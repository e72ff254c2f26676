"""Name quantities that are measured in several ways: ``cka[mixup_alpha=0.5]``.

The name of a way of measuring lists the arguments that differ from the metric's declared defaults,
so the name does not depend on what else a store holds. The declared defaults have the plain name,
``cka``. If nothing was measured with them, the way that covers most cells of the sweep has the
plain name: a typical one (`Metric.untypical`) if there is one, but never a way along a training,
``cka[at=5]``, or across cells. The number of trials of a cell in a
measurement, if it is not all of them, is an argument like the others: ``log_volume[modes=2]``.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from phasegrid.declare import Shown

Parts = dict[str, object]


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways in which a sweep measured one metric: the suffix for each text of arguments ("" for
    the plain way), and how the plain way differs from the declared defaults ("" if it does not).
    """

    suffixes: Mapping[str, str]
    plain: str


def ways(declared: Shown | None, rows: pd.DataFrame) -> Ways:
    """Name the ways of measuring (texts of arguments, ``args``) in the rows of one metric, with the
    defaults that it has `declared`. Beside a way whose argument varies with the cells, which no
    name says, others say its value even if it is the default.
    """
    cells = rows.groupby("args")["cell"].nunique()
    texts = [str(text) for text in cells.index]
    # For a user's metric in an old store, the commonest way replaces the declared one.
    commonest = min(texts, key=lambda text: (-cells[text], text))
    base = json.loads(commonest) if declared is None else declared.defaults
    varied = rows["varied"].dropna().unique() if "varied" in rows else ()
    varying = {name for several in varied for name in several.split("+")}
    base = {name: value for name, value in base.items() if name not in varying}
    names = {text: _difference(base, json.loads(text)) for text in texts}
    named = {"at", "id", "networks", "over"}
    at_the_end = [text for text in texts if not named & json.loads(text).keys()]
    order = sorted(
        at_the_end,
        key=lambda text: (
            _is_untypical(declared, json.loads(text)),
            -cells[text],
            names[text].count("="),
            names[text],
        ),
    )
    plain = next((text for text in texts if not names[text]), order[0] if order else None)
    return Ways(names, "") if plain is None else Ways({**names, plain: ""}, names[plain])


def resolve(name: str, declared: Shown | None, plain: str, present: Iterable[str]) -> str | None:
    """Return the quantity among `present` that `name` asks for, or None.

    `declared` is the declaration of its metric, `plain` its plain way in this sweep
    (`SweepTables.plain`). Arguments may be in any order, and declared defaults may be written out.
    Arguments that are not named have the declared defaults or, if there is no such quantity, the
    values of the plain way. If there is none either, and an argument is named, it is the quantity
    with these arguments that differs in the fewest others from the defaults, if there is only one.

    >>> resolve("cka[mixup_alpha=0.50]", None, "", ["cka", "cka[mixup_alpha=0.5]"])
    'cka[mixup_alpha=0.5]'
    """
    names = list(present)
    if name in names:
        return name
    wanted, usual = parts(name), parts(f"[{plain}]")
    usuals = _plain_parts(declared)
    axes = {"layer"} if declared is None else set(declared.axes)
    base = name.partition("[")[0]
    known = {one: parts(one) for one in names if one.partition("[")[0] == base}
    rows = {one: {k: v for k, v in args.items() if k in axes} for one, args in known.items()}
    ways = {
        one: {k: v for k, v in args.items() if k not in axes} or usual
        for one, args in known.items()
    }
    for target in (_beyond(usuals, wanted), _beyond(usuals, {**usual, **wanted})):
        for one in known:
            if {**ways[one], **rows[one]} == target:
                return one
    fitting = [
        one
        for one in known
        if wanted.keys() - axes and wanted.items() <= {**usuals, **ways[one], **rows[one]}.items()
    ]
    fewest = min((len(ways[one]) for one in fitting), default=0)
    closest = [one for one in fitting if len(ways[one]) == fewest]
    return closest[0] if len(closest) == 1 else None


def full_name(name: str, plain: str, present: Iterable[str]) -> str:
    """Return the name of a quantity for readers: with the arguments of its plain way (`Ways.plain`)
    if there are other ways from which it must be distinguished.

    >>> full_name("cka", "pixel_noise=5", ["cka", "cka[pixel_noise=10]"])
    'cka[pixel_noise=5]'
    >>> full_name("cka", "pixel_noise=5", ["cka"])
    'cka'
    """
    if not plain or "[" in name or not any(one.startswith(f"{name}[") for one in present):
        return name
    return f"{name}[{plain}]"


def parts(name: str) -> Parts:
    """Return the arguments in the brackets of a name, numbers as numbers.

    >>> parts("cka[mixup_alpha=null, pixel_noise=5]")
    {'mixup_alpha': None, 'pixel_noise': 5.0}
    """
    inside = name.partition("[")[2].removesuffix("]")
    pairs = (part.partition("=") for part in inside.split(",") if part.strip())
    return {key.strip(): _read(value.strip()) for key, _, value in pairs}


def way_of(name: str, axes: Collection[str]) -> str:
    """Return the way of measuring a quantity, without the axes of the rows of one job.

    >>> way_of("cka[mixup_alpha=4, layer=conv1]", {"layer"})
    'mixup_alpha=4'
    """
    inside = name.partition("[")[2].removesuffix("]")
    pieces = [piece for piece in inside.split(", ") if piece.partition("=")[0] not in axes]
    return ", ".join(pieces)


def axis_part(axis: str, value: object) -> str:
    """Return what distinguishes a row from the others of its job: ``layer=conv1``, ``class=3``."""
    return f"{axis}={plainly(value)}"


def _is_untypical(declared: Shown | None, args: Mapping[str, object]) -> bool:
    """Say whether a way measures something else than the name of its metric says."""
    if declared is None:
        return False
    used = {**declared.defaults, **args}
    return any(used.get(name) == value for name, value in declared.untypical.items())


def _difference(base: Mapping[str, object], args: Mapping[str, object]) -> str:
    """Write the arguments that differ from `base`; an absent argument was added later and has its
    default.
    """
    changed = {
        key: value
        for key, value in sorted(args.items())
        if key not in base or plainly(value) != plainly(base[key])
    }
    return ", ".join(f"{key}={plainly(value)}" for key, value in changed.items())


def plainly(value: object) -> str:
    """Write a value without the characters that separate the parts of names: 0.5, null, true,
    softmax+logits.
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return "+".join(plainly(item) for item in value)
    return f"{value:.15g}" if isinstance(value, (int, float)) else str(value)


def _read(text: str) -> object:
    if text in ("null", "true", "false"):
        return json.loads(text)
    try:
        return float(text)
    except ValueError:
        return text


def _plain_parts(declared: Shown | None) -> Parts:
    """Return the arguments and axes of the plain name, with their values."""
    if declared is None:
        return {}
    axes = {name: usual for name, usual in declared.axes.items() if usual is not None}
    return {key: _read(plainly(value)) for key, value in {**declared.defaults, **axes}.items()}


def _beyond(usual: Parts, wanted: Parts) -> Parts:
    """Leave out the arguments that the plain name has anyway."""
    return {key: value for key, value in wanted.items() if key not in usual or value != usual[key]}
