"""Captions as token ids: the encoding, its JSON, and which caption a step draws."""

import builtins
import dataclasses

import pytest
import torch

from cognates.data.tokens import SMALLEST, Tokenizer, TokenTable, trimmed
from cognates.errors import ConfigError, DataError, MissingExtraError, StorageError
from cognates.types import END, PADDING, START

tokenizers = pytest.importorskip("tokenizers")

CAPTIONS = ["A dog runs on the beach .", "Two dogs run", "the dog on the beach"] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.learn(CAPTIONS, vocabulary=300, length=8)


def test_a_caption_is_bracketed_filled_and_cut(tokenizer):
    ids = tokenizer.encode(["dog", "the dog on the beach " * 9, ""])
    assert ids.shape == (3, 8)
    assert ids.dtype == torch.int64
    assert ids[:, 0].tolist() == [START] * 3
    assert (ids == END).sum(1).tolist() == [1, 1, 1]
    assert ids[1, -1] == END
    assert ids[2].tolist() == [START, END, *[PADDING] * 6]
    assert trimmed(ids[2:]).tolist() == [[START, END]]
    assert SMALLEST < tokenizer.vocabulary <= 300


def test_a_word_is_the_same_token_wherever_it_stands_and_in_any_case(tokenizer):
    first, later, upper = tokenizer.encode(["dog", "the dog", "THE Dog"])
    assert first[1] == later[2]
    assert torch.equal(later, upper)


def test_text_in_letters_never_seen_is_encoded_too(tokenizer):
    ids = tokenizer.encode(["žába 蛙"])[0]
    assert (ids == END).any()
    assert ids.max() < tokenizer.vocabulary


def test_the_encoding_survives_json_and_is_that_of_the_captions(tokenizer):
    again = Tokenizer.from_json(tokenizer.to_json())
    assert torch.equal(again.encode(CAPTIONS), tokenizer.encode(CAPTIONS))
    assert again.digest == tokenizer.digest
    same = Tokenizer.learn(CAPTIONS, vocabulary=300, length=8)
    assert same.to_json() == tokenizer.to_json()


@pytest.mark.parametrize("text", ["{}", "no json", '{"version": "1.0"}'])
def test_another_file_is_no_tokenizer(text):
    with pytest.raises(StorageError, match="Expected a tokenizer"):
        Tokenizer.from_json(text)


def test_sizes_and_captions_that_are_too_few_are_refused():
    with pytest.raises(ConfigError, match="vocabulary of at least 259"):
        Tokenizer.learn(CAPTIONS, vocabulary=100, length=8)
    with pytest.raises(DataError, match="got none"):
        Tokenizer.learn([], vocabulary=300, length=8)


def test_without_the_package_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"cognates\[text\]"):
        Tokenizer.learn(CAPTIONS, vocabulary=300, length=8)


@pytest.fixture
def table():
    tokens = torch.full((9, 5), PADDING)
    tokens[:, 0], tokens[:, 1], tokens[:, 2] = START, torch.arange(9) + 3, END
    return TokenTable(tokens, torch.tensor([0, 2, 3, 9]))


def test_a_draw_is_of_the_image_and_a_function_of_seed_step_and_index(table):
    index = torch.tensor([2, 0, 1])
    drawn = table.draw(index, seed=3, step=7)
    assert drawn.shape == (3, 3)
    for image, row in zip(index.tolist(), drawn[:, 1].tolist(), strict=True):
        assert table.first[image] <= row - 3 < table.first[image + 1]
    for image in range(3):
        alone = table.draw(index[image : image + 1], seed=3, step=7)
        assert torch.equal(alone, drawn[image : image + 1])
    steps = torch.stack([table.draw(index, seed=3, step=s) for s in range(300)])[..., 1] - 3
    other = torch.stack([table.draw(index, seed=4, step=s) for s in range(300)])[..., 1] - 3
    assert not torch.equal(steps, other)
    # Six captions drawn 300 times: 50 each, standard deviation 6.5; four of them.
    counts = torch.bincount(steps[:, 0], minlength=9)[3:]
    assert counts.sum() == 300
    assert (counts - 50).abs().max() <= 26
    assert set(steps[:, 2].tolist()) == {2}


def test_captions_drawn_together_are_different_ones_of_the_image(table):
    several = dataclasses.replace(table, together=3)
    index = torch.tensor([2, 0, 1])
    drawn = several.draw(index, seed=3, step=7)
    assert drawn.shape == (3, 3, 3)
    # The first is what one draw gives, the others follow it in a ring.
    assert torch.equal(drawn[:, 0], table.draw(index, seed=3, step=7))
    rows = drawn[..., 1] - 3
    for image, found in zip(index.tolist(), rows.tolist(), strict=True):
        first, stop = table.first[image].item(), table.first[image + 1].item()
        ring = [first + (found[0] - first + k) % (stop - first) for k in range(3)]
        assert found == ring
    assert torch.equal(several.draw(index[1:2], seed=3, step=7), drawn[1:2])


def test_omitted_tokens_leave_the_edges_the_order_and_no_gap():
    words = torch.arange(3, 13).repeat(400, 1)
    edge = torch.ones(400, 1, dtype=torch.int64)
    tokens = torch.cat([START * edge, words, END * edge, PADDING * edge], dim=1)
    whole = TokenTable(tokens, torch.arange(401))
    table = dataclasses.replace(whole, omitted=0.3)
    index = torch.arange(400)
    drawn = table.draw(index, seed=1, step=2)
    lengths = (drawn != PADDING).sum(1)
    for row, length in zip(drawn, lengths.tolist(), strict=True):
        assert row[0] == START
        assert row[length - 1] == END
        said = row[1 : length - 1]
        assert (said.diff() > 0).all()
        assert set(said.tolist()) <= set(range(3, 13))
    # 4,000 tokens, each there with probability .7: standard deviation 29; four of them.
    assert abs((lengths - 2).sum().item() - 2800) < 116
    alone = table.draw(index[7:8], seed=1, step=2)
    assert torch.equal(alone, drawn[7:8, : alone.shape[1]])
    assert not torch.equal(table.draw(index, seed=1, step=3)[:, :3], drawn[:, :3])
    several = dataclasses.replace(table, together=2)
    first, second = several.draw(index, seed=1, step=2).unbind(1)
    assert not torch.equal(first, second)  # one caption twice, with gaps of their own
