"""The packed student of the reviews in the page: its tokens, its answers, and what words move."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distill_lib import data, zoo
from distill_lib.booktools.students import STATIC, Figure, figure, reviews

LIVE = "document.querySelector('.dl-live').live"
ODD = [
    "",
    " \t\r\n ",
    "Café crème, naïve façade, Ångström, İstanbul, ΣΊΣΥΦΟΣ, STRASSE straße",
    "e\u0301 a\u0308\u0323 o\u0302\u0301 ẛ̣",
    "😀 great 👍🏽 film 🎬🎬, 👩‍👩‍👧‍👦 family 🇫🇷",
    "这部电影很好看，我喜欢。 映画は素晴らしい！ 영화가 좋다",
    "Это хороший фильм. فيلم رائع फ़िल्म अच्छी है ฟิล์ม",
    "x" * 99 + " " + "x" * 100 + " " + "x" * 101 + " " + "é" * 101,
    "word " * 500,
    "unbelievablyextraordinarilysupercalifragilistic" * 3,
    "don't won't it's 'quoted' \"double\" “curly” — dash – en … dots...",
    "a\u200bb c\u00add e\ufefff g\u00a0h i\u2028j k\u3000l m\u0000n o\ufffdp q\u0085r",
    "[CLS] film [SEP][MASK]good[UNK] [PAD] [cls] [ SEP ]",
    "$1.99 + 5% = #7 ^ ` ~ | < > @ & * ( ) { } \\ / _ -",
    "¹²³ ½ ⅷ ① ﬁlm Ｆｉｌｍ ℌ ™ ® µ Ω Å",
    "\U0001d54f \U0001f600 \U00020000 \U000e0001 \U0010ffff \ue000",
    "12345678901234567890 3.14159 1,000,000",
    "A" * 20_000,
]


@pytest.fixture(scope="module")
def made() -> Figure:
    return figure("reviews")


@pytest.fixture(scope="module")
def site(made: Figure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The figure as a page, and the file beside it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "live").mkdir()
    for name, content in made.files.items():
        (folder / "live" / name).write_bytes(content)
    body = made.html.replace(STATIC, "live")
    head = "<!doctype html><html lang=en><meta charset=utf-8><title>x</title>"
    (folder / "page.html").write_text(f"{head}<body><main>{body}</main></body></html>", "utf-8")
    return folder / "page.html"


@pytest.fixture(scope="module")
def live(page, site: Path):
    """A page whose student was loaded by a click."""
    page.goto(site.as_uri())
    load(page)
    return page


def load(page: Any) -> None:
    page.get_by_role("button", name="load the student").click()
    page.get_by_role("button", name="loaded").wait_for()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return reviews.student()


@pytest.fixture(scope="module")
def tokenizer():
    return zoo.minilm_tokenizer()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(data.load("movie_reviews", "test").texts)


def tokens(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = tokenizer(texts, truncation=True, max_length=64)["input_ids"]
    return found


def in_page(page: Any, texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = page.evaluate(f"all => all.map(t => {LIVE}.ids(t))", texts)
    return found


@torch.inference_mode()
def logits_of(net: nn.Module, ids: list[int]) -> torch.Tensor:
    one = torch.tensor([ids])
    found: torch.Tensor = net(one, torch.ones_like(one)).logits[0]
    return found


# ---- tokens ----


def test_reviews_have_the_tokens_of_python(live, tokenizer, texts: list[str]) -> None:
    assert len(texts) >= 1_000
    assert in_page(live, texts) == tokens(tokenizer, texts)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_texts_have_the_tokens_of_python(live, tokenizer, text: str) -> None:
    assert in_page(live, [text]) == tokens(tokenizer, [text])


def test_every_character_is_read_as_python_does(live, tokenizer) -> None:
    """In a word, in blocks; beyond the third plane every 64th block."""
    blocks = [b for b in range(0, 0x110000, 0x800) if b not in reviews.SURROGATES]
    blocks = [b for i, b in enumerate(blocks) if b < 0x30000 or i % 64 == 0 or b >> 16 == 14]
    texts = [" ".join(f"a{chr(c)}b" for c in range(b, b + 0x800)) for b in blocks]
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    ask = f"t => {LIVE}.split(t).flatMap(w => w.ids)"
    for text in texts:
        assert live.evaluate(ask, text) == backend.encode(text, add_special_tokens=False).ids


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8))
def test_any_text_has_the_tokens_of_python(live, tokenizer, some: list[str]) -> None:
    assert in_page(live, some) == tokens(tokenizer, some)


def test_half_a_character_is_refused_in_words(live) -> None:
    ask = f"() => {{ try {{ {LIVE}.ids('a \\ud800 b'); }} catch (e) {{ return e.message; }} }}"
    assert "half a character" in live.evaluate(ask)
    live.evaluate(
        "() => { const box = document.querySelector('textarea'); box.value = 'good \\udc00';"
        " box.dispatchEvent(new Event('input')); }"
    )
    assert "not read: it holds half a character" in answer(live)
    with pytest.raises((TypeError, UnicodeEncodeError)):
        zoo.minilm_tokenizer()("a \ud800 b")


# ---- answers ----


def test_the_file_is_unpacked_bit_for_bit(live, net: nn.Module) -> None:
    ask = f"""async () => {{
      const net = await {LIVE}.ready, found = {{}};
      for (const [name, v] of net) {{
        const bytes = new Uint8Array(v.buffer, v.byteOffset, v.byteLength), parts = [];
        for (let i = 0; i < bytes.length; i += 8190)
          parts.push(btoa(String.fromCharCode(...bytes.subarray(i, i + 8190))));
        found[name] = parts.join("");
      }}
      return found;
    }}"""
    found = live.evaluate(ask)
    known = net.state_dict()
    assert sorted(found) == sorted(known)
    for name, tensor in known.items():
        seen = np.frombuffer(base64.b64decode(found[name]), "<i4")
        assert np.array_equal(seen, tensor.float().flatten().numpy().view("<i4")), name


def test_the_page_answers_as_torch(live, net: nn.Module, tokenizer, texts: list[str]) -> None:
    some = tokens(tokenizer, [*texts[::12], *ODD])
    ask = f"""all => all.map(ids => {{
      const begun = performance.now(), z = {LIVE}.logits(ids);
      return [z, performance.now() - begun];
    }})"""
    said = live.evaluate(ask, some)
    known = torch.stack([logits_of(net, ids) for ids in some])
    gap = (torch.tensor([z for z, _ in said]) - known).abs().max().item()
    times = sorted((ms, len(ids)) for (_, ms), ids in zip(said, some, strict=True))
    print(f"largest difference {gap:.1e} of {len(some)} texts; {times[len(times) // 2][0]:.0f} ms")
    print(f"at most {times[-1][0]:.0f} ms, for {times[-1][1]} pieces")
    assert len(some) >= 200 and gap < 1e-4


def answer(page: Any) -> str:
    return str(page.locator("[data-part=answer]").text_content())


def numbers(page: Any) -> list[float]:
    """What the words moved, once all are there."""
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-part=words] li')]"
        ".every(li => li.lastElementChild.textContent !== '…')"
    )
    said = page.locator("[data-part=words] li > span:last-child").all_text_contents()
    return [float(text.replace("\u2212", "-")) for text in said]


@pytest.mark.parametrize("text", [*reviews.EXAMPLES, "Good [SEP]film,   très  bon 👍 . 好"])
def test_a_word_moves_what_leaving_it_out_moves(live, net, tokenizer, text: str) -> None:
    live.get_by_role("textbox").fill(text)
    words = text.split()
    found = numbers(live)
    shown = live.locator("[data-part=words] li > span:first-child").all_text_contents()
    assert shown == words

    def odds(text: str) -> float:
        no, yes = logits_of(net, tokens(tokenizer, [text])[0]).tolist()
        return yes - no

    whole = odds(text)
    without = [odds(" ".join(words[:i] + words[i + 1 :])) for i in range(len(words))]
    assert found == pytest.approx([whole - one for one in without], abs=0.051)
    share = 100 / (1 + np.exp(-abs(whole)))
    assert f"{'Positive' if whole > 0 else 'Negative'}, {share:.1f}%" in answer(live)


def test_what_comes_after_64_pieces_is_not_read_and_nothing_is_said_of_nothing(live) -> None:
    live.get_by_role("textbox").fill("Dull. " + "supercalifragilisticexpialidocious " * 7)
    assert numbers(live)[-1] == 0
    live.get_by_role("textbox").fill("   ")
    assert answer(live) == "Type a sentence."


# ---- the page ----


def test_examples_and_keys(live) -> None:
    button = live.locator("[data-example]").nth(2)
    button.focus()
    live.keyboard.press("Enter")
    assert live.get_by_role("textbox").input_value() == reviews.EXAMPLES[2]
    before = answer(live)
    live.get_by_role("textbox").focus()
    live.keyboard.press("Control+a")
    live.keyboard.type("Dull.")
    assert answer(live) != before and len(numbers(live)) == 1


def test_a_file_that_is_missing_or_damaged_is_refused(page, site: Path, tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "page.html").write_bytes(site.read_bytes())
    page.goto((tmp_path / "page.html").as_uri())
    page.get_by_role("button", name="load the student").click()
    page.locator("[data-part=answer]", has_text="not beside this page").wait_for()
    whole = (site.parent / "live" / reviews.DATA).read_text("utf-8")
    at = whole.index('"packed"') + 1_000_000
    torn = whole[:at] + ("A" if whole[at] != "A" else "B") + whole[at + 1 :]
    (tmp_path / "live" / reviews.DATA).write_text(torn, "utf-8")
    page.get_by_role("button", name="load the student").click()
    page.locator("[data-part=answer]", has_text="checksum does not fit").wait_for()
    (tmp_path / "live" / reviews.DATA).write_text(whole, "utf-8")
    page.get_by_role("button", name="load the student").click()
    page.get_by_role("button", name="loaded").wait_for()
    assert "itive, " in answer(page) or "ative, " in answer(page)


def test_damaged_files_are_refused(page, site: Path, net: nn.Module) -> None:
    page.goto(site.as_uri())
    content = (zoo.FOLDER / reviews.FILE).read_bytes()
    draw = random.Random(0)
    changes = [(draw.randrange(len(content)), 1 << draw.randrange(8), 0) for _ in range(100)]
    changes += [(0, 0, draw.randrange(len(content))) for _ in range(100)]
    ask = f"""async ([text, changes, shapes]) => {{
      const found = [], file = Uint8Array.from(atob(text), c => c.charCodeAt(0));
      let most = 0;
      for (const [at, bit, cut] of changes) {{
        const torn = bit ? file.slice() : file.slice(0, cut), begun = performance.now();
        torn[at] ^= bit;
        try {{ await {LIVE}.unpack(torn, shapes); found.push(""); }}
        catch (error) {{ found.push(error.message); }}
        most = Math.max(most, performance.now() - begun);
      }}
      return [found, most];
    }}"""
    shapes = {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    found, most = page.evaluate(ask, [base64.b64encode(content).decode(), changes, shapes])
    assert all(found)
    print(f"{len(found)} refused, at most {most:.0f} ms each")


def test_it_excludes_nobody(page, site: Path, excludes_nobody) -> None:
    page.goto(site.as_uri())
    load(page)
    page.get_by_role("textbox").fill("A film " + "x" * 300)
    numbers(page)
    excludes_nobody(page)


def test_the_page_is_small_and_its_file_comes_on_a_click(made: Figure) -> None:
    print(f"{len(made.html):,} bytes, and {len(made.files[reviews.DATA]):,} on a click")
    assert len(made.html) < 60_000 and list(made.files) == [reviews.DATA]
    assert made.files[reviews.DATA].isascii()
    data = json.loads(made.files[reviews.DATA][len(b"dlReviewsFile(") : -3])
    assert base64.b64decode(data["packed"]) == (zoo.FOLDER / reviews.FILE).read_bytes()
    assert "<noscript>A small network says" in made.html and "do not add up" in made.html
