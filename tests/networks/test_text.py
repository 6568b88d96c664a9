"""The text encoder: what it reads, what it does not, and its sizes."""

import pytest
import torch

from cognates.errors import ConfigError
from cognates.networks.text import TextTransformer
from cognates.types import END, PADDING, START

SMALL = {"vocabulary": 20, "length": 7, "width": 8, "layers": 2, "heads": 2}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = TextTransformer(**SMALL).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    return encoder


def test_padding_and_the_length_of_the_batch_change_nothing(encoder):
    short = torch.tensor([[START, 5, 9, END]])
    filled = torch.tensor([[START, 5, 9, END, PADDING, PADDING, PADDING]])
    junk = torch.tensor([[START, 5, 9, END, 17, 3, 11], [START, 4, 4, 4, 4, 4, END]])
    expected = encoder(short)
    assert expected.shape == (1, 8)
    torch.testing.assert_close(encoder(filled), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(encoder(junk)[:1], expected, rtol=1e-12, atol=1e-12)


def test_captions_read_in_parts_of_like_length_are_the_captions_read_one_by_one(encoder):
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 20, (300, 7), generator=draw)
    ends = torch.randint(1, 7, (300, 1), generator=draw)
    tokens = torch.where(torch.arange(7) == ends, END, tokens)
    assert ends.unique().tolist() == [1, 2, 3, 4, 5, 6]
    together = encoder(tokens)
    expected = torch.cat([encoder(row[None]) for row in tokens])
    torch.testing.assert_close(together, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(300, 8, dtype=torch.float64, generator=draw)
    parameters = list(encoder.parameters())
    got = torch.autograd.grad((together * weights).sum(), parameters)
    wanted = torch.autograd.grad((expected * weights).sum(), parameters)
    assert len(got) > 10
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)  # sums in another order


def test_pooling_by_the_mean_averages_the_tokens_up_to_the_end_before_the_norm():
    torch.manual_seed(0)
    encoder = TextTransformer(**SMALL, pooling="mean").double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.tensor([[START, 5, 9, END, PADDING, PADDING], [START, 6, 6, 8, 7, END]])
    expected = []
    for row in (tokens[:1, :4], tokens[1:]):
        x = encoder.tokens(row) + encoder.positions[: row.shape[1]]
        for block in encoder.blocks:
            x = block(x)
        expected.append(encoder.norm(x.mean(1)))
    assert len(encoder.blocks) == 2
    torch.testing.assert_close(encoder(tokens), torch.cat(expected), rtol=1e-12, atol=1e-12)


def test_every_word_before_the_end_and_their_order_count(encoder):
    rows = torch.tensor([[START, 5, 9, END], [START, 9, 5, END], [START, 6, 9, END]])
    a, b, c = encoder(rows)
    assert not torch.allclose(a, b, atol=1e-3)
    assert not torch.allclose(a, c, atol=1e-3)


def test_the_first_block_is_attention_with_its_formula(encoder):
    block = encoder.blocks[0]
    x = torch.randn(1, 4, 8, dtype=torch.float64)
    h = block.attention_norm(x)[0]
    q, k, v = (h @ w.T + b for w, b in zip(
        block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True
    ))  # fmt: skip
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        scores = q[:, part] @ k[:, part].T / 2  # sqrt of 4 features per head
        scores = scores.masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ v[:, part])
    y = x[0] + block.out(torch.cat(heads, -1))
    y = y + block.down(torch.nn.functional.gelu(block.up(block.mlp_norm(y))))
    torch.testing.assert_close(block(x)[0], y, rtol=1e-10, atol=1e-10)


def test_initial_weights_are_small_and_smaller_where_branches_end():
    torch.manual_seed(0)
    encoder = TextTransformer(vocabulary=50, length=8, width=64, layers=2, heads=1)
    assert encoder.blocks[0].up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert encoder.blocks[1].down.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert encoder.blocks[1].out.bias.abs().max() == 0


def test_with_a_mean_the_blocks_begin_as_the_identity():
    torch.manual_seed(0)
    encoder = TextTransformer(**SMALL, pooling="mean")
    x = torch.randn(2, 4, 8)
    for block in encoder.blocks:
        assert torch.equal(block(x), x)
    assert len(encoder.blocks) == 2
    assert encoder.tokens.weight.std().item() == pytest.approx(0.1, rel=0.2)
    assert encoder.positions.std().item() == pytest.approx(0.02, rel=0.4)


@pytest.mark.parametrize("change", [{"heads": 3}, {"layers": 0}, {"vocabulary": 3}, {"length": 1}])
def test_sizes_that_do_not_fit_are_refused(change):
    with pytest.raises(ConfigError, match="Expected"):
        TextTransformer(**{**SMALL, **change})
