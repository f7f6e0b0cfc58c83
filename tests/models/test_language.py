"""Students read only the words they keep; adapters are merged, or refused where they do not fit."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill_lib import CE, Stacked, data, distill, zoo
from distill_lib.checkpoints import CheckpointError
from distill_lib.data import DataError
from distill_lib.zoo import BagOfEmbeddings, BiLSTM, Words, small_bert
from distill_lib.zoo import minilm as language

PIECES = torch.tensor([3, 7, 7, 20, 101])
IDS = torch.tensor([[101, 7, 3, 0, 0], [101, 20, 20, 3, 7]])
MASK = (IDS != 0).long()


def students() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    small = {"layers": 1, "hidden": 8, "heads": 2, "max_length": 8}
    return {
        "bag": BagOfEmbeddings(PIECES, 4),
        "pairs": BagOfEmbeddings(PIECES, 4, bigrams=50),
        "lstm": BiLSTM(PIECES, 4, 3),
        "bert": small_bert(PIECES, **small),
    }


def logits(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    said = model(input_ids=ids, attention_mask=mask)
    return said if isinstance(said, torch.Tensor) else said.logits


# ---- the trimmed vocabulary ----


def test_words_keeps_a_row_for_each_piece_one_for_the_others_and_none_for_padding():
    words = Words(PIECES, 3)
    assert words.embedding.weight.shape == (6, 3)
    vectors = words(torch.tensor([0, 3, 7, 20, 101, 4, 5_000]))
    assert not vectors[0].any()
    assert len(vectors[1:5].unique(dim=0)) == 4
    assert torch.equal(vectors[5], vectors[6]) and vectors[5].any()


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30))
def test_any_id_has_a_row(ids):
    rows = Words(PIECES, 2).rows(torch.tensor(ids))
    known = {0: 0, 3: 2, 7: 3, 20: 4, 101: 5}
    assert rows.tolist() == [known.get(i, 1) for i in ids]


def test_principal_directions_keep_the_geometry_of_a_table_that_has_few():
    table = torch.randn(200, 2) @ torch.randn(2, 16)
    words = Words(PIECES, 2).start_from(table)
    kept = table[[3, 7, 20, 101]]
    rows = words.embedding.weight[2:]
    assert torch.allclose(torch.cdist(rows, rows), torch.cdist(kept, kept), atol=1e-3)
    assert not words.embedding.weight[0].any()


# ---- students ----


@pytest.mark.parametrize("name", ["bag", "pairs", "lstm", "bert"])
def test_padding_changes_no_answer(name):
    model = students()[name].eval()
    both = logits(model, IDS, MASK)
    alone = logits(model, IDS[:1, :3], MASK[:1, :3])
    assert both.shape == (2, 2)
    assert torch.allclose(both[:1], alone, atol=1e-6)


@pytest.mark.parametrize("name", ["bag", "pairs", "lstm", "bert"])
def test_pieces_that_are_not_kept_are_one_word(name):
    model = students()[name].eval()
    one, other = IDS.clone(), IDS.clone()
    one[1, 1], other[1, 1] = 55, 66
    assert torch.equal(logits(model, one, MASK), logits(model, other, MASK))
    assert not torch.allclose(logits(model, one, MASK)[1], logits(model, IDS, MASK)[1])


def test_pairs_see_order_and_the_bag_does_not():
    made = students()
    turned = IDS[:, [0, 2, 1, 3, 4]]
    with torch.no_grad():
        made["pairs"].pairs.weight.normal_()
    assert torch.allclose(made["bag"](IDS), made["bag"](turned))
    assert not torch.allclose(made["pairs"](IDS), made["pairs"](turned))


def test_two_lstms_are_pytorchs_bidirectional_one_on_packed_sequences():
    model = students()["lstm"].eval()
    both = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    both.load_state_dict(
        model.ahead.state_dict()
        | {f"{name}_reverse": value for name, value in model.back.state_dict().items()}
    )
    packed = nn.utils.rnn.pack_padded_sequence(
        model.words(IDS), MASK.sum(1), batch_first=True, enforce_sorted=False
    )
    states, lengths = nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True)
    read = [one[:n].amax(0) for one, n in zip(states, lengths, strict=True)]
    assert torch.allclose(model(IDS, MASK), model.head(torch.stack(read)), atol=1e-6)


def test_bags_of_several_seeds_are_one_stacked_model():
    torch.manual_seed(0)
    bags = [BagOfEmbeddings(PIECES, 4, bigrams=9) for _ in range(3)]
    together = Stacked(bags, ndim=2)(IDS)
    assert torch.allclose(together, torch.stack([bag(IDS) for bag in bags]), atol=1e-6)


@pytest.mark.parametrize("name", ["bag", "pairs", "lstm", "bert"])
def test_students_learn_in_the_loop(name):
    texts = data.TextDataset(
        ("good", "bad") * 8, torch.tensor([1, 0] * 8), ("negative", "positive"),
        tokens=data.text.Tokens(torch.tensor([101, 3, 101, 7] * 8), torch.arange(0, 34, 2)),
    )  # fmt: skip
    batches = texts.batches(8)
    history = distill(students()[name], None, batches, CE(), epochs=20, lr=3e-2)
    assert history["ce"][-1] < 0.1 < history["ce"][0]


def test_a_small_bert_makes_the_maps_that_are_matched():
    model = small_bert(PIECES, layers=2, hidden=8, heads=2, max_length=8)
    said = model(IDS, MASK, output_attentions=True, output_hidden_states=True)
    assert len(said.attentions) == 2 and len(said.hidden_states) == 3
    # in training too: a map whose entries are dropped out is none
    assert torch.allclose(said.attentions[0].sum(-1), torch.ones(2, 2, 5))
    assert model.config.vocab_size == 102


def test_what_a_small_bert_saves_is_read_back_by_transformers(tmp_path):
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = small_bert(PIECES, layers=1, hidden=8, heads=2, max_length=8).eval()
    model.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(plain(IDS, MASK).logits, model(IDS, MASK).logits)
    assert plain.config.architectures == ["BertForSequenceClassification"]
    # ids that are not kept too; and the student reads it back itself
    other = torch.tensor([[101, 55, 3, 7, 66]])
    assert torch.equal(plain(other).logits, model(other).logits)
    again = small_bert(PIECES, layers=1, hidden=8, heads=2, max_length=8).eval()
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again(other).logits, model(other).logits)
    few = small_bert(PIECES[:2], layers=1, hidden=8, heads=2, max_length=8)
    with pytest.raises(ValueError, match=r"a table of 102 words does not fit .* largest id is 7"):
        few.load_state_dict(plain.state_dict(), strict=False)


# ---- adapters ----


def adapter() -> dict[str, torch.Tensor]:
    return {
        "0.lora_A": torch.randn(2, 3).half(),
        "0.lora_B": torch.randn(4, 2).half(),
        "1.bias": torch.ones(2),
    }


def test_a_merged_adapter_is_the_sum_of_both():
    net, low = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), adapter()
    before = net[0].weight.detach().clone()
    assert language.merge(net, low, 2.0) is net
    change = 2.0 * low["0.lora_B"].float() @ low["0.lora_A"].float()
    assert torch.allclose(net[0].weight, before + change)
    assert torch.equal(net[1].bias, torch.ones(2))


@pytest.mark.parametrize("key", ["2.lora_A", "0.lora_A", "head.weight"])
def test_an_adapter_that_does_not_fit_is_refused(key):
    low = {key: torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match=f"the adapter has {key}, which fits no layer of Seq"):
        language.merge(nn.Sequential(nn.Linear(3, 4)), low, 1.0)


# ---- the packaged model ----


@pytest.fixture(scope="module")
def tokenizer():
    """The real one; without any source a test is skipped, but not in continuous integration."""
    try:
        return zoo.minilm_tokenizer()
    except DataError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def test_the_teacher_is_the_packaged_model_with_another_opinion(tokenizer):
    teacher = zoo.load_teacher("movie_minilm")
    batch = tokenizer(["a joy from start to end", "dull and far too long"], return_tensors="pt",
                      padding=True)  # fmt: skip
    with torch.no_grad():
        said = teacher(**batch, output_attentions=True)
    assert said.logits.argmax(1).tolist() == [1, 0]
    assert said.attentions[0].shape[:2] == (2, 12)
    assert teacher.config.id2label == {0: "negative", 1: "positive"}
    assert sum(p.numel() for p in teacher.parameters()) == zoo.card("movie_minilm")["params"]


@pytest.mark.parametrize("name", ["movie_minilm", "movie_minilm_1k"])
def test_the_teachers_score_as_on_their_cards(tokenizer, name):
    """On the validation set, of which neither card nor training knows."""
    texts = data.load("movie_reviews", "validation").subset(range(200)).tokenize(tokenizer)
    teacher, right = zoo.load_teacher(name), 0
    with torch.no_grad():
        for batch in texts.by_length().batches(50, shuffle=False):
            said = teacher(batch["input_ids"], batch["attention_mask"]).logits.argmax(1)
            right += int((said == batch["labels"]).sum())
    card = zoo.card(name)
    assert card["score"]["value"] > {"movie_minilm": 0.84, "movie_minilm_1k": 0.8}[name]
    assert abs(right / 200 - card["score"]["value"]) < 0.08
    assert (zoo.FOLDER / card["file"]).stat().st_size < 1_000_000


def test_too_long_a_text_is_cut_where_the_model_ends(tokenizer):
    long = data.TextDataset(("word " * 600,), torch.tensor([1]), ("negative", "positive"))
    assert long.tokenize(tokenizer, 512).tokens.lengths().tolist() == [512]
    with pytest.raises(DataError, match=r"max_length=513, but .* 3 to 512 tokens"):
        long.tokenize(tokenizer, 513)


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (language.minilm, language.minilm_tokenizer, lambda: small_bert(PIECES)):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'transformers>="):
            call()
