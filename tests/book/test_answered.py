"""Symptoms of the museums, questions that are answered here, and plans for courses."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import bookcache
import plainmyst
import pytest
import symptoms
from browsing import PHONE, launched, opened
from making import ROOT

BOOK = ROOT / "book"
EXHIBITS = symptoms.read(ROOT)
exhibits = pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.id)


@cache
def source(file: str) -> str:
    path = ROOT / file
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def is_test(test: str) -> bool:
    file, _, name = test.partition("::")
    return re.search(rf"^def {name}\(", source(file), re.MULTILINE) is not None


def is_function(name: str) -> bool:
    """Whether a dotted name is something that can be imported."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@cache
def labels() -> set[str]:
    """What the book's pages can be linked at: sections, theorems, figures, exercises."""
    found: set[str] = set()
    for page in bookcache.pages(ROOT):
        text = source(page)
        found |= set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
        found |= set(re.findall(r"^:?(?:label|name): ([\w-]+)$", text, re.MULTILINE))
        found |= set(re.findall(r"^ +name: ([\w-]+)$", text, re.MULTILINE))
    return found


# Exhibits and their symptoms


@exhibits
def test_an_exhibit_has_a_symptom_a_repair_and_a_test(exhibit):
    assert exhibit.anchor.startswith("err-"), "a label stands before the title"
    assert exhibit.symptoms, "a block of symptoms stands under the title"
    assert exhibit.repair and exhibit.test
    assert [name for name in exhibit.repair if not is_function(name)] == []
    assert [test for test in exhibit.test if not is_test(test)] == []


def test_every_section_of_a_museum_is_an_exhibit():
    for page in symptoms.MUSEUMS:
        titles = re.findall(r"^### (.+)$", symptoms.CODE.sub("", source(f"{page}.md")), re.M)
        shown = [e.title for e in EXHIBITS if e.page == f"{page}.html"]
        assert shown == [title.replace("`", "") for title in titles] and len(shown) > 10
    assert len({e.anchor for e in EXHIBITS}) == len(EXHIBITS)


def test_symptoms_are_said_in_one_way():
    said = list(symptoms.grouped(EXHIBITS))
    assert said == sorted(said, key=str.lower)
    assert len({re.sub(r"\W", "", symptom.lower()) for symptom in said}) == len(said)
    for symptom in said:
        assert symptom[0].isupper() and not re.search(r"[.!?`]$", symptom), symptom
        assert len(symptom) <= 60, symptom


def test_the_file_agrees_with_the_pages(tmp_path):
    path = symptoms.write(ROOT, tmp_path)
    entries = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "errata.json" and len(entries) == len(EXHIBITS)
    for entry in entries:
        assert set(entry) == {"id", "title", "symptoms", "page", "anchor", "repair", "test"}
        page = source(entry["page"].replace(".html", ".md"))
        _, _, section = page.partition(f"\n({entry['anchor']})=\n### ")
        section = section.partition("\n### ")[0]
        assert section.replace("`", "").startswith(entry["title"])
        for symptom in entry["symptoms"]:
            assert f"\n{symptom}\n" in section
        for name in [*entry["repair"], *(test.partition("::")[2] for test in entry["test"])]:
            assert name in section


def test_a_book_without_museums_has_no_file(tmp_path):
    assert symptoms.read(tmp_path) == [] and symptoms.write(tmp_path, tmp_path) is None


PAGE = """# A museum

## A room

(err-a)=
### The `first`

:::{symptoms}
My loss is NaN
:::

```{code-cell} ipython3
### no title, {py:func}`no.repair`
```

Before: {py:func}`not.this`. *The repair* is {py:func}`~a.b` ({src}`test_x <tests/a.py>`).

(err-b)=
### The second

:::{symptoms}
:repair: c.d, e.f
:test: tests/b.py::test_y

My loss is NaN
My student is slow
:::

## The end

{py:func}`not.this`
"""


def test_what_is_read_of_an_exhibit(tmp_path):
    page = tmp_path / "museum.md"
    page.write_text(PAGE)
    first, second = symptoms.of_page("book/museum", page)
    assert first == symptoms.Exhibit(
        "a", "The first", ("My loss is NaN",), "book/museum.html", "err-a",
        ("a.b",), ("tests/a.py::test_x",),
    )  # fmt: skip
    assert second.repair == ("c.d", "e.f") and second.test == ("tests/b.py::test_y",)
    assert second.symptoms == ("My loss is NaN", "My student is slow")
    assert [len(causes) for causes in symptoms.grouped([first, second]).values()] == [2, 1]


def test_in_a_notebook_symptoms_are_a_line():
    block = ":::{symptoms}\n:repair: a.b\n\nMy loss is NaN\nIt is slow\n:::"
    context = plainmyst.Context(ROOT, "book/errata_museum", "")
    assert plainmyst.convert(block, context) == "*What one sees: My loss is NaN · It is slow*"


