r"""A small Transformer that reads captions, as CLIP's text encoder does.

    x = tokens + positions;   each block: x += attention(norm(x)),  x += mlp(norm(x))
    output: norm(x) at the token END, or norm of the mean of x over all tokens

Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021),
https://arxiv.org/abs/2103.00020, section 2.4: masked self-attention, pre-norm blocks, the
activations at [EOS] as the feature of the text.

The mask lets a token look back only. What stands behind END is therefore never read: a batch may
be cut at its longest caption, and padding changes nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cognates.errors import ConfigError
from cognates.types import END

# Of all weights (Radford et al. 2019, GPT-2, whose blocks these are); the maps that end a residual
# branch have it over sqrt(2 layers), so that the sum of all branches keeps its size.
_INITIAL = 0.02
# Of tokens that are averaged: well above the positions, which add the same to every caption.
_AVERAGED = 0.1
_TOGETHER = 128
"""Fewest captions that are read at once: of two such parts the shorter captions come first."""


class TextTransformer(nn.Module):
    """Captions as token ids in, one feature vector per caption out.

    Args:
        vocabulary: number of token ids, at least 4: three are special.
        length: most tokens of a caption, START and END included; at least 2.
        width: features, a multiple of `heads`.
        layers: blocks, at least 1.
        heads: of the attention, at least 1.
        pooling: "end", the token that has seen all others, or "mean", over START to END. Its blocks
            begin as the identity: the network starts as a bag of words, from which thousands of
            captions teach sooner. Averaged before the norm, tokens count by their length.

    Returns:
        From `forward`: (n, width), of ids (n, l) with l at most `length` and END in every row.

    Raises:
        ConfigError: a size does not fit.

    Example:
        >>> encoder = TextTransformer(vocabulary=10, length=6, width=8, layers=1, heads=2)
        >>> encoder(torch.tensor([[1, 5, END, 0], [1, 5, 7, END]])).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        width: int,
        layers: int,
        heads: int,
        pooling: Literal["end", "mean"] = "end",
    ) -> None:
        """Make the network; see the class for the arguments."""
        super().__init__()
        sizes = {"vocabulary": (vocabulary, 4), "length": (length, 2), "width": (width, 1)}
        for name, (value, least) in {**sizes, "layers": (layers, 1), "heads": (heads, 1)}.items():
            if value < least:
                raise ConfigError(f"Expected '{name}' of at least {least}, got {value}.")
        if width % heads:
            raise ConfigError(
                f"Expected a width of the text encoder divisible by its {heads} heads, got {width}."
            )
        self.length, self.width, self.pooling = length, width, pooling
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.tokens.weight, std=_AVERAGED if pooling == "mean" else _INITIAL)
        nn.init.normal_(self.positions, std=_INITIAL)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                std = 0.0 if pooling == "mean" else _INITIAL / (2 * layers) ** 0.5
                nn.init.normal_(parameter, std=std)
            elif name.endswith(("qkv.weight", "up.weight")):
                nn.init.normal_(parameter, std=_INITIAL)
            elif name.endswith(("qkv.bias", "up.bias", "out.bias", "down.bias")):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the features (n, width) of captions, token ids (n, l)."""
        if len(tokens) < 2 * _TOGETHER:
            return self._read(tokens)
        ends = (tokens == END).to(torch.int64).argmax(dim=1)
        order = ends.argsort()
        # Nothing is read behind END: captions of about one length are cut at the longest of them.
        parts = [
            self._read(tokens[some, : int(ends[some[-1]]) + 1])
            for some in order.tensor_split(len(tokens) // _TOGETHER)
        ]
        return torch.cat(parts)[order.argsort()]

    def _read(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        end = (tokens == END).to(torch.int64).argmax(dim=1)
        if self.pooling == "mean":
            said = torch.arange(tokens.shape[1], device=x.device) <= end[:, None]
            summed = (x * said.unsqueeze(-1).to(x.dtype)).sum(1)
            return self.norm(summed / (end[:, None] + 1).to(x.dtype))
        # The last norm works on each token by itself: only END's is needed.
        return self.norm(x[torch.arange(len(x), device=x.device), end])


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(n, length, width))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x))))
