"""Metrics by name: what each measures, over what, with which arguments and columns. Nothing here imports torch."""

from phasegrid.declare import Metric
from phasegrid.metrics import declared_curves, declared_points, declared_slices, declared_text

METRICS: dict[str, Metric] = {
    "accuracy": declared_points.ACCURACY,
    "distance": declared_points.DISTANCE,
    "hessian": declared_points.HESSIAN,
    "cka": declared_points.CKA,
    "bleu": declared_text.BLEU,
    "connectivity": declared_curves.CONNECTIVITY,
    "simplex": declared_curves.SIMPLEX,
    "slice": declared_slices.SLICE,
}
