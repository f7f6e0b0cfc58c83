"""Quizzes that are answered before they are read: each choice opens what is to be said of it.

In the source, and so in each notebook, a question and its choices are one paragraph, and a fold
under it says which is right and what is wrong with the others. On the site each choice is a fold of
its own, so that who has chosen learns about that choice and goes on thinking about the others. No
script is needed: these are ``details`` elements.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.transforms.post_transforms import SphinxPostTransform

LETTER = re.compile(r"[(（]([a-e])[)）]")
END = re.compile(r"(?<=[.!?])\s+(?=[A-Z(])|(?<=[。！？])")

Inline = list[nodes.Node]


class Choices(SphinxPostTransform):
    """Before the folds become HTML, and after references and translations have been filled in."""

    default_priority = 150
    formats = ("html",)

    def run(self, **options: Any) -> None:
        for fold in list(self.document.findall(is_fold)):
            at = fold.parent.index(fold)
            asked = fold.parent[at - 1] if at else None
            found = parts(asked, fold)
            if found is not None:
                question, choices, answer, said = found
                asked.children = []  # type: ignore[union-attr]
                asked.extend(question)  # type: ignore[union-attr]
                fold.replace_self([one(fold, k, choices[k], k == answer, said[k]) for k in choices])


def is_fold(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("design_component") == "dropdown"


def parts(
    asked: nodes.Node | None, fold: nodes.Element
) -> tuple[Inline, dict[str, Inline], str, dict[str, Inline]] | None:
    """The question, its choices, the right one and what is said of each; None for another fold."""
    if not isinstance(asked, nodes.paragraph) or len(fold.children) != 2:
        return None
    told = fold.children[1]
    question, choices = split(asked)
    if len(choices) < 2 or not isinstance(told, nodes.paragraph):
        return None
    marked, *rest = [node for node in told.children if node.astext()] or [nodes.Text("")]
    first = LETTER.fullmatch(marked.astext())
    if first is None or first[1] not in choices:
        return None
    said = explained(rest, first[1], list(choices))
    return (question, choices, first[1], said) if all(said.values()) else None


def split(asked: nodes.paragraph) -> tuple[Inline, dict[str, Inline]]:
    """The nodes before the first letter, and those after each."""
    question: Inline = []
    choices: dict[str, Inline] = {}
    here = question
    for node in asked.children:
        if not isinstance(node, nodes.Text):
            here.append(node.deepcopy())
            continue
        texts = LETTER.split(str(node))
        here.append(nodes.Text(texts[0]))
        for letter, text in zip(texts[1::2], texts[2::2], strict=True):
            here = choices[letter] = [nodes.Text(f"({letter}){text.rstrip()}")]
            # a text that ends here is followed by a letter; else by a formula, after a space
            if text.endswith(" ") and text is texts[-1]:
                here.append(nodes.Text(" "))
    return question, choices


def explained(told: Inline, answer: str, letters: list[str]) -> dict[str, Inline]:
    """For each letter the sentences that name it; one that names none goes on with the last."""
    found: dict[str, Inline] = {letter: [] for letter in letters}
    about = {answer}
    for i, sentence in enumerate(sentences(told)):
        texts = " ".join(n.astext() for n in sentence if isinstance(n, (nodes.Text, nodes.strong)))
        named = set(LETTER.findall(texts)) & set(letters)
        about = {answer} if i == 0 else (named or about)
        for letter in about:
            found[letter] += [anew(node) for node in sentence]
    return found


def sentences(children: Inline) -> list[Inline]:
    found: list[Inline] = [[]]
    for node in children:
        if not isinstance(node, nodes.Text):
            found[-1].append(node)
            continue
        texts = END.split(str(node))
        found[-1].append(nodes.Text(texts[0]))
        found += [[nodes.Text(f" {text}")] for text in texts[1:] if text]
        if re.search(r"[.!?]\s+$", texts[-1]):
            found.append([])
    return [sentence for sentence in found if sentence]


def anew(node: nodes.Node) -> nodes.Node:
    """A copy without the places that links lead to, each of which is there once."""
    copy = node.deepcopy()
    for element in copy.findall(nodes.Element):
        element["ids"], element["names"] = [], []
    return copy


def one(fold: nodes.Element, letter: str, title: Inline, right: bool, said: Inline) -> nodes.Node:
    choice = fold.copy()
    choice["ids"], choice["names"] = [], []
    choice["container_classes"] = ["dl-choice"]
    choice += nodes.rubric("", "", *title)
    verdict = nodes.strong("", _("Right") if right else _("No."))
    choice += nodes.paragraph("", "", verdict, *said)
    return choice


def setup(app: Sphinx) -> None:
    app.add_post_transform(Choices)