# The page of symptoms, built without the rest of the book


CONF = """
import sys
sys.path[:0] = [{tools!r}, {ext!r}]
import distill_sources, distill_symptoms
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
exclude_patterns = ["tests", "_build"]
html_static_path = [{static!r}]
html_css_files = ["distill.css"]
def setup(app):
    distill_symptoms.setup(app)
    app.add_role("src", distill_sources.src)
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the museums and their symptoms alone; nothing is run."""
    root = tmp_path_factory.mktemp("symptoms")
    (root / "book").mkdir()
    (root / "tests").symlink_to(ROOT / "tests")
    for page in (*symptoms.MUSEUMS, "book/symptoms"):
        text = symptoms.CODE.sub("", source(f"{page}.md"))
        (root / f"{page}.md").write_text(re.sub(r"```\{cost\}.*?```", "", text, flags=re.S))
    (root / "index.md").write_text("# Book\n\n```{toctree}\n:glob:\n\nbook/*\n```\n")
    (root / "conf.py").write_text(
        CONF.format(
            tools=str(BOOK / "_tools"), ext=str(BOOK / "_ext"), static=str(BOOK / "_static")
        )
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(root), str(root / "_build")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # labels of other pages, numbers and citations are not there, exhibits are
    assert not re.search(r"label: '(err-|by-symptom)|symptoms? ", done.stderr), done.stderr
    return root / "_build"


def test_the_site_has_the_file_and_each_symptom_leads_to_its_exhibits(small):
    entries = json.loads((small / "errata.json").read_text(encoding="utf-8"))
    page = (small / "book/symptoms.html").read_text(encoding="utf-8")
    assert 'href="../errata.json"' in page
    anchors = set(re.findall(r'id="(see-[\w-]+)"', page))
    for entry in entries:
        assert f'href="{Path(entry["page"]).name}#{entry["anchor"]}"' in page
        exhibit = (small / entry["page"]).read_text(encoding="utf-8")
        assert f'id="{entry["anchor"]}"' in exhibit
        for back in re.findall(r'href="symptoms\.html#(see-[\w-]+)"', exhibit):
            assert back in anchors
    assert len(anchors) == len(symptoms.grouped(EXHIBITS))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    yield from launched()


def shown(page: Any) -> list[str]:
    said = page.locator(".dl-symptom > p:first-child").all()
    # Sphinx has made the quotes typographic
    return [row.inner_text().replace("\u2019", "'") for row in said if row.is_visible()]


def test_words_find_symptoms_by_keyboard(chromium, small):
    with opened(chromium, PHONE) as page:
        page.goto((small / "book/symptoms.html").as_uri())
        everything = shown(page)
        assert everything == list(symptoms.grouped(EXHIBITS))
        field, said = page.locator("#dl-find-symptom"), page.locator("#dl-found")
        assert said.get_attribute("aria-live") == "polite"
        assert said.inner_text() == f"{len(everything)} of {len(everything)} symptoms"
        assert field.bounding_box()["height"] >= 44
        field.focus()
        page.keyboard.type("why is my loss NaN?")
        assert shown(page) == ["My loss is NaN"]
        assert said.inner_text() == f"1 of {len(everything)} symptoms"
        page.keyboard.press("Control+A")
        page.keyboard.type("xyzzy")
        assert shown(page) == [] and "None" in said.inner_text()
        page.keyboard.press("Control+A")
        page.keyboard.press("Delete")
        assert shown(page) == everything
        assert page.outside == [] and page.errors == []


def test_without_script_everything_is_there_and_no_field(chromium, small):
    context = chromium.new_context(java_script_enabled=False, viewport=PHONE)
    page = context.new_page()
    page.goto((small / "book/symptoms.html").as_uri())
    assert shown(page) == list(symptoms.grouped(EXHIBITS))
    assert not page.locator("#dl-find-symptom").is_visible()
    context.close()


def test_the_script_is_short():
    script = (BOOK / "_static/symptoms.js").read_text(encoding="utf-8")
    assert len(script.splitlines()) <= 40


# Questions


ANSWERED = source("book/answered.md")
QUESTIONS = dict(re.findall(r"^### (.+)\n\n((?:.+\n|\n(?!#))*)", ANSWERED, re.MULTILINE))
questions = pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q[:40])
PARTS = ("*Asked in* ", "*Shown in* ", "*Held by* ", "*Done by* ")
THREAD = re.compile(r"\]\(https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+\)")


def parts(question: str) -> tuple[str, dict[str, str]]:
    """The answer of a question, and where it was asked, is shown, held and done."""
    answer, _, rest = QUESTIONS[question].strip().rpartition("\n\n")
    found = re.split(r"(\*(?:Asked|Shown|Held|Done) (?:in|by)\* )", rest)
    return answer, dict(zip(found[1::2], found[2::2], strict=True))


