"""Several small GPTs in one: each as it would be alone, read at once or token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distill_lib.models import SmallGPT


def ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(16, shape, generator=torch.Generator().manual_seed(seed))


@given(*[st.integers(*ends) for ends in ((1, 3), (1, 3), (1, 9), (0, 5), (0, 9))])
@settings(deadline=None, max_examples=30)
def test_padding_and_cuts_change_nothing(seeds: int, rows: int, n: int, pad: int, cut: int) -> None:
    model = SmallGPT(16, seeds=seeds, seed=3).double()
    text = ids(seeds, rows, n)
    want = model(text)
    wide = torch.cat([torch.zeros(seeds, rows, pad, dtype=torch.int64), text], -1)
    mask = (torch.arange(pad + n) >= pad).long().expand_as(wide)
    torch.testing.assert_close(model(wide, mask)[..., pad:, :], want)
    cut = min(cut, pad + n - 1)
    past: dict[object, object] = {}
    parts = [model(wide[..., :cut], mask[..., :cut], past)] if cut else []
    parts += [model(wide[..., i : i + 1], mask[..., i : i + 1], past) for i in range(cut, pad + n)]
    torch.testing.assert_close(torch.cat(parts, -2)[..., pad:, :], want)


def test_a_mask_may_begin_later() -> None:
    model = SmallGPT(16).double()
    text, past = ids(2, 6), {}
    parts = [model(text[:, :4], past=past)]
    parts.append(model(text[:, 4:], torch.ones(2, 2, dtype=torch.int64), past))
    torch.testing.assert_close(torch.cat(parts, 1), model(text))


def test_each_is_as_it_would_be_alone() -> None:
    model = SmallGPT(16, seeds=3, seed=1)
    text = ids(3, 4, 7)
    said = model(text)
    said.logsumexp(-1).mean((1, 2)).sum().backward()
    for i in range(3):
        alone = model.one(i)
        found = alone(text[i])
        torch.testing.assert_close(found, said[i])
        found.logsumexp(-1).mean().backward()
        together = {k: p.grad for k, p in model.named_parameters()}
        for name, p in alone.named_parameters():
            assert p.grad is not None and together[name] is not None
            torch.testing.assert_close(p.grad[0], together[name][i], atol=1e-6, rtol=1e-4)


def test_copies_say_the_same_and_are_separate() -> None:
    one = SmallGPT(16, seed=2)
    many = one.copies(2)
    torch.testing.assert_close(many(ids(3, 5)), one(ids(3, 5)).expand(2, -1, -1, -1))
    with torch.no_grad():
        many.head[0].zero_()
    assert many.head[1].abs().sum() > 0 and one.head.abs().sum() > 0


def test_no_word_sees_what_comes_later() -> None:
    model = SmallGPT(16)
    text = ids(1, 8)
    other = text.clone()
    other[0, 5:] = (other[0, 5:] + 1) % 16
    torch.testing.assert_close(model(text)[:, :5], model(other)[:, :5])
    assert not torch.allclose(model(text)[:, 5:], model(other)[:, 5:])


def test_a_single_one_reads_texts_of_any_axes() -> None:
    assert SmallGPT(16)(ids(2, 3, 4, 5)).shape == (2, 3, 4, 5, 16)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        SmallGPT(16, width=30, heads=4)
    with pytest.raises(ValueError, match="1 or more"):
        SmallGPT(16, seeds=0)
    model = SmallGPT(16, seeds=3, length=6)
    with pytest.raises(ValueError, match="as integers"):
        model(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="3 networks"):
        model(ids(2, 4, 5))
    with pytest.raises(ValueError, match="at most 6"):
        model(ids(2, 7))
    with pytest.raises(ValueError, match="16 tokens"):
        model(torch.full((1, 2), 16))
    with pytest.raises(ValueError, match="take one of them"):
        model.copies(2)
    with pytest.raises(ValueError, match="numbered from 0"):
        model.one(3)
    assert isinstance(model.one(2), nn.Module)
