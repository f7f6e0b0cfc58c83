"""What the third errata museum shows failing, kept failing; and its repairs, kept."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from distill_lib import CE, DKD, KD, Consistency, Match, Relation, Teacher, distill, losses, sanity
from distill_lib.masks import masks_of
from distill_lib.objective import Term

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "book" / "errata_language.md"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Losses that hold no student


@pytest.mark.parametrize(
    "term",
    [CE(), KD(), KD(temperature=4), KD(losses.reverse_kl), KD(losses.jsd), DKD()],
    ids=str,
)
def test_every_term_reaches_the_student(term: Term) -> None:
    z, v = draw(8, 5).requires_grad_(), draw(8, 5, seed=1)
    loss, _ = term(z, v, {"labels": torch.arange(8) % 5})
    loss.backward()
    assert z.grad is not None and z.grad.abs().max() > 1e-4


@pytest.mark.parametrize("term", [Match("h"), Relation("h")], ids=str)
def test_every_term_on_features_reaches_the_student(term: Term) -> None:
    h = draw(8, 5).requires_grad_()
    term({"h": h}, {"h": draw(8, 5, seed=1)})[0].backward()
    assert h.grad is not None and h.grad.abs().max() > 1e-4


def test_the_loss_of_the_teacher_is_no_loss_of_the_student() -> None:
    """-y log p - (1 - y) log (1 - p) with the teacher's p: a number without a way back."""
    p, y = draw(8).sigmoid(), (torch.arange(8) % 2).double()
    loss = F.binary_cross_entropy(p, y)
    assert not loss.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        loss.backward()


def test_a_consistency_loss_speaks_where_the_teacher_is_silent() -> None:
    """A second name for the first loss would be zero with it."""
    v, changed = draw(8, 3), draw(8, 3, seed=1)
    assert KD()(v, v)[0] == 0
    assert Consistency()({"logits": v, "view": {"logits": changed}})[0] > 0.1


# The wrong thing into the right slot