def test_there_are_questions_of_every_field():
    fields = re.findall(r"^## (.+)$", ANSWERED, re.MULTILINE)
    assert len(QUESTIONS) >= 20 and len(fields) >= 7
    assert len(re.findall(r"^### ", ANSWERED, re.MULTILINE)) == len(QUESTIONS)


@questions
def test_a_question_is_answered_and_the_answer_is_held(question):
    answer, where = parts(question)
    assert question.endswith("?") and tuple(where) == PARTS
    assert 2 <= len(re.findall(r"[.?](?=\s|$)", answer)) <= 5, answer
    assert '"' not in re.sub(r"`[^`]+`", "", answer), "our words, not theirs"
    assert THREAD.search(where["*Asked in* "])
    targets = re.findall(r"\{(?:ref|numref|prf:ref)\}`([\w-]+)`", QUESTIONS[question])
    assert targets and [name for name in targets if name not in labels()] == []
    tests = re.findall(r"\{src\}`(\w+) <([\w/.]+)>`", where["*Held by* "])
    assert tests and [name for name, file in tests if not is_test(f"{file}::{name}")] == []
    functions = re.findall(r"\{py:\w+\}`~?([\w.]+)`", where["*Done by* "])
    assert functions and [name for name in functions if not is_function(name)] == []


@cache
def reference() -> dict[str, str]:
    """What the pages of the library document: names, and whether class or function."""
    text = "".join(source(page) for page in bookcache.pages(ROOT) if "/api" in page)
    return {name: kind for kind, name in re.findall(r"auto(class|function):: ([\w.]+)", text)}


def test_functions_that_answer_are_in_the_reference():
    named = re.findall(r"\{py:(class|func)\}`~?([\w.]+)`", ANSWERED)
    assert len(named) > 30
    assert [name for kind, name in named if not reference().get(name, "").startswith(kind)] == []


@exhibits
def test_repairs_are_in_the_reference(exhibit):
    own = [name for name in exhibit.repair if name.startswith("distill_lib.")]
    assert [name for name in own if name not in reference()] == []


# Instructors


def test_plans_name_chapters_and_exercises_that_exist():
    text = source("book/instructors.md")
    named = set(re.findall(r"\{(?:ref|numref|prf:ref)\}`(?:[^`<]+<)?([\w-]+)>?`", text))
    assert sorted(named - labels()) == []
    chapters = {
        re.search(r"^\((ch-[\w-]+)\)=$", source(page), re.MULTILINE)[1]  # type: ignore[index]
        for page in bookcache.pages(ROOT)
        if page.startswith("chapters/")
    }
    assert sorted(chapters - named) == [], "a course may be made of any chapter"


def test_graded_exercises_have_checkers():
    from distill_lib.booktools import answers

    known = answers.load()
    text = source("book/instructors.md")
    graded = set(re.findall(r"\bex-[a-z_]+-\d+\b", text)) - {"ex-divergences-7", "ex-course-1"}
    assert len(graded) >= 20
    assert sorted(graded - set(known)) == []


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", source("book/instructors.md"), re.M | re.S)


def test_the_script_that_grades_grades(tmp_path):
    """On a folder of answers, of which one is all right, one is half right, and one is odd."""
    from distill_lib.booktools import answers

    script = next(block for block in blocks() if block.startswith("# grade.py"))
    (tmp_path / "grade.py").write_text(script)
    asked = re.findall(r'"(ex-[\w-]+)"', script)
    right = {name: answers.load()[name].right for name in asked}
    whole = {name: getattr(value, "tolist", lambda v=value: v)() for name, value in right.items()}
    hand_in = {"ada": whole, "ben": {asked[0]: whole[asked[0]], asked[2]: "half"}, "cy": {}}
    (tmp_path / "hand_in").mkdir()
    for name, given in hand_in.items():
        (tmp_path / f"hand_in/{name}.json").write_text(json.dumps(given))
    command = [sys.executable, "grade.py", "hand_in"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if " of " in line and "ex-" not in line] == [
        "ada: 3 of 3",
        "ben: 1 of 3",
        "cy: 0 of 3",
    ]
    assert f"ben: {asked[2]}: expected a number, got str." in lines


def test_what_is_handed_in_as_a_file_is_no_function():
    from distill_lib.booktools import answers

    script = next(block for block in blocks() if block.startswith("# grade.py"))
    kinds = {answers.load()[name].kind for name in re.findall(r'"(ex-[\w-]+)"', script)}
    assert "callable" not in kinds


def test_an_exercise_with_numbers_of_ones_own_is_judged():
    names: dict[str, Any] = {}
    exec(next(block for block in blocks() if "ex-course-1" in block), names)
    own, verdict = names["own"], names["verdict"]
    assert verdict(own, 16) is None and "1/T²" in verdict(own, 4.0)
    assert "upside down" in verdict(own, 1 / 16)
