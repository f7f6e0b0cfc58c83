"""The house style reads on both pages, and draws seeds as they are."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from distill_lib.booktools import band, dots, style
from distill_lib.booktools.figures import COLORS, DARK_BRIGHTNESS, GRAY, contrast

WHITE, DARK = "#ffffff", "#121212"
THEME_DARK = "#14181e"  # of the built site
STYLE_SHEET = Path(__file__).parents[2] / "book" / "_static" / "distill.css"


@pytest.fixture
def ax():
    with mpl.rc_context():
        style()
        figure, axes = plt.subplots()
        yield axes
        plt.close(figure)


def brighter(color: str) -> str:
    return "#" + "".join(
        f"{min(255, round(int(color[i : i + 2], 16) * DARK_BRIGHTNESS)):02x}" for i in (1, 3, 5)
    )


def test_contrast_agrees_with_known_pairs():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_text_reads_on_white_and_on_the_dark_page():
    assert contrast(GRAY, WHITE) >= 4.5
    assert contrast(brighter(GRAY), DARK) >= 4.5
    assert contrast(brighter(GRAY), THEME_DARK) >= 4.5
    assert contrast(GRAY, DARK) >= 4.0  # where no style sheet brightens it


def test_the_style_sheet_brightens_figures_by_this_much():
    rule = re.search(
        r'html\[data-theme="dark"\] \.bd-content \.bd-article img[^{]*\{([^}]*)\}',
        STYLE_SHEET.read_text("utf-8"),
    )
    assert rule is not None
    assert f"filter: brightness({DARK_BRIGHTNESS})" in rule[1]


def test_no_single_gray_has_full_contrast_on_both_pages():
    best = max(min(contrast(g, WHITE), contrast(g, DARK)) for g in (f"#{v:02x}{v:02x}{v:02x}"
               for v in range(256)))  # fmt: skip
    assert best < 4.5


@pytest.mark.parametrize("color", COLORS[:4])
def test_lines_read_on_both_pages(color):
    assert contrast(color, WHITE) >= 3
    assert contrast(color, DARK) >= 3


def test_style_is_transparent_and_gray(ax):
    assert mpl.rcParams["savefig.transparent"]
    assert mpl.rcParams["text.color"] == GRAY
    assert ax.get_facecolor()[3] == 0
    assert ax.xaxis.label.get_color() == GRAY


def test_style_asks_a_notebook_for_svg(monkeypatch):
    import matplotlib_inline.backend_inline as inline

    asked = []
    monkeypatch.setattr("distill_lib.booktools.figures.in_notebook", lambda: True)
    monkeypatch.setattr(inline, "set_matplotlib_formats", lambda *formats: asked.extend(formats))
    with mpl.rc_context():
        style()
    assert asked == ["svg"]


def test_band_draws_mean_and_spread(ax):
    runs = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    line = band(ax, [0, 1, 2], runs, "student", marker="o")
    assert np.allclose(line.get_ydata(), [2, 3, 4])
    assert line.get_label() == "student"
    (area,) = ax.collections
    top = area.get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(4 + np.sqrt(2))


def test_band_of_one_run_has_no_spread(ax):
    band(ax, [0, 1], [[1.0, 2.0]])
    assert not ax.collections


@pytest.mark.parametrize("runs", [[1.0, 2.0], [[1.0, 2.0, 3.0]], [[[1.0]]]])
def test_band_refuses_other_shapes(ax, runs):
    with pytest.raises(ValueError, match=r"band wants x \[K\] and runs \[S, K\]"):
        band(ax, [0, 1], runs)


@pytest.mark.parametrize("groups", [{"CE": [1.0, 2.0], "KD": [3.0]}, [[1.0, 2.0], [3.0]]])
def test_dots_draw_every_seed_and_the_mean(ax, groups):
    dots(ax, groups, None if isinstance(groups, dict) else ["CE", "KD"])
    assert [len(line.get_ydata()) for line in ax.lines] == [2, 1]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["CE", "KD"]
    assert len(ax.collections) == 2


@pytest.mark.parametrize(
    ("groups", "labels"), [({}, None), ({"a": []}, None), ([[1.0], [2.0]], ["a"])]
)
def test_dots_refuse_what_cannot_be_drawn(ax, groups, labels):
    with pytest.raises(ValueError, match="dots wants a label and at least one value"):
        dots(ax, groups, labels)
