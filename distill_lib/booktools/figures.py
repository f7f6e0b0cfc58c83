"""The house style of the figures: they read on a white page and on a dark one.

The ground is transparent, so text and axes need one gray for both pages. No gray reaches 4.5:1 on
white and on ``#121212`` at once (the best possible is 4.33:1 on both). Ours reaches it on white,
and on the dark page after the filter ``brightness(DARK_BRIGHTNESS)`` that the site's style sheet
applies to figures there; without the filter it still has 4.1:1.
"""

from __future__ import annotations

from typing import Any

from distill_lib.booktools._display import in_notebook

__all__ = ["COLORS", "DARK_BRIGHTNESS", "GRAY", "band", "contrast", "dots", "style"]

GRAY = "#767676"
DARK_BRIGHTNESS = 1.25

# Okabe and Ito's palette without black and yellow, each of which vanishes on one of the pages; the
# first four keep 3:1 on both, which is what lines need.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def style() -> None:
    """Set matplotlib to the house style, and to SVG where a notebook shows the figure.

    Example:
        >>> style()
        >>> import matplotlib as mpl
        >>> mpl.rcParams["savefig.transparent"]
        True
    """
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.facecolor": "none",
            "figure.constrained_layout.use": True,
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "savefig.transparent": True,
            "axes.prop_cycle": cycler(color=list(COLORS)),
            "axes.edgecolor": GRAY,
            "axes.labelcolor": GRAY,
            "axes.titlecolor": GRAY,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRAY,
            "grid.alpha": 0.25,
            "text.color": GRAY,
            "xtick.color": GRAY,
            "ytick.color": GRAY,
            "legend.frameon": False,
            "legend.labelcolor": GRAY,
            "lines.linewidth": 2.0,
            "font.size": 12.0,
            "svg.hashsalt": "distill",  # the same figure gives the same file
        }
    )
    if in_notebook():
        from matplotlib_inline import backend_inline

        set_formats: Any = backend_inline.set_matplotlib_formats
        set_formats("svg")


def band(ax: Any, x: Any, runs: Any, label: str | None = None, **line: Any) -> Any:
    """Draw the mean over seeds as a line and one standard deviation as a band.

    Args:
        ax: Matplotlib axes.
        x: ``[K]`` positions.
        runs: ``[S, K]``, a row for each seed.
        label: Name in the legend.
        **line: Further arguments of ``ax.plot``.

    Returns:
        The line, so that its color can be used again.

    Raises:
        ValueError: The shapes do not fit.
    """
    import numpy as np

    x, runs = np.asarray(x, dtype=float), np.asarray(runs, dtype=float)
    if runs.ndim != 2 or x.shape != runs.shape[1:]:
        raise ValueError(
            f"band wants x [K] and runs [S, K], a row for each seed; got x {list(x.shape)} and "
            f"runs {list(runs.shape)}."
        )
    mean = runs.mean(0)
    (drawn,) = ax.plot(x, mean, label=label, **line)
    if len(runs) > 1:
        spread = runs.std(0, ddof=1)
        ax.fill_between(
            x, mean - spread, mean + spread, color=drawn.get_color(), alpha=0.25, linewidth=0
        )
    return drawn


def dots(ax: Any, groups: Any, labels: Any = None) -> None:
    """Draw a point for every seed and a bar at the mean, one column for each group.

    Args:
        ax: Matplotlib axes.
        groups: A mapping from label to values, or a sequence of sequences with ``labels``.
        labels: Labels of the columns where ``groups`` is a sequence.

    Raises:
        ValueError: No group, an empty group, or another number of labels.
    """
    import numpy as np

    if hasattr(groups, "items"):
        labels, groups = list(groups), list(groups.values())
    columns = [np.asarray(group, dtype=float).ravel() for group in groups]
    names = [str(name) for name in (labels if labels is not None else range(len(columns)))]
    if not columns or any(column.size == 0 for column in columns) or len(names) != len(columns):
        raise ValueError(
            f"dots wants a label and at least one value for each column; got {len(names)} labels "
            f"and columns of {[column.size for column in columns]} values."
        )
    for at, values in enumerate(columns):
        color = COLORS[at % len(COLORS)]
        # Spread sideways by rank, not at random: the figure is the same each time.
        side = (np.argsort(np.argsort(values)) - (values.size - 1) / 2) * 0.06
        ax.plot(at + side, values, "o", color=color, alpha=0.75, markersize=6)
        ax.hlines(values.mean(), at - 0.28, at + 0.28, color=color, linewidth=2.5)
    ax.set_xticks(range(len(columns)), names)
    ax.set_xlim(-0.6, len(columns) - 0.4)
    ax.grid(axis="x", visible=False)


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colors ``#rrggbb`` after WCAG 2.

    Example:
        >>> round(contrast("#000000", "#ffffff"), 1)
        21.0
    """
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
