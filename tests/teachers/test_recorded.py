"""A recorded teacher answers as the live one does, whatever the order and the padding."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from distill_lib import Match, Teacher, distill, losses
from distill_lib.teachers.recorded import Recorded

PATHS = ["logits", "hidden_states/0", "hidden_states/2", "attentions/1"]
LENGTHS = (7, 3, 5, 2, 6, 4)


def bert(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        attn_implementation="eager",
    )
    return BertForSequenceClassification(config).eval()


def batch(*items: int) -> dict[str, Tensor]:
    lengths = torch.tensor([LENGTHS[i] for i in items])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.tensor([[1 + (3 * i + j) % 19 for j in range(mask.shape[1])] for i in items])
    return {"input_ids": ids * mask, "attention_mask": mask, "index": 10 + torch.tensor(items)}


@pytest.fixture(scope="module")
def kept() -> Recorded:
    return Recorded(bert(), [batch(1, 3, 5), batch(0, 2, 4)], PATHS, dtype=torch.float32)


def live(model: nn.Module, given: dict[str, Tensor]) -> Any:
    teacher = Teacher(model)
    teacher.reveal(PATHS)
    return teacher(given)


@pytest.mark.parametrize("items", [(0,), (3, 1), (5, 0, 2), (4, 3, 2, 1, 0, 5)])
def test_it_says_what_the_teacher_says(kept: Recorded, items: tuple[int, ...]) -> None:
    given = batch(*items)
    said: Any = kept(given)
    want = live(bert(), given)
    real = given["attention_mask"].bool()
    torch.testing.assert_close(said["logits"], want["logits"])
    for layer in (0, 2):
        got = said[f"hidden_states/{layer}"]
        torch.testing.assert_close(got[real], want["hidden_states"][layer][real])
        assert (got[~real] == 0).all()
    pairs = (real[:, None, :, None] & real[:, None, None, :]).expand(-1, 2, -1, -1)
    torch.testing.assert_close(
        said["attentions/1"][pairs], want["attentions"][1][pairs], rtol=1e-5, atol=1e-6
    )
    assert (said["attentions/1"][~pairs] == 0).all()


def test_more_padding_in_the_batch_is_padding_in_the_answer(kept: Recorded) -> None:
    given = batch(1, 3)
    wide = {k: nn.functional.pad(v, (0, 4)) if v.ndim == 2 else v for k, v in given.items()}
    said, want = kept(wide), kept(given)
    length = given["input_ids"].shape[1]
    assert said["attentions/1"].shape[-1] == length + 4
    torch.testing.assert_close(said["hidden_states/2"][:, :length], want["hidden_states/2"])
    assert (said["hidden_states/2"][:, length:] == 0).all()


def test_half_precision_halves_the_memory_and_comes_back_in_full() -> None:
    half = Recorded(bert(), [batch(0, 1)], ["hidden_states/2"])
    full = Recorded(bert(), [batch(0, 1)], ["hidden_states/2"], dtype=torch.float32)
    one, other = half(batch(1, 0)), full(batch(1, 0))
    assert one["hidden_states/2"].dtype == torch.float32
    torch.testing.assert_close(one["hidden_states/2"], other["hidden_states/2"], rtol=0, atol=2e-3)
    assert "2 items, hidden_states/2" in repr(half) and half.fingerprint() != full.fingerprint()


def test_what_half_precision_cannot_hold_is_refused_with_the_way_out() -> None:
    rows = {"attention_mask": torch.ones(2, 1), "index": torch.arange(2)}
    large = {"inputs": torch.tensor([[1.0], [7e4]]), **rows}
    with pytest.raises(ValueError, match=r"'logits' .* reaches 7e\+04.*float16.*bfloat16"):
        Recorded(nn.Identity(), [large], ["logits"])
    kept = Recorded(nn.Identity(), [large], ["logits"], dtype=torch.float32)
    assert kept(rows)["logits"][1] == 7e4
    masked = {"inputs": torch.tensor([[1.0], [-torch.inf]]), **rows}  # meant so by the teacher
    assert Recorded(nn.Identity(), [masked], ["logits"])(rows)["logits"][1] == -torch.inf


def test_whole_numbers_are_kept_whole_or_refused() -> None:
    rows = {"attention_mask": torch.ones(2, 1), "index": torch.arange(2)}
    ids = {"inputs": torch.tensor([[1], [2049]]), **rows}
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(ValueError, match=r"such as 2049, .*dtype=torch\.float32"):
            Recorded(nn.Identity(), [ids], ["logits"], dtype=dtype)
    kept = Recorded(nn.Identity(), [ids], ["logits"], dtype=torch.float32)
    assert kept(rows)["logits"].tolist() == [[1], [2049]]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float64, torch.bool])
def test_types_that_a_record_does_not_answer_in_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="a record holds float16, bfloat16 or float32"):
        Recorded(bert(), [batch(0)], ["logits"], dtype=dtype)


def test_a_student_learns_from_it_as_from_the_live_teacher(kept: Recorded) -> None:
    weights = []
    sgd = partial(torch.optim.SGD, lr=0.1)
    for teacher in (kept, bert()):
        student = bert(1)
        looks = Match("attentions/0", "attentions/1", loss=losses.attention)
        terms, texts = Match("hidden_states/2") + 100 * looks, [batch(0, 3), batch(1, 2)]
        distill(student, teacher, texts, terms, steps=4, optimizer=sgd, lr=0.1, seed=0)
        weights.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    begun = torch.cat([p.detach().flatten() for p in bert(1).parameters()])
    assert (weights[0] - begun).abs().max() > 1e-3
    assert (weights[0] - weights[1]).abs().max() < 1e-5


def test_its_name_follows_teacher_signals_and_items() -> None:
    def name(seed: int = 0, items: tuple[int, ...] = (0, 1), path: str = "logits") -> str:
        return Recorded(bert(seed), [batch(*items)], [path]).fingerprint()

    assert name() == name() == name(items=(1, 0))
    assert len({name(), name(seed=1), name(items=(0, 2)), name(path="hidden_states/1")}) == 4


def test_an_item_that_was_not_recorded_is_named(kept: Recorded) -> None:
    given = batch(0)
    with pytest.raises(KeyError, match="id 99 is not among the 6 items that were recorded"):
        kept({**given, "index": torch.tensor([99])})


@pytest.mark.parametrize("missing", ["index", "attention_mask"])
def test_batches_without_ids_or_masks_are_refused(kept: Recorded, missing: str) -> None:
    given = {k: v for k, v in batch(0).items() if k != missing}
    with pytest.raises(ValueError, match=r"needs 'index' and 'attention_mask'; it has input_ids"):
        kept(given)
    with pytest.raises(ValueError, match="needs 'index' and 'attention_mask'"):
        Recorded(bert(), [given], PATHS)


def test_a_batch_cut_shorter_than_the_record_is_refused(kept: Recorded) -> None:
    given = batch(0)
    short = {k: v[:, :4] if v.ndim == 2 else v for k, v in given.items()}
    with pytest.raises(ValueError, match="7 tokens in the record and 4 in this batch"):
        kept(short)


def test_nothing_to_record_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to record"):
        Recorded(bert(), [], PATHS)


def test_a_signal_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="teacher has no signal 'hidden_states/9'"):
        Recorded(bert(), [batch(0)], ["hidden_states/9"])


def test_it_answers_what_an_objective_names() -> None:
    kept = Recorded(bert(), [batch(0, 1)], PATHS)
    kept.reveal(["attentions/1"])
    assert list(kept(batch(1))) == ["attentions/1"]
    with pytest.raises(KeyError, match=r"hidden_states/1' was not recorded; there are logits, "):
        kept.reveal(["hidden_states/1"])
    with pytest.raises(KeyError, match="was not recorded"):
        distill(bert(1), kept, [batch(0)], Match("hidden_states/1"), steps=1)


@pytest.mark.parametrize("recorded", ["left", "right", "holes"])
@pytest.mark.parametrize("asked", ["left", "right", "holes"])
def test_padding_may_be_on_any_side_and_in_the_record_on_another(recorded: str, asked: str) -> None:
    """Each token gets what the teacher said of it, wherever it stands."""

    class Told(nn.Module):
        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            maps = (inputs[:, :, None] - 3 * inputs[:, None]).unsqueeze(1)
            return {"states": inputs[..., None] * 2, "maps": maps}

    lengths = torch.tensor([2, 4, 1])

    def laid(side: str) -> dict[str, Tensor]:
        mask = (torch.arange(6) < lengths[:, None]).long()
        mask = {"right": mask, "left": mask.flip(1), "holes": mask[:, [4, 0, 5, 1, 2, 3]]}[side]
        words = 10 * torch.arange(1, 4)[:, None] + mask.cumsum(1)
        return {"inputs": (words * mask).float(), "attention_mask": mask, "index": torch.arange(3)}

    kept = Recorded(Told(), [laid(recorded)], ["states", "maps"])
    given = laid(asked)
    said: Any = kept(given)
    want, real = Told()(given["inputs"]), given["attention_mask"].bool()
    pairs = (real[:, :, None] & real[:, None]).unsqueeze(1)
    assert torch.equal(said["states"], want["states"] * real[..., None])
    assert torch.equal(said["maps"], want["maps"] * pairs)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"attention_mask": torch.ones(3, 2)}, "for 2 ids"),
        ({"index": torch.arange(3)}, "for 3 ids"),
        ({"attention_mask": -1e9 * torch.ones(2, 2)}, "1 for a token and 0 for padding"),
        ({"attention_mask": torch.ones(2, 1, 2)}, "1 for a token and 0 for padding"),
        ({"index": torch.tensor([0.5, 1.5])}, "whole numbers"),
        ({"inputs": torch.zeros(2, 3, 4)}, r"\[2, 3, 4\] beside an attention_mask \[2, 2\]"),
        ({"inputs": torch.zeros(2, 3, 4, 4)}, r"\[2, 3, 4, 4\] beside"),
        ({"inputs": torch.zeros(2, 1, 2, 2, 2)}, r"\[2, 1, 2, 2, 2\] beside"),
        ({"inputs": torch.zeros(3, 2)}, r"\[3, 2\] beside"),
    ],
)
def test_what_is_not_of_these_texts_is_refused(changed: dict[str, Tensor], words: str) -> None:
    given = {"inputs": torch.zeros(2, 2), "attention_mask": torch.ones(2, 2)}
    with pytest.raises((ValueError, TypeError), match=words):
        Recorded(nn.Identity(), [{**given, "index": torch.arange(2), **changed}], ["logits"])


def test_a_number_an_item_is_kept_and_items_of_unlike_sizes_are_refused() -> None:
    given = {"attention_mask": torch.ones(2, 2), "index": torch.arange(2)}
    kept = Recorded(nn.Identity(), [{"inputs": torch.tensor([5.0, 7.0]), **given}], ["logits"])
    assert kept(given)["logits"].tolist() == [5, 7]
    batches = [
        {
            "inputs": torch.zeros(1, n),
            "attention_mask": torch.ones(1, n),
            "index": torch.tensor([n]),
        }
        for n in (2, 3)
    ]
    kept = Recorded(nn.Identity(), batches, ["logits"])
    with pytest.raises(ValueError, match=r"record them as \[B, L, 1\]"):
        kept({"attention_mask": torch.ones(2, 3), "index": torch.tensor([2, 3])})


def test_more_tokens_in_the_batch_than_in_the_record_are_refused(kept: Recorded) -> None:
    given = batch(1, 3)
    with pytest.raises(ValueError, match="3 tokens in the record and 7 in this batch"):
        kept({**given, "attention_mask": torch.ones(2, 7)})


def test_an_id_has_one_answer() -> None:
    def one(*items: int, width: int) -> dict[str, Tensor]:
        texts = batch(*items)
        more = width - texts["input_ids"].shape[1]
        for key in ("input_ids", "attention_mask"):
            texts[key] = nn.functional.pad(texts[key], (0, more))
        return texts

    teacher = Teacher(bert())
    twice = [one(0, 1, width=7), one(1, 3, width=8)]  # padded otherwise, and the same item
    kept = Recorded(teacher, twice, PATHS[:2])
    assert len(kept) == 3
    other = one(4, 1, width=7)
    other["index"] = torch.tensor([10, 11])  # of another data set, numbered from the beginning
    with pytest.raises(ValueError, match="two items with the id 10 have other answers: number"):
        Recorded(teacher, [*twice, other], PATHS[:2])
