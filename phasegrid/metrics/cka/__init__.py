"""Similarity of the outputs of two trained networks: linear centred kernel alignment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, Column, DatasetFacts, Finding, Metric
from phasegrid.estimates import evaluation_bytes, passes
from phasegrid.metrics.ranges import Seed
from phasegrid.tasks import TASKS


@dataclass(frozen=True, slots=True)
class CkaArgs:
    """Linear centred kernel alignment between two models' outputs (Kornblith et al. 2019; Yang et
    al. 2021, section 2).

    - `examples`: the number of training examples, drawn with `example_seed`; every model of a
      comparison sees the same inputs.
    - `mixup_alpha`: inputs are mixup pairs with coefficients from Beta(alpha, alpha); null for no
      mixup. `mixup`: a coefficient and a partner for each example (``independent``, as in the
      paper), or one coefficient per batch of 128, mixed with a permutation of the batch
      (``per_batch``, as in the published code).
    - `pixel_noise` u: add U[0, u] in pixel units instead (needs ``mixup_alpha: null``).
    - `layers`: ``softmax`` (the paper's footnote 2; null for networks whose objective has no
      probabilities), ``logits``, or names of submodules as in `named_modules`.

    For sentence pairs the compared rows are target positions under teacher forcing: one scored
    position of each of the `examples` pairs, drawn with `example_seed`, all equally likely.
    ``softmax`` and ``logits`` then have one column per target word. A submodule must give (pairs,
    positions, features) and is compared at the same position; for a layer that reads the source
    sentence, that may be padding. Mixup mixes the embeddings of two pairs, source and decoder input
    alike, with the model's method ``forward_mixed(inputs_a, inputs_b, coefficients) -> logits``
    (the built-in transformer mixes where both have a word); the position is that of the first pair.
    A model without this method needs ``mixup_alpha: null``. `pixel_noise` is refused. (Yang et al.
    2021 do not say how they compare translation models; this is our definition.)
    """

    examples: Annotated[int, Field(ge=4, le=MAX_COUNT)] = 640
    example_seed: Seed = 0
    mixup_alpha: Annotated[float, Field(gt=0)] | None = 16.0
    mixup: Literal["independent", "per_batch"] = "independent"
    pixel_noise: Annotated[float, Field(gt=0)] | None = None
    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("softmax",)


def _one_change_of_inputs(args: Mapping[str, Any]) -> Finding | None:
    if args["pixel_noise"] is not None and args["mixup_alpha"] is not None:
        return "pixel_noise", f"found {args['pixel_noise']}; pixel_noise needs mixup_alpha: null"
    return None


def _each_layer_once(args: Mapping[str, Any]) -> Finding | None:
    layers: Sequence[str] = args["layers"]
    if len(set(layers)) < len(layers):
        return "layers", f"found {list(layers)}; each layer once"
    return None


def _noise_on_pixels_only(
    args: Mapping[str, Any], _recipe: Mapping[str, Any], facts: DatasetFacts
) -> Finding | None:
    if args["pixel_noise"] is not None and not TASKS[facts.task].pixels:
        return (
            "pixel_noise",
            f"found {args['pixel_noise']}, but the examples are {TASKS[facts.task].examples} and"
            " have no"
            " pixels; allowed: null",
        )
    return None


CKA = Metric(
    over="pair",
    args=CkaArgs,
    compute="phasegrid.metrics.cka.compute:compute",
    compute_many="phasegrid.metrics.cka.compute:compute_many",
    min_trials=2,
    label="CKA",
    rules=(_one_change_of_inputs, _each_layer_once),
    fits=_noise_on_pixels_only,
    cost=lambda job: passes(job.work, int(job.args["examples"]), 500, 1),
    memory=lambda job: evaluation_bytes(job.work),
    columns=(
        Column(
            "layer", "string", "", "the layer compared; one row each", role="axis", usual="softmax"
        ),
        Column(
            "cka",
            "float64",
            "",
            "biased linear CKA, as in the paper; null if a model's output is constant",
            label="CKA",
        ),
        Column(
            "cka_unbiased",
            "float64",
            "",
            "CKA from the unbiased HSIC of Song et al. 2012; null for fewer than 4 inputs",
            label="CKA, unbiased",
        ),
        Column("num_examples", "int64", "examples", "inputs compared"),
        Column("num_features", "int64", "", "width of the layer"),
    ),
)
