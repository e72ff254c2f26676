"""Read the long-form CSV of published results: one number a line, checked line by line.

Columns width, batch_size, metric, seed_a, seed_b, value. Metrics: ``train_`` and ``test_``
accuracy, loss and nll, Hessian top eigenvalue and trace (one seed); L2 distance and CKA of logits
and softmax (two seeds, any order); ``curve_{train,test}_*@t`` and summaries of a curve between two
seeds. Metrics that are derived from others are accepted but not used.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from phasegrid.errors import DataError

HEADER = ["width", "batch_size", "metric", "seed_a", "seed_b", "value"]
CURVE_POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)

TRIAL_METRICS = frozenset(
    [f"{part}_{what}" for part in ("train", "test") for what in ("accuracy", "loss", "nll")]
    + ["hessian_top_eigenvalue", "hessian_trace"]
)
PAIR_METRICS = frozenset({"l2_distance", "cka_logits", "cka_softmax"})
DERIVED = ("mode_connectivity_", "curve_length_5pt")
CURVES = frozenset(
    [
        f"curve_{s}_{what}"
        for s in ("train", "test")
        for what in ("loss", "nll", "accuracy", "error")
    ]
    + ["curve_dl"]
)
SUMMARIES = frozenset(
    f"curve_{s}_{what}_{how}"
    for s in ("train", "test")
    for what in ("loss", "nll", "error")
    for how in ("min", "max", "avg", "int")
)

Place = tuple[int, int]  # width, batch size
Key = tuple[str, int | None, int | None]  # metric, seed_a, seed_b
Numbers = Mapping[Key, float]


def read_places(path: Path) -> dict[Place, dict[Key, float]]:
    """Read the numbers of each cell; an empty or NaN value is NaN.

    Raises:
        DataError: if the file is missing or malformed; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            _check_header(path, next(lines, []))
            places: dict[Place, dict[Key, float]] = {}
            for number, line in enumerate(lines, start=2):
                place, key, value = _line(path, number, line)
                numbers = places.setdefault(place, {})
                if key in numbers:
                    raise _bad(path, number, f"a second {key[0]} of this cell and these seeds")
                numbers[key] = value
    except OSError as error:
        raise DataError(f"importing {path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"importing {path}: not a CSV text file ({error})") from error
    if not places:
        raise DataError(f"importing {path}: no lines after the header")
    return places


def _check_header(path: Path, header: Sequence[str]) -> None:
    if list(header) != HEADER:
        raise _bad(
            path, 1, f"the header is {','.join(header) or 'missing'}; expected {','.join(HEADER)}"
        )


def _line(path: Path, number: int, line: Sequence[str]) -> tuple[Place, Key, float]:
    if len(line) != len(HEADER):
        raise _bad(path, number, f"{len(line)} fields; expected {len(HEADER)}")
    width, batch_size, metric, a, b, text = line
    try:
        place = int(width), int(batch_size)
        seeds = int(a) if a else None, int(b) if b else None
        value = float(text) if text else math.nan
    except ValueError as error:
        raise _bad(path, number, f"not a number ({error})") from error
    if min(place) < 1 or min(seed for seed in (0, *seeds) if seed is not None) < 0:
        raise _bad(path, number, "width and batch size must be positive, seeds not negative")
    _check_metric(path, number, metric, seeds)
    return place, (metric, *seeds), value


def _check_metric(
    path: Path, number: int, metric: str, seeds: tuple[int | None, int | None]
) -> None:
    base, _, point = metric.partition("@")
    of_curve = base in CURVES or metric in SUMMARIES or metric.startswith(DERIVED)
    if metric in TRIAL_METRICS:
        right = seeds[0] is not None and seeds[1] is None
    elif metric in PAIR_METRICS or of_curve:
        right = None not in seeds
    else:
        raise _bad(path, number, f"unknown metric {metric!r}")
    if base in CURVES and (not point or not _is_point(point)):
        raise _bad(path, number, f"{metric!r}: expected @t with t in 0, 0.25, 0.5, 0.75, 1")
    if not right:
        raise _bad(
            path, number, f"{metric}: wrong seeds (one for a trial, two for a pair or a curve)"
        )


def _is_point(text: str) -> bool:
    return text in {f"{t:g}" for t in CURVE_POINTS}


def _bad(path: Path, number: int, what: str) -> DataError:
    return DataError(f"importing {path}, line {number}: {what}")
