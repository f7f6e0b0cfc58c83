// Accessibility repairs of the theme, checked with axe-core in tests/book/test_browser.py.
document.addEventListener("DOMContentLoaded", () => {
  const all = (selector) => document.querySelectorAll(selector);

  // A label must contain the visible words (label-content-name-mismatch).
  all("details > summary[aria-label]").forEach((s) => s.removeAttribute("aria-label"));
  all(".search-button-field[aria-label]").forEach((b) => {
    b.setAttribute("aria-label", b.textContent.replace(/\s+/g, " ").trim());
  });
  all(".theme-switch-button").forEach((b) => {
    b.setAttribute("aria-label", "Color mode: Light, Dark or System Settings");
  });

  // Children of a list are its items (aria-required-children).
  all(".citation-list[role=list] > .citation").forEach((c) => c.setAttribute("role", "listitem"));

  // All content is inside a landmark (region).
  const side = document.querySelector(".bd-sidebar-primary");
  if (side) {
    side.setAttribute("role", "navigation");
    side.setAttribute("aria-label", "Book");
  }

  // What scrolls can be reached with the keyboard (scrollable-region-focusable).
  const scrollers = ".bd-article pre, .bd-article table, .bd-article div.math, .cell_output";
  all(scrollers).forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  });
});
