"""Declarations of the metrics that look at trained weights as they are: accuracy, distance, Hessian, CKA.

Where the paper and its published code differ the paper is the default.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import Column, Metric

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class AccuracyArgs:
    """`ece_bins` equal-width bins of confidence (Guo et al. 2017 use 15).

    For sentence pairs everything is over scored target tokens, predicted from the true words before them: loss is the mean token
    cross-entropy, accuracy token accuracy, calibration that of the predicted words. BLEU is a metric of its own.
    """

    ece_bins: Count = 15


ACCURACY = Metric(
    over="trial",
    args=AccuracyArgs,
    compute="phasegrid.metrics.accuracy:compute",
    label="Accuracy",
    columns=(
        Column(
            "train_loss", "float64", "nats", "mean cross-entropy on the training set, eval mode"
        ),
        Column("train_accuracy_percent", "float64", "%", "training accuracy"),
        Column(
            "train_ece", "float64", "", "expected calibration error on the training set, in [0, 1]"
        ),
        Column("test_loss", "float64", "nats", "mean cross-entropy on the test set, eval mode"),
        Column("test_accuracy_percent", "float64", "%", "test accuracy"),
        Column("test_ece", "float64", "", "expected calibration error on the test set, in [0, 1]"),
        Column(
            "num_train",
            "int64",
            "labels",
            "training labels scored: one per example, or the target tokens of sentence pairs",
        ),
        Column("num_test", "int64", "labels", "test labels scored"),
    ),
)


@dataclass(frozen=True, slots=True)
class DistanceArgs:
    """Trainable parameters only (BatchNorm affine included, running statistics not), as in the published code."""


DISTANCE = Metric(
    over="pair",
    args=DistanceArgs,
    compute="phasegrid.metrics.distance:compute",
    compute_many="phasegrid.metrics.distance:compute_many",
    min_trials=2,
    label="Distance",
    columns=(
        Column("l2_distance", "float64", "", "Euclidean distance between the trainable parameters"),
        Column(
            "cosine_similarity",
            "float64",
            "",
            "cosine of the angle between the two parameter vectors",
        ),
        Column("num_parameters", "int64", "", "trainable parameters of one model"),
    ),
)


@dataclass(frozen=True, slots=True)
class HessianArgs:
    """The Hessian of the mean cross-entropy at the trained weights.

    - `examples` drawn without replacement from the training set with `example_seed`, the same for every trial
      (Yang et al. 2021 use 200); fewer if the set is smaller.
    - `batch_norm`: running statistics ``as_saved`` (published code), ``refreshed`` by one pass over the training
      set, or statistics of the batch itself (``train``).
    - `steps` of Lanczos (with full reorthogonalisation), more if needed for `tolerance` (relative, on lambda_max, and after all
      else is measured on lambda_min; at most 4 times as many).
    - `density_probes`: Lanczos runs for the spectral density. Converged eigenvalues of the first have the exact weight 1/P; the
      rest is estimated by its other nodes and by runs on what is left, averaged.
    - `trace`: ``auto`` is exact where tr(H) = tr(GGN) is known to hold (piecewise-linear networks in eval mode) and otherwise
      deflated Hutchinson with `trace_probes` probes and a standard error.

    For sentence pairs `examples` counts pairs, and H is that of the mean token cross-entropy: the sum over all scored target tokens of
    the pairs drawn, divided by the number of these tokens. Without label smoothing, as for images. Attention and LayerNorm are
    not piecewise linear, so the trace of a transformer is an estimate.
    """

    examples: Count = 200
    example_seed: Seed = 0
    batch_norm: Literal["as_saved", "refreshed", "train"] = "as_saved"
    steps: Annotated[int, Field(ge=2)] = 40
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    density_probes: Count = 1
    trace: Literal["auto", "hutchinson"] = "auto"
    trace_probes: Annotated[int, Field(ge=2)] = 20


HESSIAN = Metric(
    over="trial",
    args=HessianArgs,
    compute="phasegrid.metrics.hessian:compute",
    version=2,  # the density is deflated
    label="Hessian",
    columns=(
        Column("lambda_max", "float64", "", "largest eigenvalue (algebraic)"),
        Column(
            "lambda_max_residual", "float64", "", "norm of H v - lambda v for the unit Ritz vector"
        ),
        Column(
            "lambda_min", "float64", "", "smallest eigenvalue (algebraic; negative at a saddle)"
        ),
        Column(
            "lambda_min_residual", "float64", "", "norm of H v - lambda v for the unit Ritz vector"
        ),
        Column("trace", "float64", "", "sum of the eigenvalues"),
        Column("trace_stderr", "float64", "", "standard error of the trace; 0 where it is exact"),
        Column("trace_method", "string", "", "exact_ggn, exact_spectrum or hutchinson_deflated"),
        Column(
            "density_nodes",
            "list<float64>",
            "",
            "Ritz values: nodes of the spectral density, ascending",
        ),
        Column(
            "density_weights",
            "list<float64>",
            "",
            "weights of the nodes: 1/P where converged, the rest estimated; they sum to 1",
        ),
        Column("num_hvps", "int64", "", "Hessian-vector products spent"),
        Column(
            "hvp_method",
            "string",
            "",
            "how second derivatives were taken: double_backward, or where that is not symmetric reference or differences",
        ),
        Column(
            "num_examples", "int64", "examples", "training examples (or sentence pairs) of the loss"
        ),
        Column("loss", "float64", "nats", "the loss on these examples, under the BatchNorm policy"),
        Column("num_parameters", "int64", "", "dimension of the Hessian"),
        Column("batch_norm", "string", "", "BatchNorm policy used; null without BatchNorm"),
    ),
)


@dataclass(frozen=True, slots=True)
class CkaArgs:
    """Linear centred kernel alignment between two models' outputs (Kornblith et al. 2019; Yang et al. 2021, section 2).

    - `examples` drawn from the training set with `example_seed`; every model of a comparison sees the same inputs.
    - `mixup_alpha`: inputs are mixup pairs with coefficients from Beta(alpha, alpha); null for none.
      `mixup`: each example its own coefficient and partner (``independent``, the paper) or one coefficient per batch of 128 mixed
      with a permutation of the batch (``per_batch``, the published code).
    - `pixel_noise` u: adds U[0, u] in pixel units instead (needs ``mixup_alpha: null``).
    - `layers`: ``softmax`` (the paper's footnote 2), ``logits``, or names of submodules as `named_modules` gives them.

    For sentence pairs the rows compared are target positions under teacher forcing: one scored position of each of the `examples` pairs,
    drawn with `example_seed`, every one equally likely. There ``softmax`` and ``logits`` have a column per target word; a
    submodule must give (pairs, positions, features) and is looked at in the same position (of the source sentence, for a layer that reads
    it, where that may be padding). Mixup mixes the embedded source sentence and the embedded decoder input of a pair with a
    partner's by the model's method ``forward_mixed(inputs_a, inputs_b, coefficients) -> logits`` (the built-in transformer mixes where
    both have a word), and the position is the pair's own; a model without it needs ``mixup_alpha: null``. `pixel_noise` has no
    meaning there and is refused. (Yang et al. 2021 do not say how they compare translation models; this is our definition.)
    """

    examples: Annotated[int, Field(ge=4)] = 640
    example_seed: Seed = 0
    mixup_alpha: Annotated[float, Field(gt=0)] | None = 16.0
    mixup: Literal["independent", "per_batch"] = "independent"
    pixel_noise: Annotated[float, Field(gt=0)] | None = None
    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("softmax",)


CKA = Metric(
    over="pair",
    args=CkaArgs,
    compute="phasegrid.metrics.cka:compute",
    compute_many="phasegrid.metrics.cka:compute_many",
    min_trials=2,
    label="CKA",
    columns=(
        Column("layer", "string", "", "the layer compared; one row each"),
        Column(
            "cka",
            "float64",
            "",
            "biased linear CKA, as in the paper; null if a model's output is constant",
        ),
        Column(
            "cka_unbiased",
            "float64",
            "",
            "CKA from the unbiased HSIC of Song et al. 2012; null for fewer than 4 inputs",
        ),
        Column("num_examples", "int64", "examples", "inputs compared"),
        Column("num_features", "int64", "", "width of the layer"),
    ),
)
