"""A teacher behind a server tells what its model says, and wrong answers are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_lib.booktools.serving import Answer, serve
from distill_lib.models import SmallGPT
from distill_lib.sequences import sample
from distill_lib.teachers import Cache, CacheError, Served, ServedError
from distill_lib.terms import SparseKD

MODEL = SmallGPT(16, seed=3)
IDS = torch.randint(16, (4, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(MODEL, vocabulary=16, length=40) as found:
        yield found


def asked(url: str, **more: Any) -> Served:
    return Served(url, "teacher", **{"top": 5, "sleep": lambda seconds: None, **more})


# ---- right answers ----


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("shape", [(4, 7), (2, 2, 7), (1, 28)])
def test_it_tells_the_most_probable_tokens_where_the_logits_are(
    url: str, echo: bool, shape: tuple[int, ...]
) -> None:
    ids = IDS.view(shape)
    said = asked(url, echo=echo)({"input_ids": ids})
    want = MODEL(ids).log_softmax(-1).topk(5, -1)
    assert torch.equal(said["top_ids"], want.indices)
    torch.testing.assert_close(said["top_log_probs"], want.values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("left", [True, False])
def test_padding_is_not_sent(url: str, left: bool) -> None:
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    mask = mask if left else mask.flip(-1)
    text = IDS[:1, 3:] if left else IDS[:1, :-3]
    said, alone = asked(url)({"input_ids": IDS, "attention_mask": mask}), asked(url)(text)
    for name, x in said.items():
        assert torch.equal(x[0][mask[0].bool()], alone[name][0])
    assert (said["top_log_probs"].exp().sum(-1) < 1 + 1e-5).all()  # at padding, too


def test_a_token_beyond_the_most_probable_takes_no_place(url: str) -> None:
    said = asked(url, top=1)(IDS)
    assert torch.equal(said["top_ids"][..., 0], MODEL(IDS).argmax(-1))


def test_it_is_known_by_its_model_and_k_and_not_by_its_address(url: str) -> None:
    one = asked(url)
    assert one.fingerprint() == asked("https://elsewhere/v1").fingerprint()
    assert one.fingerprint() != asked(url, top=6).fingerprint()
    assert one.fingerprint() != Served(url, "another", 5).fingerprint()
    assert one.to("cpu") is one


def test_it_writes_as_the_model_does(url: str) -> None:
    greedy = sample(MODEL, IDS, 6, temperature=0, stop=3)["input_ids"][:, 7:]
    assert torch.equal(asked(url).write(IDS, 6, temperature=0, stop=3), greedy)
    draws = [
        asked(url).write(IDS.view(2, 2, 7), 6, stop=3, generator=torch.Generator().manual_seed(n))
        for n in (0, 0, 1)
    ]
    assert draws[0].shape == (2, 2, 6) and torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_texts_of_one_prompt_differ(url: str) -> None:
    words = asked(url).write(IDS[:1].expand(8, -1), 4, generator=torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in words.tolist()}) > 1


# ---- into a cache ----


class Texts(torch.utils.data.Dataset[dict[str, Any]]):
    """Eight texts with ids."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input_ids": IDS.repeat(2, 1)[i], "index": i}


def test_an_interrupted_cache_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    count, broken = [], True

    def spoil(n: int, answer: Answer) -> Answer:
        count.append(n)
        return Answer(400, b"{}") if broken and n > 4 else answer

    what, path = ("top_ids", "top_log_probs"), tmp_path / "tops.cache"
    with serve(MODEL, vocabulary=16, length=40, spoil=spoil) as url:
        teacher = asked(url, at_once=1)
        with pytest.raises(ServedError, match="status 400"):
            Cache.build(path, teacher, Texts(), what, block=2, progress=False)
        with pytest.raises(CacheError, match="unfinished: 2 of 4"):
            Cache(path)
        broken = False
        count.clear()
        cache = Cache.build(path, teacher, Texts(), what, block=2, progress=False)
        assert len(count) == 4
        Cache.build(path, teacher, Texts(), what, block=2, progress=False)
        assert len(count) == 4
        live = teacher({"input_ids": IDS})
    kept = cache({"index": torch.arange(4)})
    assert torch.equal(kept["top_ids"], live["top_ids"])
    assert torch.equal(kept["top_log_probs"], live["top_log_probs"])


