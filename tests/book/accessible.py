"""Whether a page asks for a network or excludes somebody: axe-core, and a phone."""

from __future__ import annotations

from typing import Any

from browsing import CUT, PHONE

__all__ = ["ALL", "COLORS", "excludes_nobody", "violations"]

OF_COLORS = ["link-in-text-block", "color-contrast"]
COLORS = {"runOnly": {"type": "rule", "values": OF_COLORS}}
ALL: dict[str, Any] = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
}
RULES = {**ALL, "rules": {rule: {"enabled": False} for rule in OF_COLORS}}  # all others
# Texts of one size and color on one ground have one contrast, which axe takes long to find: it is
# asked about the first of each kind. So are links in texts, which it takes longest to find.
FEWER = """axe.configure({rules: [
  {id: "color-contrast", selector: "[data-kind]"},
  {id: "link-in-text-block", selector: "a[href][data-link]"},
]})"""
KINDS = """() => {
  const grounds = new Map([[null, ""]]), seen = new Set();
  const ground = (box) => {
    if (!grounds.has(box)) {
      const s = getComputedStyle(box), below = ground(box.parentElement);
      grounds.set(box, [s.backgroundColor, s.backgroundImage, s.opacity, below].join());
    }
    return grounds.get(box);
  };
  for (const box of document.querySelectorAll("body *")) {
    delete box.dataset.kind;
    const text = [...box.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!(text || box.matches("input, textarea, select")) || !box.checkVisibility()) continue;
    const s = getComputedStyle(box);
    const kind = [s.color, s.fontSize, s.fontWeight, s.textShadow, ground(box)].join();
    if (!seen.has(kind)) box.dataset.kind = "";
    seen.add(kind);
  }
  for (const link of document.querySelectorAll("body a[href]")) {
    delete link.dataset.link;
    if (!link.checkVisibility()) continue;
    const block = link.parentElement.closest("p, li, dd, td, th, figcaption, div");
    const s = getComputedStyle(link), around = getComputedStyle(block);
    const alone = block.textContent.trim() === link.textContent.trim();
    const looks = [s.color, s.textDecorationLine, s.borderBottom, s.fontWeight, s.fontStyle];
    const kind = [block.tagName, around.color, ground(block), alone, looks].join();
    if (!seen.has(kind)) link.dataset.link = "";
    seen.add(kind);
  }
}"""
# Contrast is looked for in a plan of all boxes, which takes seconds where there are ten thousand.
# What is like its neighbors, and has no text that is asked about in a theme, is taken out before.
KEEP = "document.querySelectorAll('[data-kind], [data-link]').forEach((e) => e.dataset.kept = '')"
ALIKE = "math > *, pre span, .sig *, dl.py:nth-of-type(n + 9), tbody tr:nth-child(n + 9)"
PRUNE = f"""[...document.querySelectorAll("{ALIKE}")].filter(
  (box) => !box.matches("[data-kept]") && !box.querySelector("[data-kept]")
).forEach((box) => box.remove())"""
# What scrolls to the right, and whose edge does not fade.
UNTOLD = """() => [...document.querySelectorAll(".bd-article *")].filter((box) =>
  box.checkVisibility() && /auto|scroll/.test(getComputedStyle(box).overflowX)
  && box.scrollWidth > box.clientWidth + 1 && !box.classList.contains("dl-more")
).map((box) => box.outerHTML.slice(0, 100))"""


def violations(page: Any, rules: dict[str, Any] = ALL) -> list[str]:
    """What axe-core finds serious or critical, with the first element of each."""
    from axe_playwright_python.base import AXE_SCRIPT

    page.evaluate(KINDS)
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
        page.evaluate(FEWER)
    asked = {**rules, "resultTypes": ["violations"]}
    found = page.evaluate("(asked) => axe.run(asked)", asked)
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary'][:300]}"
        for v in found["violations"]
        if v["impact"] in {"serious", "critical"}
    ]


def excludes_nobody(page: Any) -> None:
    """Of a page that was just visited, wide; afterwards much of it is gone."""
    assert page.outside == []
    assert page.errors == []
    assert violations(page, RULES) == []
    wide = page.viewport_size
    page.evaluate("window.looks = 0")
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate(CUT) == 0
    # the edges follow the new width in a frame after it
    page.wait_for_function(f"!({UNTOLD})().length || ++window.looks > 50")
    assert page.evaluate(UNTOLD) == []
    assert violations(page, RULES) == []
    page.set_viewport_size(wide)
    for theme in ("dark", "light"):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        page.evaluate(KINDS)
        page.evaluate(KEEP)
    page.evaluate(PRUNE)
    for theme in ("light", "dark"):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        assert violations(page, COLORS) == []
