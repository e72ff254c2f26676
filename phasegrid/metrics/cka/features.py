"""The features of a layer of a network: a row for each thing that networks are compared on, in eval
mode.

Letters: m examples or sentence pairs, d features, L positions of a sentence, V words of the target
vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.metrics.cka.inputs import SentencePairs
from phasegrid.metrics.network.outputs import predict, sentence_batches, sentence_lengths
from phasegrid.models.network_state import evaluating, outputs_of

OUTPUTS = ("softmax", "logits")  # layers that are not names of submodules


def collect_features(
    module: nn.Module, inputs: Tensor, layers: Sequence[str], batch_size: int | None = None
) -> dict[str, Tensor]:
    """Return the outputs of `layers` for `inputs` (m, ...) in eval mode, each flattened to (m, d).

    Raises:
        MetricError: if a layer is not a submodule, does not run, or gives no tensor with a row per
        example.
    """
    caught: dict[str, list[Tensor]] = {name: [] for name in layers if name not in OUTPUTS}

    def keep(name: str, output: Tensor) -> None:
        caught[name].append(output.flatten(1).clone())  # the next layer may work in place

    with _listening(module, list(caught), keep):
        logits = predict(module, inputs, batch_size)
    features = {name: _join(kept, name, len(inputs)) for name, kept in caught.items()}
    features["logits"] = logits.flatten(1)
    features["softmax"] = _softmax(logits).flatten(1)
    return {name: features[name] for name in layers}


def collect_at_positions(
    module: nn.Module, pairs: SentencePairs, layers: Sequence[str], vocabulary: int
) -> dict[str, Tensor]:
    """Return the outputs (m, d) of `layers` at one position of each of m sentence pairs, in eval
    mode.

    What is kept is (m, V) or (m, d); the logits of a batch, (n, l, V), take at most
    `outputs.LOGIT_BYTES`, or what one pair takes.

    Raises:
        MetricError: if the pairs are mixed and `module` cannot do that, or a layer is not a
            submodule, does not run, or gives no tensor (pairs, positions, features).
    """
    parameter = next(module.parameters())
    caught: dict[str, list[Tensor]] = {name: [] for name in layers}
    lengths = sentence_lengths(pairs.inputs)
    if pairs.partners is not None:
        lengths = lengths.maximum(sentence_lengths(pairs.partners))
    batches = sentence_batches(lengths, vocabulary, parameter.element_size())
    with evaluating(module):
        for batch in batches:
            some = pairs.take(batch, int(lengths[batch].max()))

            def keep(name: str, output: Tensor, some: SentencePairs = some) -> None:
                caught[name].append(_at_positions(name, output, some))

            with _listening(module, [name for name in caught if name not in OUTPUTS], keep):
                logits = _at_positions("logits", _run(module, some, parameter.dtype), some)
            for name, rows in (("logits", logits), ("softmax", _softmax(logits))):
                if name in caught:
                    caught[name].append(rows)
    back = torch.cat(batches).argsort()
    return {name: _join(kept, name, len(back))[back] for name, kept in caught.items()}


def _run(module: nn.Module, pairs: SentencePairs, dtype: torch.dtype) -> Tensor:
    """Return the logits (n, l, V) of `pairs`, mixed with their partners where they have some."""
    if pairs.partners is None or pairs.coefficients is None:
        return outputs_of(module, pairs.inputs)
    forward_mixed = getattr(module, "forward_mixed", None)
    if forward_mixed is None:
        raise MetricError(
            "CKA: mixup of sentence pairs mixes their embeddings, by a method"
            f" forward_mixed(inputs_a, inputs_b, coefficients) that {type(module).__name__} does"
            " not have; add it, or set mixup_alpha: null"
        )
    mixed: Tensor = forward_mixed(pairs.inputs, pairs.partners, pairs.coefficients.to(dtype))
    return mixed


def _at_positions(name: str, output: Tensor, pairs: SentencePairs) -> Tensor:
    """Return the rows (n, d) of `output` (n, l, d) at the positions of `pairs`, copied."""
    n, _, length = pairs.inputs.shape
    if output.dim() != 3 or output.shape[:2] != (n, length):
        raise MetricError(
            f"CKA: layer {name!r} gives outputs of shape {tuple(output.shape)} for {n} sentence"
            f" pairs of {length} positions; one to compare translation models by gives (pairs,"
            " positions, features)"
        )
    return output[torch.arange(n, device=output.device), pairs.positions]


def _softmax(logits: Tensor) -> Tensor:
    return logits.double().softmax(1).to(logits.dtype)


@contextmanager
def _listening(
    module: nn.Module, names: Sequence[str], hear: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Tell `hear` the outputs of the submodules called `names` while the context lasts."""
    submodules = {name: layer for name, layer in module.named_modules() if name}
    for name in names:
        if name not in submodules:
            raise MetricError(
                f"CKA: the model has no layer {name!r}; it has {', '.join([*OUTPUTS, *submodules])}"
            )
    hooks = [submodules[name].register_forward_hook(partial(_tell, hear, name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tell(
    hear: Callable[[str, Tensor], None], name: str, _layer: nn.Module, _args: object, output: object
) -> None:
    if not isinstance(output, Tensor):
        raise MetricError(f"CKA: layer {name!r} gives {type(output).__name__}, not one tensor")
    hear(name, output)


def _join(kept: list[Tensor], name: str, num: int) -> Tensor:
    rows = sum(len(part) for part in kept)
    if rows != num:
        raise MetricError(
            f"CKA: layer {name!r} gave {rows} rows for {num} inputs; a layer must run once per "
            "forward pass and keep one row per example"
        )
    return torch.cat(kept)
