"""Tiny translation models and sentence pairs, for the tests of the metrics on sequences: a hundred
parameters.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import Tokens
from phasegrid.tasks.positions import PositionProbe
from phasegrid.tasks.scoring import Scoring
from phasegrid.tasks.tokens import IGNORE

LENGTH, SOURCE_WORDS, TARGET_WORDS = 9, 6, 7
PAIRS = Scoring("translation", TARGET_WORDS)
START, END = 1, 2


def sentence_pairs(
    num: int, words: int = TARGET_WORDS, length: int = LENGTH
) -> tuple[Tensor, Tensor]:
    """Draw pairs of sentences of 1 to `length` - 2 words: inputs (num, 2, length), labels (num,
    length).
    """
    rng = torch.Generator().manual_seed(11)
    inputs = torch.zeros(num, 2, length, dtype=torch.int64)
    labels = torch.full((num, length), IGNORE)
    for pair in range(num):
        s, t = torch.randint(1, length - 1, (2,), generator=rng).tolist()
        source = torch.randint(3, SOURCE_WORDS, (s,), generator=rng)
        target = torch.randint(3, words, (t,), generator=rng)
        inputs[pair, 0, :s], inputs[pair, 0, s] = source, END
        inputs[pair, 1, 0], inputs[pair, 1, 1 : t + 1] = START, target
        labels[pair, :t], labels[pair, t] = target, END
    return inputs, labels


def sentences(num: int = 24, words: int = TARGET_WORDS, more_padding: int = 0) -> Dataset:
    """Two thirds to train on, one third to test on; with `more_padding` zeros after every
    sentence.
    """
    inputs, labels = sentence_pairs(num, words)
    inputs = nn.functional.pad(inputs, (0, more_padding))
    labels = nn.functional.pad(labels, (0, more_padding), value=IGNORE)
    cut = 2 * num // 3
    unit = torch.zeros(1)
    tokens = Tokens(inputs.shape[2], SOURCE_WORDS, words)
    return Dataset(
        "sentences", inputs[:cut], labels[:cut], inputs[cut:], labels[cut:], words, unit, unit, task="translation", form=tokens
    )  # fmt: skip


class Translator(nn.Module):
    """Each target word from the word before it and the mean of the source: looks at no padding and
    not ahead.
    """

    def __init__(self, words: int = TARGET_WORDS, width: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.source = nn.Embedding(SOURCE_WORDS, width)
        self.target = nn.Embedding(words, width)
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, words)

    def forward(self, inputs: Tensor) -> Tensor:
        used = (inputs[:, 0] != 0).unsqueeze(2)
        return self.decode(self.source(inputs[:, 0]) * used, used, self.target(inputs[:, 1]))

    def decode(self, source: Tensor, used: Tensor, target: Tensor) -> Tensor:
        mean = source.sum(1, keepdim=True) / used.sum(1, keepdim=True)
        return self.out(self.norm(self.dropout(self.hidden(target + mean)).tanh() + target))


class MixingTranslator(Translator):
    """The same, able to mix embedded sentences."""

    def forward_mixed(self, inputs_a: Tensor, inputs_b: Tensor, coefficients: Tensor) -> Tensor:
        c = coefficients.view(-1, 1, 1)
        a, b = ((inputs != 0).unsqueeze(3) for inputs in (inputs_a, inputs_b))
        source = (
            c * self.source(inputs_a[:, 0]) * a[:, 0]
            + (1 - c) * self.source(inputs_b[:, 0]) * b[:, 0]
        )
        target = (
            c * self.target(inputs_a[:, 1]) * a[:, 1]
            + (1 - c) * self.target(inputs_b[:, 1]) * b[:, 1]
        )
        return self.decode(source, a[:, 0] | b[:, 0], target)  # fmt: skip


def translator(
    seed: int = 0, make: Callable[..., nn.Module] = MixingTranslator, **args: Any
) -> Any:
    """Build a translation model in float64, eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make(**args).double().eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def token_loss(module: nn.Module, inputs: Tensor, labels: Tensor, *parameters: Tensor) -> Tensor:
    """Return the mean cross-entropy over scored tokens, token by token, at `parameters` if they are
    given.
    """
    names = [name for name, _ in module.named_parameters()]
    given = dict(zip(names, parameters, strict=True)) if parameters else {}
    log_p = functional_call(module, given, (inputs,)).log_softmax(2)
    places = (labels != IGNORE).nonzero().tolist()
    return -torch.stack([log_p[n, i, labels[n, i]] for n, i in places]).mean()


def dense_token_hessian(module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the Hessian (P, P) of `token_loss`, row by row.

    Not by `torch.func.hessian`: where a LayerNorm has weights it is not even symmetric (torch
    2.15), finite differences tell.
    """
    shapes = [p.shape for p in module.parameters()]

    def loss(w: Tensor) -> Tensor:
        parts = w.split([shape.numel() for shape in shapes])
        parameters = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        return token_loss(module, inputs, labels, *parameters)

    vector = nn.utils.parameters_to_vector(module.parameters()).detach()
    hessian: Tensor = torch.autograd.functional.hessian(loss, vector)
    return hessian


def features_by_hand(module: Any, pairs: PositionProbe, layer: str) -> Tensor:
    """Run pair by pair, untrimmed, and take the layer at the pair's position."""
    caught: list[Tensor] = []
    hooks = []
    if layer not in {"logits", "softmax"}:
        taken = module.get_submodule(layer)
        hooks.append(taken.register_forward_hook(lambda *call: caught.append(call[2])))
    rows = []
    for i, position in enumerate(pairs.positions.tolist()):
        some = slice(i, i + 1)
        with torch.no_grad():
            if pairs.mix is None:
                logits = module(pairs.inputs[some])
            else:
                logits = module.forward_mixed(
                    pairs.inputs[some], pairs.mix.partners[some], pairs.mix.shares[some]
                )
        output = caught[-1] if hooks else logits.softmax(2) if layer == "softmax" else logits
        rows.append(output[0, position])
    for hook in hooks:
        hook.remove()
    return torch.stack(rows)
