"""The encoder-decoder Transformer, pre-LayerNorm, with a width factor (Vaswani et al. 2017; Yang et
al. 2021, B.3).

The paper has six layers and eight heads and varies the width d. What it leaves open follows its
sister code: LayerNorm before each sublayer (x + sublayer(norm(x))) and once more after the last
layer of encoder and decoder; a feed-forward network of 4d units with ReLU; separate source and
target embeddings scaled by sqrt(d); sinusoidal positions (Vaswani et al. 2017, section 3.5); an
output layer with bias that shares no weights; no dropout. Every matrix, including embeddings, is
drawn from Glorot's uniform distribution (each query, key and value matrix by itself); biases start
as in PyTorch.

Letters: N sentence pairs, l positions, d width, h heads, V words. Attention consists of ordinary
operations, so that it can be differentiated twice. The attention weight of padding is exactly zero,
except in a sentence that is only padding: its weights are uniform, which is finite and has no
effect.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from phasegrid.declare import Tokens
from phasegrid.tasks.tokens import PADDING


def make(
    tokens: Tokens, *, width: int, depth: int = 6, heads: int = 8, feed_forward: int = 4
) -> "Transformer":
    """Make the network for d = `width`; it maps int64 (N, 2, l) to logits (N, l, V) for any l.

    Parameters with depth 6 and feed_forward 4, source and target vocabularies of S and T words: 168
    d^2 + 196 d + S d + T (2d + 1). Layers: ``source_embedding``, ``target_embedding``,
    ``encoder.0.attention.query``,
    ..., ``decoder.5.feed_forward.linear2``, ``encoder_norm``, ``decoder_norm``, ``classifier``.
    """
    return Transformer(tokens, width, depth, heads, feed_forward)


class Transformer(nn.Module):
    """The network; see `make`."""

    def __init__(
        self, tokens: Tokens, width: int, depth: int, heads: int, feed_forward: int
    ) -> None:
        super().__init__()
        hidden = feed_forward * width
        self.source_embedding = nn.Embedding(tokens.source_vocabulary, width)
        self.target_embedding = nn.Embedding(tokens.target_vocabulary, width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, hidden) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, tokens.target_vocabulary)
        _draw_matrices(self)

    def reset_parameters(self) -> None:
        """Draw all parameters anew, from the same distributions as `make`."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.LayerNorm):
                layer.reset_parameters()
        _draw_matrices(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map `inputs` (N, 2, l), source tokens and decoder input, to logits (N, l, V)."""
        source, given = inputs.unbind(dim=1)
        return self._run(
            inputs,
            self._scaled(self.source_embedding, source),
            self._scaled(self.target_embedding, given),
        )

    def forward_mixed(self, inputs_a: Tensor, inputs_b: Tensor, coefficients: Tensor) -> Tensor:
        """Return logits (N, l, V) for embeddings mixed position by position: c e(a) + (1 - c) e(b).

        `inputs_a`, `inputs_b` (N, 2, l), `coefficients` c (N,). Where a or b is padding, the
        embedding is e(a) alone; masks are those of a. Both the source sentences and the decoder
        inputs are mixed; sinusoidal positions are not, because both have the same ones.
        """
        both = (inputs_a != PADDING) & (inputs_b != PADDING)
        share = torch.where(both, coefficients[:, None, None], 1.0)[..., None]
        embedded = []
        for i, embedding in enumerate((self.source_embedding, self.target_embedding)):
            a, b = (self._scaled(embedding, inputs[:, i]) for inputs in (inputs_a, inputs_b))
            c = share[:, i].to(a.dtype)
            embedded.append(c * a + (1 - c) * b)
        return self._run(inputs_a, *embedded)

    def encode(self, source: Tensor, embedded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the encoder's output (N, l, d) for `source` (N, l), and which positions are
        padding (N, 1, 1, l).

        `embedded` (N, l, d), if given, replaces the scaled embeddings of `source`.
        """
        hidden = (source == PADDING)[:, None, None]
        x = self._scaled(self.source_embedding, source) if embedded is None else embedded
        x = x + positions(x.shape[1], x)
        for layer in self.encoder:
            x = layer(x, hidden)
        return self.encoder_norm(x), hidden

    def start_decoding(self, source: Tensor) -> "Decoding":
        """Encode `source` (N, l) and return a function that gives the logits of each next word; see
        `Decoding`.
        """
        return Decoding(self, source)

    def _run(self, inputs: Tensor, source: Tensor, given: Tensor) -> Tensor:
        memory, hidden = self.encode(inputs[:, 0], source)
        length = inputs.shape[2]
        ahead = torch.ones(length, length, dtype=torch.bool, device=inputs.device).triu(1)
        unseen = (inputs[:, 1] == PADDING)[:, None, None] | ahead
        x = given + positions(length, given)
        for layer in self.decoder:
            x = layer(x, unseen, memory, hidden)
        logits: Tensor = self.classifier(self.decoder_norm(x))
        return logits

    def _scaled(self, embedding: nn.Module, ids: Tensor) -> Tensor:
        vectors: Tensor = embedding(ids)
        return vectors * math.sqrt(vectors.shape[-1])


class Decoding:
    """The state of a translation, one word of each sentence at a time.

    Call it with the next decoder token of every sentence (N,), first the start token; it returns
    the logits (N, V) of the word after it. The result equals that of `Transformer.forward` on the
    tokens so far (up to rounding), at the cost of one position, because keys and values of earlier
    positions are kept.
    """

    def __init__(self, model: Transformer, source: Tensor) -> None:
        memory, self._hidden = model.encode(source)
        self._model = model
        self._layers = [layer for layer in model.decoder if isinstance(layer, DecoderLayer)]
        self._memories = [layer.cross.keys_values(memory) for layer in self._layers]
        self._past: list[tuple[Tensor, Tensor]] = []
        self._position = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        """Take the next tokens (N,); return logits (N, V)."""
        model = self._model
        x = model._scaled(model.target_embedding, tokens[:, None])
        x = x + positions(self._position + 1, x)[-1]
        present = []
        for i, layer in enumerate(self._layers):
            past = self._past[i] if self._past else None
            x, seen = layer.step(x, past, self._memories[i], self._hidden)
            present.append(seen)
        self._past, self._position = present, self._position + 1
        logits: Tensor = model.classifier(model.decoder_norm(x))
        return logits[:, 0]


class EncoderLayer(nn.Module):
    """x + attention(norm1(x)), then x + feed_forward(norm2(x))."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = _feed_forward(width, hidden)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Map (N, l, d) to the same shape; `hidden` broadcasts to (N, h, l, l)."""
        y = self.norm1(x)
        x = x + self.attention(y, self.attention.keys_values(y), hidden)
        out: Tensor = x + self.feed_forward(self.norm2(x))
        return out


class DecoderLayer(nn.Module):
    """x + attention(norm1(x)), then x + cross(norm2(x), memory), then x +
    feed_forward(norm3(x)).
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = _feed_forward(width, hidden)

    def forward(self, x: Tensor, unseen: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        """Map (N, l, d) to the same shape. `unseen` hides positions of x, `hidden` those of
        `memory` (N, m, d).
        """
        y = self.norm1(x)
        x = x + self.attention(y, self.attention.keys_values(y), unseen)
        return self._look_at(x, self.cross.keys_values(memory), hidden)

    def step(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor] | None,
        memory: tuple[Tensor, Tensor],
        hidden: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map the newest position (N, 1, d); return it with the keys and values of all positions so
        far.
        """
        y = self.norm1(x)
        keys, values = self.attention.keys_values(y)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        x = x + self.attention(y, (keys, values), None)
        return self._look_at(x, memory, hidden), (keys, values)

    def _look_at(self, x: Tensor, memory: tuple[Tensor, Tensor], hidden: Tensor) -> Tensor:
        x = x + self.cross(self.norm2(x), memory, hidden)
        out: Tensor = x + self.feed_forward(self.norm3(x))
        return out


class Attention(nn.Module):
    """Multi-head attention: softmax(q k^T / sqrt(d / h)) v per head, then a linear layer (Vaswani
    et al. 2017, 3.2).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (N, h, l, d/h) of x (N, l, d)."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self._per_head(keys), self._per_head(values)

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], hidden: Tensor | None
    ) -> Tensor:
        """Map queries from x (N, l, d) to (N, l, d); True in `hidden`, broadcast to (N, h, l, m),
        hides a key.
        """
        keys, values = keys_values
        queries = self._per_head(self.query(x)) / math.sqrt(keys.shape[-1])
        scores = queries @ keys.transpose(-2, -1)
        if hidden is not None:
            scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)  # -inf: NaN
        found = scores.softmax(dim=-1) @ values
        out: Tensor = self.output(found.transpose(-3, -2).flatten(-2))
        return out

    def _per_head(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(-3, -2)


def positions(length: int, like: Tensor) -> Tensor:
    """Return the sinusoidal positions (length, d), where d is the last size of `like`, in its dtype
    and on its device.

    p[t, 2i] = sin(t / 10000^(2i/d)),  p[t, 2i + 1] = cos(t / 10000^(2i/d))  (Vaswani et al. 2017,
    section 3.5)
    """
    width = like.shape[-1]
    even = torch.arange(0, width, 2, dtype=like.dtype, device=like.device)
    places = torch.arange(length, dtype=like.dtype, device=like.device)
    angles = places[:, None] * torch.exp(even * (-math.log(10_000) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def _feed_forward(width: int, hidden: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        linear1=nn.Linear(width, hidden), relu=nn.ReLU(), linear2=nn.Linear(hidden, width)
    )
    return nn.Sequential(layers)


def _draw_matrices(model: nn.Module) -> None:
    """Draw every matrix from U(-a, a), a = sqrt(6 / (rows + columns)); key and value matrices count
    separately.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            parts = 2 if name.endswith("key_value.weight") else 1
            for matrix in parameter.detach().chunk(parts):
                nn.init.xavier_uniform_(matrix)