# ---- wrong answers ----


def spoiled(change: Callable[[dict[str, Any]], Any]) -> Callable[[int, Answer], Answer]:
    """Changes the choice of each answer."""

    def spoil(n: int, answer: Answer) -> Answer:
        told = json.loads(answer.body)
        found = change(told["choices"][0])
        told = told if found is None else found
        return Answer(200, json.dumps(told).encode())

    return spoil


def at(place: int, entry: Any) -> Callable[[dict[str, Any]], None]:
    def change(choice: dict[str, Any]) -> None:
        choice["prompt_logprobs"][place] = entry(choice["prompt_logprobs"][place])

    return change


def first(number: Any) -> Callable[[dict[str, Any]], None]:
    """Another logarithm for the most probable token."""
    return at(2, lambda row: row | {next(iter(row)): {"logprob": number, "rank": 1}})


def named(choice: dict[str, Any]) -> None:
    choice["logprobs"]["top_logprobs"] = [{" the": -0.5}]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda choice: [choice], "one of 'choices'"),
    "no choice": (lambda choice: {"choices": []}, "one of 'choices'"),
    "a number": (lambda choice: {"choices": [7]}, "one of 'choices'"),
    "an error with status 200": (lambda choice: {"error": {"message": "x"}}, "one of 'choices'"),
    "nothing of the prompt": (
        lambda choice: choice.pop("prompt_logprobs") and None,
        "no prompt_logprobs; try echo=True",
    ),
    "nothing of the last": (lambda choice: choice.update(logprobs=None), "tells no logprobs"),
    "fewer positions": (
        lambda choice: choice["prompt_logprobs"].pop() and None,
        "7 positions of a text of 7 tokens and one more",
    ),
    "more positions": (
        lambda choice: choice["prompt_logprobs"].insert(0, None),
        "9 positions of a text of 7 tokens",
    ),
    "other tokens": (
        lambda choice: choice["prompt_logprobs"].reverse() or choice["prompt_logprobs"].insert(
            0, choice["prompt_logprobs"].pop()
        ),
        "does not name token",
    ),
    "tokens that say so": (lambda c: c.update(prompt_token_ids=[1, 2]), "other tokens than"),
    "tokens by their text": (named, "names tokens by their text, such as ' the'"),
    "no row": (at(3, lambda row: None), "tells NoneType None"),
    "a row of another shape": (at(3, lambda row: [*row]), "tells list"),
    "above 0": (first(0.7), "float 0.7 as a logarithm"),
    "nan": (first(math.nan), "sum to nan"),
    "infinity": (first(math.inf), "float inf"),
    "a huge number": (first(10**400), "as a logarithm"),
    "a string": (first("-1"), "str '-1' as a logarithm"),
    "true": (first(True), "bool True"),
    "nothing": (first(None), "NoneType None as"),
    "too much mass": (first(0.0), "sum to 1"),
    "too few": (at(2, lambda row: dict([*row.items()][:3])), "tells 3 tokens of 5: pass top=3"),
    "a negative token": (at(2, lambda row: {"-4": {"logprob": -1.0}}), "'-4'"),
    "a token twice": (
        at(2, lambda row: row | {f"token_id:{next(iter(row))}": {"logprob": -9.0}}),
        "twice at one position",
    ),
    "an error told as vLLM did": (
        lambda choice: {"object": "error", "message": "no such model", "code": 404},
        "one of 'choices'.*no such model",
    ),
    "an endless token": (at(2, lambda row: {"9" * 5000: {"logprob": -1.0}}), "by their text"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_refused_in_our_words(case: str) -> None:
    change, says = WRONG[case]
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    with (
        serve(MODEL, vocabulary=16, length=40, spoil=spoiled(change)) as url,
        pytest.raises(ServedError, match=says) as told,
    ):
        asked(url, tries=1)(ids)
    assert url in str(told.value) and len(str(told.value)) < 500


def test_a_logarithm_of_nothing_is_no_mistake() -> None:
    change = at(
        2, lambda row: row | {[*row][4]: {"logprob": -9999.0}, "15": {"logprob": -math.inf}}
    )
    with serve(MODEL, vocabulary=16, length=40, spoil=spoiled(change)) as url:
        said = asked(url)(IDS[:1])
    assert torch.isfinite(said["top_log_probs"]).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("token_ids") and None, "no token_ids"),
        (lambda c: c.update(token_ids=[]), "no token_ids"),
        (lambda c: c.update(token_ids=["a"] * 6), "something else than ids"),
        (lambda c: c.update(token_ids=[-1] * 6), "something else than ids"),
        (lambda c: c.update(token_ids=[1] * 7), "wrote 7 tokens where 6"),
        (lambda c: c.update(token_ids=[1], finish_reason="length"), "too long for it"),
    ],
)
def test_wrong_words_are_refused(change: Callable[[dict[str, Any]], Any], says: str) -> None:
    with (
        serve(MODEL, vocabulary=16, length=40, spoil=spoiled(change)) as url,
        pytest.raises(ServedError, match=says),
    ):
        asked(url).write(IDS[:1], 6)


