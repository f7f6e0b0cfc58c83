"""Masks, weights and labels as users bring them: lists, arrays, axes of length one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from distill_lib import CE, KD, Label, Match, Teacher, distill, evaluate
from distill_lib.masks import laid, readable

FORMS = {"tensor": lambda x: x, "array": lambda x: x.numpy(), "list": lambda x: x.tolist()}
forms = pytest.mark.parametrize("form", list(FORMS))


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@forms
@pytest.mark.parametrize("key", ["mask", "weight", "attention_mask", "labels"])
def test_a_list_or_an_array_says_what_a_tensor_says(key: str, form: str) -> None:
    z, v, keep = rows(2, 3, 5), rows(2, 3, 5, seed=1), torch.tensor([[1, 1, 0], [1, 0, 0]])
    found = torch.where(keep.bool(), 1, -100) if key == "labels" else keep
    wanted = KD()(z, v, {key: found})[0]
    assert KD()(z, v, {key: FORMS[form](found)})[0] == wanted != KD()(z, v)[0]


@forms
def test_they_do_so_in_a_training_and_in_an_evaluation(form: str) -> None:
    ids, keep = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    student, teacher = nn.Embedding(7, 5), nn.Embedding(7, 5)
    plain = {"input_ids": ids, "labels": ids % 5}
    batch = {**plain, "attention_mask": FORMS[form](keep)}

    def ask(model: Any, batch: Any) -> Any:
        return model(batch["input_ids"])

    taught = Teacher(teacher, forward=ask)
    found = distill(student, taught, [batch], KD(), steps=1, lr=0.0, forward=ask)["loss"][0]
    want = KD()(student(ids), teacher(ids), {"attention_mask": keep})[0].item()
    assert found == pytest.approx(want)
    assert evaluate(student, [batch], ask)["n"] == 3


@given(places=st.lists(st.integers(1, 3), min_size=1, max_size=3), axes=st.integers(0, 2))
@settings(max_examples=25)
def test_axes_of_length_one_say_nothing(places: list[int], axes: int) -> None:
    z, v = rows(2, *places, 4), rows(2, *places, 4, seed=1)
    keep = rows(2, *places, seed=2) > -0.3
    keep.view(-1)[0] = True
    wide = keep.view(2, *[1] * axes, *places)
    assert KD(axis=-1)(z, v, {"mask": wide})[0] == KD(axis=-1)(z, v, {"mask": keep})[0]


@pytest.mark.parametrize("term", [CE(), Label(F.mse_loss)])
def test_a_column_of_a_mask_is_the_mask(term: Any) -> None:
    kinds = isinstance(term, CE)
    z, keep = rows(6, 5 if kinds else 1), torch.tensor([1, 1, 0, 0, 1, 1])
    labels = torch.arange(6) % 5 if kinds else rows(6, seed=3)
    both = [term(z, batch={"labels": labels, "mask": m})[0] for m in (keep, keep[:, None])]
    assert both[0] == both[1]


def test_padding_of_several_choices_is_that_of_their_texts() -> None:
    keep = torch.tensor([[[1, 1, 0], [1, 0, 0]], [[1, 1, 1], [1, 1, 0]]])
    assert laid(keep, torch.Size([4, 3])).tolist() == keep.flatten(0, 1).tolist()
    states = {"hidden": rows(4, 3, 5)}, {"hidden": rows(4, 3, 5, seed=1)}
    term = Match("hidden")
    found = term(*states, {"attention_mask": keep})[0]
    assert found == term(*states, {"attention_mask": keep.flatten(0, 1)})[0]


def test_a_mask_that_is_added_to_scores_is_refused() -> None:
    added = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    with pytest.raises(ValueError, match="added to scores"):
        readable({"attention_mask": added})
    kept = {"attention_mask": (added == 0).float()}
    assert readable(kept) is kept


def test_what_no_tensor_can_hold_is_refused_unless_it_is_labels() -> None:
    with pytest.raises(TypeError, match="as a tensor, an array or a list"):
        readable({"mask": ["yes", "no"]})
    words = {"labels": ["cat", "dog"]}
    assert readable(words) is words


@pytest.mark.parametrize("key", ["mask", "weight"])
def test_a_number_an_item_beside_as_many_students_is_a_doubt(key: str) -> None:
    student, teacher, found = rows(4, 4, 3), rows(4, 3, seed=1), torch.tensor([1.0, 0, 1, 0])
    with pytest.raises(ValueError, match="each row or for each column"):
        KD()(student, teacher, {key: found})
    KD()(student, teacher, {key: found.expand(4, 4)})
    KD()(student, student, {key: found, "labels": torch.zeros(4, 4).long()})
