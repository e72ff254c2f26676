"""Declare the built-in metrics: what each measures, over what, with which arguments and columns.
Nothing here imports torch.
"""

from phasegrid.declare import Metric
from phasegrid.metrics.accuracy import ACCURACY
from phasegrid.metrics.angles import ANGLES
from phasegrid.metrics.average_sharpness import AVERAGE_SHARPNESS
from phasegrid.metrics.barrier import BARRIER
from phasegrid.metrics.bleu import BLEU
from phasegrid.metrics.cka import CKA
from phasegrid.metrics.connectivity import CONNECTIVITY
from phasegrid.metrics.decision import DECISION
from phasegrid.metrics.directions import DIRECTIONS
from phasegrid.metrics.distance import DISTANCE
from phasegrid.metrics.effective_dimension import EFFECTIVE_DIMENSION
from phasegrid.metrics.ensemble import ENSEMBLE
from phasegrid.metrics.epsilon_sharpness import EPSILON_SHARPNESS
from phasegrid.metrics.espro import ESPRO
from phasegrid.metrics.fisher import FISHER
from phasegrid.metrics.hessian import HESSIAN
from phasegrid.metrics.learning_coefficient import LEARNING_COEFFICIENT
from phasegrid.metrics.lines import LINES
from phasegrid.metrics.loss_change import LOSS_CHANGE
from phasegrid.metrics.merge_tree import MERGE_TREE
from phasegrid.metrics.origin_path import ORIGIN_PATH
from phasegrid.metrics.perplexity import PERPLEXITY
from phasegrid.metrics.plane import PLANE
from phasegrid.metrics.power_law import POWER_LAW
from phasegrid.metrics.predictions import PREDICTIONS
from phasegrid.metrics.relative_flatness import RELATIVE_FLATNESS
from phasegrid.metrics.sam_sharpness import SAM_SHARPNESS
from phasegrid.metrics.simplex import SIMPLEX
from phasegrid.metrics.slice import SLICE
from phasegrid.metrics.soup import SOUP
from phasegrid.metrics.stability import STABILITY
from phasegrid.metrics.swag_curves import SWAG_CURVES
from phasegrid.metrics.trace import TRACE
from phasegrid.metrics.vertex_path import VERTEX_PATH

METRICS: dict[str, Metric] = {
    "bleu": BLEU,
    "perplexity": PERPLEXITY,
    "accuracy": ACCURACY,
    "hessian": HESSIAN,
    "connectivity": CONNECTIVITY,
    "barrier": BARRIER,
    "cka": CKA,
    "distance": DISTANCE,
    "simplex": SIMPLEX,
    "espro": ESPRO,
    "slice": SLICE,
    "lines": LINES,
    "predictions": PREDICTIONS,
    "ensemble": ENSEMBLE,
    "soup": SOUP,
    "plane": PLANE,
    "vertex_path": VERTEX_PATH,
    "origin_path": ORIGIN_PATH,
    "decision": DECISION,
    "trace": TRACE,
    "stability": STABILITY,
    "swag_curves": SWAG_CURVES,
    "directions": DIRECTIONS,
    "sam_sharpness": SAM_SHARPNESS,
    "average_sharpness": AVERAGE_SHARPNESS,
    "epsilon_sharpness": EPSILON_SHARPNESS,
    "fisher": FISHER,
    "effective_dimension": EFFECTIVE_DIMENSION,
    "relative_flatness": RELATIVE_FLATNESS,
    "learning_coefficient": LEARNING_COEFFICIENT,
    "power_law": POWER_LAW,
    "merge_tree": MERGE_TREE,
    "angles": ANGLES,
    "loss_change": LOSS_CHANGE,
}
"""In the order in which figures and tables show them."""