def test_the_first_failure_ends_a_batch() -> None:
    count = []

    def spoil(n: int, answer: Answer) -> Answer:
        count.append(n)
        return Answer(400, b"{}")

    with serve(MODEL, vocabulary=16, length=40, spoil=spoil) as url:
        with pytest.raises(ServedError):
            asked(url, at_once=1)(IDS.repeat(50, 1))
        assert len(count) < 100


# ---- wrong calls ----


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (torch.zeros(2, 3), "whole numbers"),
        (torch.zeros(3, dtype=torch.int64), "expected a batch with input_ids"),
        ({"pixels": IDS}, "expected a batch with input_ids"),
        ({"input_ids": IDS, "attention_mask": IDS[:1]}, "attention_mask like input_ids"),
        ({"input_ids": IDS, "attention_mask": torch.zeros_like(IDS)}, "a token in each text"),
        (-IDS - 1, "ids from 0"),
    ],
)
def test_batches_that_are_no_texts_are_refused_before_anything_is_sent(
    batch: Any, says: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        asked("http://127.0.0.1:9/v1")(batch)


@pytest.mark.parametrize("wrong", [{"top": 0}, {"at_once": 0}, {"tries": 0}, {"most": 0}])
def test_counts_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        asked("http://127.0.0.1:9/v1", **wrong)


@pytest.mark.parametrize("stop", [-1, 1.5, [2, -3], True])
def test_a_stop_is_an_id(url: str, stop: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="stop"):
        asked(url).write(IDS, 3, stop=stop)


def test_an_id_that_the_student_does_not_know_is_told() -> None:
    change = at(2, lambda row: row | {"99999": {"logprob": -1.5}})
    with serve(MODEL, vocabulary=16, length=40, spoil=spoiled(change)) as url:
        said = asked(url)(IDS[:1])
    with pytest.raises(ValueError, match=r"0 to 99999.*0 to 15: is it the same vocabulary"):
        SparseKD(rest=False)(torch.zeros(1, 7, 16), said, {})


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf, "1", True])
def test_a_temperature_is_a_number_from_0_on(url: str, temperature: Any) -> None:
    with pytest.raises(ValueError, match="temperature"):
        asked(url).write(IDS, 3, temperature=temperature)