class Reader(nn.Module):
    """A classifier of texts that would take labels, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 3)
        self.given: set[str] = set()

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **more: Any) -> Tensor:
        self.given |= {"input_ids", *more} | ({"labels"} if labels is not None else set())
        return self.words(input_ids).mean(1)


def test_labels_never_reach_a_network() -> None:
    student, teacher = Reader(), Reader()
    ids = torch.randint(20, (6, 4), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch |= {"labels": torch.arange(6) % 3, "index": torch.arange(6)}
    distill(student, teacher, [batch], CE() + KD(), epochs=1)
    assert student.given == teacher.given == {"input_ids", "attention_mask"}


# A loop that never trains


def descend(clear: bool, rate: float = 0.1, steps: int = 200) -> float:
    x = torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=rate)
    far = 0.0
    for step in range(steps):
        if clear:
            optimizer.zero_grad()
        (x.square() / 2).backward()
        optimizer.step()
        far = max(far, abs(x.item())) if step >= steps - 50 else 0.0
    return far


def test_gradients_that_pile_up_never_arrive() -> None:
    """x'' = -rate · x: an oscillator without friction, where descent would have come to rest."""
    assert descend(clear=True) < 1e-6
    assert descend(clear=False) > 0.5


# Teachers that are not teachers


def test_a_teacher_with_the_classes_turned_round_is_suspected() -> None:
    x = torch.eye(2).repeat(8, 1)
    batch = {"inputs": x, "labels": 1 - x.argmax(1)}
    with pytest.raises(ValueError, match="id2label"):
        sanity(Teacher(nn.Identity()), [batch])


def test_a_teacher_that_is_too_sure_says_no_more_than_its_labels() -> None:
    """Logits twenty times as large: the same accuracy, and nothing left to learn but the label."""
    v = draw(200, 10) * 3
    label = F.one_hot(v.argmax(-1), 10).double()
    assert torch.equal((20 * v).argmax(-1), v.argmax(-1))
    said, shouted = (1 - (scale * v / 4).softmax(-1).mul(label).sum(-1) for scale in (1, 20))
    assert said.mean() > 0.3 and shouted.mean() < 0.1


# Padding


def maps(length: int, real: int, seed: int) -> Tensor:
    """Attention maps of texts with ``real`` tokens; padding is looked at by none of them."""
    scores = draw(2, 3, 24, 24, seed=seed)[..., :length, :length].clone()
    scores[..., real:] = -math.inf
    return scores.softmax(-1)


@pytest.mark.parametrize("loss", [losses.attention, losses.attention_scores, losses.attention_kl])
def test_padding_changes_no_loss_inside_a_transformer(loss: Callable[..., Tensor]) -> None:
    found, naive = [], []
    for length in (6, 12, 24):
        s, t = {"m": maps(length, 6, 0)}, {"m": maps(length, 6, 1)}
        mask = (torch.arange(length) < 6).expand(2, length)
        found.append(Match("m", loss=loss)(s, t, {"attention_mask": mask})[0])
        naive.append(F.mse_loss(s["m"], t["m"]))
    torch.testing.assert_close(torch.stack(found), found[0].expand(3), rtol=1e-6, atol=0)
    assert naive[0] > 2 * naive[2]


def test_hidden_states_of_padding_are_left_out() -> None:
    s, t = draw(2, 5, 4), draw(2, 5, 4, seed=1)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    whole, _ = Match("h")({"h": s}, {"h": t}, {"attention_mask": mask})
    kept = (s - t).square().mean(-1)[mask.bool()].mean()
    torch.testing.assert_close(whole, kept)


def test_maps_are_small_and_scores_are_not() -> None:
    """The same difference of two heads, seen by the two losses."""
    s, t = maps(24, 24, 0), maps(24, 24, 1)
    small = losses.attention(student=s, teacher=t).mean()
    assert losses.attention_scores(student=s, teacher=t).mean() > 100 * small


def test_a_token_is_left_out_by_its_mask_and_not_by_its_value() -> None:
    """With one id for padding and for the end of a text, the end is still taught."""
    end = 0
    ids = torch.tensor([[5, 6, end, end, end], [7, 8, 9, 4, end]])
    batch = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])}
    (kept,) = masks_of(ids.shape, False, batch).values()
    assert kept.sum() == 8 and bool(kept[0, 2]) and bool(kept[1, 4])
    by_value = ids != end
    assert not bool(by_value[0, 2]) and not bool(by_value[1, 4])


def test_the_usual_collator_hides_the_end_where_it_is_the_padding() -> None:
    """Transformers' own, for as long as it goes by value."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<end>": 0, "<pad>": 1, "good": 2, "film": 3}
    shown = {}
    for pad in ("<pad>", "<end>"):
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="film"))
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=made, pad_token=pad, eos_token="<end>"
        )
        collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
        labels = collate([{"input_ids": [2, 3, 0]}, {"input_ids": [3, 0]}])["labels"]
        shown[pad] = int((labels == 0).sum())
    assert shown == {"<pad>": 2, "<end>": 0}, (
        "the collator no longer masks by value: the museum's entry on the end of a text is out "
        "of date"
    )


# Small, and said to be small


def size(thing: Mapping[str, Tensor]) -> int:
    file = io.BytesIO()
    torch.save(dict(thing), file)
    return file.tell()


def test_a_mask_makes_a_file_larger() -> None:
    layer = nn.Linear(256, 256)
    dense = size(layer.state_dict())
    prune.l1_unstructured(layer, "weight", 0.9)
    assert size(layer.state_dict()) > 1.9 * dense
    prune.remove(layer, "weight")
    assert size(layer.state_dict()) == pytest.approx(dense, rel=0.01)


def test_the_logarithm_of_a_line_is_mostly_no_number() -> None:
    f = draw(1000, 16) @ draw(16, 50, seed=1)
    y = (torch.arange(50) % 2).double()
    loss = -y * f.log() - (1 - y) * (1 - f).log()
    assert loss.isnan().double().mean() > 0.5


# The page


def test_every_erratum_has_its_place() -> None:
    """S4-1 to S4-23, each in the table at the end of the page."""
    table = PAGE.read_text(encoding="utf-8").partition("## Where each is treated")[2]
    assert set(re.findall(r"S4-\d+", table)) == {f"S4-{i}" for i in range(1, 24)}


def test_places_and_tests_that_the_page_names_exist() -> None:
    """A guard that has been renamed guards nothing."""
    text = PAGE.read_text(encoding="utf-8")
    here = set(re.findall(r"^\((err-[\w-]+)\)=$", text, re.MULTILINE))
    table = text.partition("## Where each is treated")[2]
    elsewhere = {"err-tinybert-in-one-sentence"}
    assert set(re.findall(r"<(err-[\w-]+)>", table)) - elsewhere == here
    links = re.findall(r"\{src\}`(test_\w+)(?:\.py)? <(tests/[\w/]+\.py)(?:::\w+)?>`", text)
    assert links
    for name, file in links:
        assert (ROOT / file).is_file(), file
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
