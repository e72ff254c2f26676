"""A language model of LSTM layers (Hochreiter and Schmidhuber 1997), stacked as by Zaremba et al.
(2014).

With x_t the embedded word, or the output of the layer below, and sigma the logistic function:

    i, f, g, o = W_x x_t + W_h h_(t-1) + b         (4 H numbers; one bias, as in the paper)
    c_t = sigma(f) c_(t-1) + sigma(i) tanh(g)
    h_t = sigma(o) tanh(c_t)

Dropout acts between layers, never along time: on the embedded words, and on the outputs of each
layer. Letters: B streams, T words of a window, V words of the vocabulary, E numbers of an embedded
word, H units, D layers.
"""

import warnings

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from phasegrid.declare import Windows


class LstmLayer(nn.Module):
    """One layer of `width` = H units over inputs of `size` numbers.

    In train mode, and wherever gradients are off, it runs as one kernel of torch, which is 1.2 to 9
    times as fast as the cell in single operations (H of 200 and of 16, 20 streams of 35 words, one
    CPU thread). That kernel has no second derivative on a GPU. So in eval mode with gradients,
    which only measurements of curvature use, the cell runs in single operations. So it does on a
    CPU for numbers of several types (autocast), which the kernel refuses.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.input_weight = nn.Parameter(torch.empty(4 * width, size))
        self.hidden_weight = nn.Parameter(torch.empty(4 * width, width))
        self.bias = nn.Parameter(torch.empty(4 * width))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs (B, T, H) for `x` (B, T, size), and the last h and c, (B, H) each."""
        mixed = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if mixed or (torch.is_grad_enabled() and not self.training):
            return self.written_out(x, h, c)
        return self.in_one_kernel(x, h, c)

    def in_one_kernel(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run torch's own layer, whose second bias is zero."""
        weights = [self.input_weight, self.hidden_weight, self.bias, torch.zeros_like(self.bias)]
        with warnings.catch_warnings():  # cuDNN copies weights that lie in several pieces of memory
            warnings.filterwarnings("ignore", "RNN module weights are not part of single")
            found = torch.lstm(
                x,
                (h.unsqueeze(0), c.unsqueeze(0)),
                weights,
                True,
                1,
                0.0,
                self.training,
                False,
                True,
            )
        return found[0], found[1].squeeze(0), found[2].squeeze(0)

    def written_out(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the cell word by word, by the equations of the module."""
        outputs = []
        for given in linear(x, self.input_weight, self.bias).unbind(1):
            i, f, g, o = (given + linear(h, self.hidden_weight)).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs, dim=1), h, c


class Lstm(nn.Module):
    """The language model: from words (B, T) to logits (B, T, V) of the next words.

    Names of layers: ``embedding``, ``given.0`` ... (the outputs of each LSTM layer), ``decoder``.
    With `tied` the output layer's weight is the embedding (Press and Wolf 2017).
    """

    def __init__(
        self, words: int, width: int, depth: int, size: int, tied: bool, dropout: float, init: float
    ) -> None:
        super().__init__()
        self.width, self.init = width, init
        self.embedding = nn.Embedding(words, size)
        self.embedded = nn.Dropout(dropout)
        sizes = [size, *[width] * (depth - 1)]
        self.layers = nn.ModuleList(LstmLayer(below, width) for below in sizes)
        self.given = nn.ModuleList(nn.Dropout(dropout) for _ in sizes)
        self.decoder = nn.Linear(width, words)
        if tied:
            self.decoder.weight = self.embedding.weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every weight and bias from U(-init, init) (Zaremba et al. 2014, section 4.1)."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -self.init, self.init)

    def start(self, num: int) -> Tensor:
        """Return the state (B, 2 D, H) of `num` = B streams before their first word: zeros. A state
        holds h of every layer, then c of every layer.
        """
        return self.decoder.weight.new_zeros(num, 2 * len(self.layers), self.width)

    def forward(
        self, inputs: Tensor, state: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Without `state`, return the logits (B, T, V) from the start; with a `state` (B, 2 D, H),
        return the logits after it and the state at the end.
        """
        begin = self.start(len(inputs)) if state is None else state
        logits, end = self._read(self.embedding(inputs), begin)
        return logits if state is None else (logits, end)

    def forward_mixed(self, inputs: Tensor, others: Tensor, shares: Tensor) -> Tensor:
        """Return the logits (B, T, V), from the start, for mixed embeddings s x + (1 - s) x' with
        `shares` s (B,).
        """
        s = shares.view(-1, 1, 1)
        x = s * self.embedding(inputs) + (1 - s) * self.embedding(others)
        return self._read(x, self.start(len(inputs)))[0]

    def _read(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits for embedded words (B, T, E), and the state at the end."""
        x = self.embedded(x)
        h, c = state.chunk(2, dim=1)
        ends: tuple[list[Tensor], list[Tensor]] = ([], [])
        for index, (layer, given) in enumerate(zip(self.layers, self.given, strict=True)):
            x, *end = layer(x, h[:, index], c[:, index])
            x = given(x)
            for kept, value in zip(ends, end, strict=True):
                kept.append(value)
        logits: Tensor = self.decoder(x)
        return logits, torch.stack([*ends[0], *ends[1]], dim=1)


def make(
    form: Windows,
    *,
    width: int,
    depth: int,
    embedding: int | None,
    tied: bool,
    dropout: float,
    init: float,
) -> nn.Module:
    """Make a language model for the vocabulary of `form`.

    Parameters: V E + sum over layers of 4 H (size + H + 1) + (H + 1) V, minus V E if tied; for 2
    layers of 200 units and 10,000 words: 4,651,600.
    """
    size = width if embedding is None else embedding
    return Lstm(form.vocabulary, width, depth, size, tied, dropout, init)
