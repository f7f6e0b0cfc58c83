"""What a page states: claims are sentences with their number, and no result is typed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import bookcache
import pytest
from making import ROOT
from test_sources import PAGES, prose

CODED = [path for path in bookcache.chapters(ROOT)]
coded = pytest.mark.parametrize("path", CODED, ids=lambda path: path.stem)
# what `make stress` writes is computed, every number of it
written = pytest.mark.parametrize(
    "path", [path for path in PAGES if path.stem != "robustness"], ids=lambda path: path.stem
)
STATED = ("claim", "measurement")
MARGIN = 0.05


def statements(path: Path) -> Iterator[tuple[ast.Call, str]]:
    """Each call of claim or measurement with the constant part of its text."""
    for cell in bookcache.read(path).cells:
        if cell.cell_type != "code":
            continue
        source = "\n".join(x for x in cell.source.splitlines() if x[:1] not in "%!")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in STATED:
                yield node, text_of(node.args[0])


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr), f"line {node.lineno}: the text is a literal"
    parts = [p.value if isinstance(p, ast.Constant) else "X" for p in node.values]
    return "".join(map(str, parts))


ALONE = re.compile(r"(It|They|Their|Its|That|Those|Then|With it|Without it)\b(?! of )")


@coded
def test_a_claim_is_a_sentence_with_its_number(path):
    for call, text in statements(path):
        assert text[0].isupper() or text[0].isdigit(), f"begins in lower case: {text}"
        assert text.endswith("."), f"no full stop: {text}"
        # it is read alone on the scoreboard and in the robustness page
        assert not ALONE.match(text), f"its subject stands in another claim: {text}"
        asked = {k.arg: k.value for k in call.keywords}
        if not isinstance(getattr(asked.get("equals"), "value", None), bool):
            assert "{value" in text, f"does not say its number: {text}"


@coded
def test_a_claim_is_never_about_time(path):
    """What depends on the machine is a measurement."""
    for call, text in statements(path):
        if call.func.id == "claim":  # type: ignore[attr-defined]
            about = re.search(r"\b(seconds|milliseconds?|ms|faster|slower|minutes?)\b", text)
            assert not about, text


@pytest.mark.site
def test_claims_have_a_margin(site):
    """Exact, or at least a twentieth of the bound away from it."""
    thin = []
    for claim in json.loads((ROOT / "_build/claims.json").read_text(encoding="utf-8")):
        if claim["kind"] == "claim" and claim["relation"] != "==":
            value, bound = claim["value"], claim["bound"]
            if abs(value - bound) < MARGIN * abs(bound):
                thin.append(f"{claim['chapter']}: {claim['text']} ({claim['relation']} {bound:g})")
    assert not thin, "\n".join(thin)


WORDS = (
    "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty"
    " half third quarter fifth tenth hundred thousand"
)
NUMBER = rf"(?:[-−±]?\d[\d,.]*|{'|'.join(WORDS.split())})"
UNIT = (
    r"(?:percent|per cent|%|\\%|points?|times|dB|decibels?|nats?|fold|seconds?|s|ms|milliseconds?|"
    r"minutes?|standard errors?|standard deviations?)\b"
)
CHANGE = (
    r"(?:better|worse|more|fewer|less|larger|smaller|higher|lower|faster|slower|wider|longer|"
    r"shorter|as \w+ as)"
)
TYPED = re.compile(
    rf"\b(?:{NUMBER}(?:\s|-|&nbsp;)?{UNIT}"
    rf"|{NUMBER} {CHANGE} than"
    rf"|(?:by|about|nearly|almost|over|only|under) {NUMBER} (?:of|in) {NUMBER}"
    r"|(?:twice|thrice) (?:as|the))",
    re.IGNORECASE,
)


def typed(path: Path) -> list[str]:
    """Numbers beside units and comparisons in prose, alt texts, captions, tables and quizzes.

    A sentence that cites is about somebody else's number, and stands.
    """
    text = prose(path)
    source = path.read_text(encoding="utf-8")
    text += "\n\n" + "\n\n".join(re.findall(r"^\s*:?(?:alt|caption): *(.+)$", source, re.MULTILINE))
    text = re.sub(r"\{cite[^}]*\}\s+", "CITED ", text)  # prose() has dropped the keys
    found = []
    for sentence in re.split(r"(?<=[.?!:;])\s+|\n\n|\|", text):
        if "CITED" not in sentence and "{cite" not in sentence:
            found += [" ".join(sentence.split()) for _ in TYPED.finditer(sentence)][:1]
    return list(dict.fromkeys(found))


def exceptions(path: Path) -> list[str]:
    """Phrases of settings, definitions and puzzles, a line each in typed/<page>.txt."""
    file = Path(__file__).parent / f"typed/{path.stem}.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [line for line in lines if line.strip() and not line.startswith("#")]


@written
def test_no_result_is_typed(path):
    known = exceptions(path)
    new = [sentence for sentence in typed(path) if not any(k in sentence for k in known)]
    assert not new, "\n".join(["glue these, or name them in tests/book/typed:", *new])


@written
def test_exceptions_are_still_there(path):
    sentences = typed(path)
    stale = [known for known in exceptions(path) if not any(known in s for s in sentences)]
    assert not stale, stale


def test_typed_results_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\nIt gains 3.2 points. It is twice as fast. Pruned to 5 layers.\n\n"
        "The paper says 96.8 percent {cite:p}`jiao2020tinybert`. It is right on {glue:text}`x` "
        "percent.\n\n```{figure} x.svg\n:alt: It rises by four percent\n```\n"
    )
    assert typed(page) == [
        "It gains 3.2 points.",
        "It is twice as fast.",
        "It rises by four percent",
    ]
