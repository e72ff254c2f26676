"""Names of quantities that are measured in several ways: ``cka[mixup_alpha=0.5]``.

A way of measuring is named by how its arguments differ from those its metric declares as defaults,
so that the name is the same whatever else a store holds. The declared defaults themselves have the
plain name, ``cka``; where nobody measured with them, the way that covers most cells of the sweep
has it, but never one along a training, ``cka[at=5]``. How many trials of a cell a measurement
joins, where not all of them, is an argument like the others: ``log_volume[modes=2]``.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from phasegrid.declare import Shown

Parts = dict[str, object]


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways in which a sweep has one metric: the suffix of each text of arguments ("" for the
    plain one), and how the plain one differs from the declared defaults ("" where it does not).
    """

    suffixes: Mapping[str, str]
    plain: str


def ways(declared: Shown | None, rows: pd.DataFrame) -> Ways:
    """Name the ways of measuring (texts of arguments, ``args``) that occur in the rows of one
    metric, after what it has `declared`.
    """
    cells = rows.groupby("args")["cell"].nunique()
    texts = [str(text) for text in cells.index]
    # Of a user's own metric in an old store the commonest way stands in for the declared one.
    commonest = min(texts, key=lambda text: (-cells[text], text))
    base = json.loads(commonest) if declared is None else declared.defaults
    names = {text: _difference(base, json.loads(text)) for text in texts}
    at_the_end = [text for text in texts if "at" not in json.loads(text)]
    order = sorted(at_the_end, key=lambda text: (-cells[text], names[text].count("="), names[text]))
    plain = next((text for text in texts if not names[text]), order[0] if order else None)
    return Ways(names, "") if plain is None else Ways({**names, plain: ""}, names[plain])


def resolve(name: str, declared: Shown | None, plain: str, present: Iterable[str]) -> str | None:
    """Return the quantity among `present` that `name` asks for, or None.

    `declared` is what its metric has declared, `plain` its plain way here (`SweepTables.plain`).
    Arguments may stand in any order and be written out though they are the declared ones; those not
    named are the declared ones or, failing that, those of the plain way.

    >>> resolve("cka[mixup_alpha=0.50]", None, "", ["cka", "cka[mixup_alpha=0.5]"])
    'cka[mixup_alpha=0.5]'
    """
    names = list(present)
    if name in names:
        return name
    base, wanted = name.partition("[")[0], parts(name)
    usual = parts(f"[{plain}]")
    usuals = _plain_parts(declared)
    axes = {"layer"} if declared is None else set(declared.axes)
    for target in (_beyond(usuals, wanted), _beyond(usuals, {**usual, **wanted})):
        for one in names:
            if one.partition("[")[0] != base:
                continue
            args = {key: value for key, value in parts(one).items() if key not in axes}
            row = {key: value for key, value in parts(one).items() if key in axes}
            if {**(args or usual), **row} == target:
                return one
    return None


def full_name(name: str, plain: str, present: Iterable[str]) -> str:
    """Return what a reader calls a quantity: with the arguments of its plain way (`Ways.plain`)
    where there are other ways beside it from which it must be told apart.

    >>> full_name("cka", "pixel_noise=5", ["cka", "cka[pixel_noise=10]"])
    'cka[pixel_noise=5]'
    >>> full_name("cka", "pixel_noise=5", ["cka"])
    'cka'
    """
    if not plain or "[" in name or not any(one.startswith(f"{name}[") for one in present):
        return name
    return f"{name}[{plain}]"


def parts(name: str) -> Parts:
    """Return what stands in the brackets of a name, numbers as numbers.

    >>> parts("cka[mixup_alpha=null, pixel_noise=5]")
    {'mixup_alpha': None, 'pixel_noise': 5.0}
    """
    inside = name.partition("[")[2].removesuffix("]")
    pairs = (part.partition("=") for part in inside.split(",") if part.strip())
    return {key.strip(): _read(value.strip()) for key, _, value in pairs}


def way_of(name: str, axes: Collection[str]) -> str:
    """Return how a quantity is measured, without what tells the rows of one job apart.

    >>> way_of("cka[mixup_alpha=4, layer=conv1]", {"layer"})
    'mixup_alpha=4'
    """
    inside = name.partition("[")[2].removesuffix("]")
    pieces = [piece for piece in inside.split(", ") if piece.partition("=")[0] not in axes]
    return ", ".join(pieces)


def axis_part(axis: str, value: object) -> str:
    """Return what tells a row apart from the others of its job: ``layer=conv1``, ``class=3``."""
    return f"{axis}={_plainly(value)}"


def _difference(base: Mapping[str, object], args: Mapping[str, object]) -> str:
    """Write the arguments that are not those of `base`; one that is absent was added later and has
    its default.
    """
    changed = {
        key: value
        for key, value in sorted(args.items())
        if key not in base or _plainly(value) != _plainly(base[key])
    }
    return ", ".join(f"{key}={_plainly(value)}" for key, value in changed.items())


def _plainly(value: object) -> str:
    """Write a value without the letters that names are taken apart at: 0.5, null, true,
    softmax+logits.
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return "+".join(_plainly(item) for item in value)
    return f"{value:.15g}" if isinstance(value, (int, float)) else str(value)


def _read(text: str) -> object:
    if text in ("null", "true", "false"):
        return json.loads(text)
    try:
        return float(text)
    except ValueError:
        return text


def _plain_parts(declared: Shown | None) -> Parts:
    """Return the arguments and axes whose values the plain name has."""
    if declared is None:
        return {}
    axes = {name: usual for name, usual in declared.axes.items() if usual is not None}
    return {key: _read(_plainly(value)) for key, value in {**declared.defaults, **axes}.items()}


def _beyond(usual: Parts, wanted: Parts) -> Parts:
    """Leave out what the plain name has anyway."""
    return {key: value for key, value in wanted.items() if key not in usual or value != usual[key]}
