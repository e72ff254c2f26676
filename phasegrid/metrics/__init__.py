"""Metrics by name: what each measures, over what, with which arguments and columns. Nothing here imports torch."""

from phasegrid.declare import Metric
from phasegrid.metrics import declared_curves as curves
from phasegrid.metrics import declared_points as points

METRICS: dict[str, Metric] = {
    "accuracy": points.ACCURACY,
    "distance": points.DISTANCE,
    "hessian": points.HESSIAN,
    "cka": points.CKA,
    "connectivity": curves.CONNECTIVITY,
    "simplex": curves.SIMPLEX,
}
