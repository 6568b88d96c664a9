"""Captions as token ids: a byte-pair encoding learnt from the training captions, and its table.

Hugging Face's `tokenizers` (extra `text`) does the encoding and is imported on first use. A
tokenizer is kept as JSON, in that package's own format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cognates.errors import ConfigError, DataError, MissingExtraError, StorageError
from cognates.random import fold_in, uniform_of
from cognates.types import END, PADDING, START

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Encoding

_SPECIAL = {"[padding]": PADDING, "[start]": START, "[end]": END}
SMALLEST = len(_SPECIAL) + 256
"""Tokens of the smallest vocabulary: the special ones and the 256 bytes, of which any text is."""


class Tokenizer:
    """A byte-level byte-pair encoding in lower case, cut at a length.

    References:
        Neural Machine Translation of Rare Words with Subword Units (Sennrich et al., 2016),
        https://arxiv.org/abs/1508.07909; lower case, START and END as in Learning Transferable
        Visual Models From Natural Language Supervision (Radford et al., 2021),
        https://arxiv.org/abs/2103.00020, section 2.4.
    """

    def __init__(self, encoding: Encoding) -> None:
        """Wrap an encoding that was learnt; see `learn` and `from_json`."""
        self._encoding = encoding

    @classmethod
    def learn(cls, captions: Sequence[str], *, vocabulary: int, length: int) -> Tokenizer:
        """Learn the encoding of a language from its captions.

        Args:
            captions: of the training images, at least one.
            vocabulary: most tokens, at least 259: three special ones and the 256 bytes. Few
                captions give fewer.
            length: tokens to cut and fill a caption to, START and END included; at least 2.

        Raises:
            ConfigError: a number is too small.
            DataError: there is no caption.
            MissingExtraError: the package `tokenizers` is not installed.
        """
        if vocabulary < SMALLEST or length < 2:
            raise ConfigError(
                f"Expected a vocabulary of at least {SMALLEST} and a length of at least 2, got "
                f"{vocabulary} and {length}."
            )
        if not captions:
            raise DataError("Expected captions to learn a vocabulary from, got none.")
        parts = _package()
        encoding = parts.Tokenizer(parts.models.BPE())
        encoding.normalizer = parts.normalizers.Lowercase()
        # A space before the first word too: a word is the same token wherever it stands.
        encoding.pre_tokenizer = parts.pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = parts.trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(_SPECIAL),
            initial_alphabet=sorted(parts.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        encoding.train_from_iterator(captions, trainer)
        encoding.post_processor = parts.processors.TemplateProcessing(
            single="[start] $A [end]",
            special_tokens=[(name, _SPECIAL[name]) for name in ("[start]", "[end]")],
        )
        encoding.enable_truncation(length)
        encoding.enable_padding(length=length, pad_id=PADDING, pad_token="[padding]")
        return cls(encoding)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Read what `to_json` gave.

        Raises:
            StorageError: it is something else.
            MissingExtraError: the package `tokenizers` is not installed.
        """
        try:
            encoding = _package().Tokenizer.from_str(text)
            found = {name: encoding.token_to_id(name) for name in _SPECIAL}
        except MissingExtraError:
            raise
        except Exception as error:  # the package raises nothing narrower
            raise StorageError(f"Expected a tokenizer in JSON, got another ({error}).") from error
        if found != _SPECIAL or encoding.padding is None:
            raise StorageError(f"Expected a tokenizer with the ids {_SPECIAL}, got {found}.")
        return cls(encoding)

    def to_json(self) -> str:
        """Return the whole tokenizer as text."""
        return self._encoding.to_str()

    @property
    def digest(self) -> str:
        """Hash of all that decides which ids a caption gets."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self._encoding.get_vocab_size()

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Return the token ids (n, length) int64 of n captions, filled up with PADDING."""
        rows = [row.ids for row in self._encoding.encode_batch(list(captions))]
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), -1)


@dataclass(frozen=True, eq=False)
class TokenTable:
    """The token ids of every caption of n images, image after image."""

    tokens: Tensor
    """(m, l) int64"""
    first: Tensor
    """(n + 1,) int64: the captions of image i are the rows first[i] to first[i + 1] - 1."""
    together: int = 1
    """c: captions of an image that one draw gives, at least 1."""
    omitted: float = 0.0
    """Probability that a draw leaves out a token between START and END, in [0, 1)."""

    @classmethod
    def of(
        cls,
        captions: Sequence[Sequence[str]],
        tokenizer: Tokenizer,
        *,
        together: int = 1,
        omitted: float = 0.0,
    ) -> TokenTable:
        """Encode the captions of n images, each with at least one."""
        counts = torch.tensor([0, *map(len, captions)])
        every = [caption for several in captions for caption in several]
        return cls(tokenizer.encode(every), counts.cumsum(0), together, omitted)

    def draw(self, index: Tensor, *, seed: int, step: int) -> Tensor:
        """Return captions of each image, drawn evenly by (seed, step, index).

        The first is drawn and the c - 1 after it in the table follow, the table of an image being
        a ring: c different ones of an image that has so many. Each loses tokens of its own.

        Args:
            index: (n,) int64 on the CPU: positions of the images.
            seed: of the run.
            step: zero-based.

        Returns:
            (n, l) int64, or (n, c, l) for c above 1; as long as the longest of them, however the
            batch is shared out.
        """
        start, count = self.first[index], self.first[index + 1] - self.first[index]
        uniform = uniform_of(index, seed=fold_in(seed, "caption", step))
        drawn = torch.minimum((uniform * count).long(), count - 1)
        turned = (drawn[:, None] + torch.arange(self.together)) % count[:, None]
        rows = self.tokens[start[:, None] + turned]
        if self.omitted:
            uniform = uniform_of(index, *rows.shape[1:], seed=fold_in(seed, "omitted", step))
            rows = _without(rows, uniform < self.omitted)
        rows = trimmed(rows.flatten(0, 1))
        return rows if self.together == 1 else rows.view(len(index), self.together, -1)


def trimmed(tokens: Tensor) -> Tensor:
    """Return token ids (n, l) cut where every row has ended."""
    return tokens[:, : int((tokens != PADDING).sum(1).max())] if len(tokens) else tokens


def _without(tokens: Tensor, omitted: Tensor) -> Tensor:
    """Return rows of ids without those omitted, but START and END, closed up and filled again."""
    words = (tokens != PADDING) & (tokens != START) & (tokens != END)
    gone = words & omitted
    # A stable sort of False before True: what stays keeps its order.
    order = gone.to(torch.int8).argsort(dim=-1, stable=True)
    return tokens.masked_fill(gone, PADDING).gather(-1, order)


def _package() -> Any:  # noqa: ANN401  (a module that may not be installed)
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError(
            "Expected the package 'tokenizers' to read captions, got none installed: run pip "
            "install 'cognates[text]'."
        ) from error
    return tokenizers
