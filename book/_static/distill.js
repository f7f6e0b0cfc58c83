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

  // On a phone the rows of a wide table of sentences are cards (distill.css).
  all(".bd-article table").forEach((table) => {
    const names = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    const cells = [...table.querySelectorAll("tbody td")];
    const middle = (some) => {
      const sizes = some.map((cell) => cell.textContent.trim().length).sort((a, b) => a - b);
      return sizes[sizes.length >> 1] ?? 0;
    };
    // Sentences everywhere, or a sentence at the head of each row, as in lists of claims.
    const heads = cells.filter((cell) => cell.cellIndex === 0);
    if (names.length < 4 || (middle(cells) < 20 && middle(heads) < 50)) return;
    table.classList.add("dl-cards");
    cells.forEach((cell) => { cell.dataset.column = names[cell.cellIndex] ?? ""; });
  });

  // What scrolls can be reached with the keyboard (scrollable-region-focusable).
  const scrollers = ".bd-article pre, .bd-article table, .bd-article div.math, .cell_output, "
    + ".bd-article [style*='overflow-x']";
  // Where a box goes on to the right, its edge fades.
  const more = (box) => {
    box.classList.toggle("dl-more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };
  const reach = () => {
    // A formula in a line that is wider than its line gets a scroller of its own.
    all(".bd-article span.math").forEach((formula) => {
      formula.classList.remove("dl-wide", "dl-more");
      const line = formula.parentElement.closest("p, li, td, th, dd, dt, figcaption, div");
      if (formula.firstElementChild.getBoundingClientRect().width > line.clientWidth) {
        formula.classList.add("dl-wide");
        formula.tabIndex = 0;
      }
    });
    const tables = ", .bd-article .pst-scrollable-table-container";
    all(scrollers + tables).forEach((box) => {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    });
    all(scrollers + tables + ", .dl-wide").forEach(more);
  };
  reach();
  window.addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true); // what was folded has its width now
  document.addEventListener("scroll", (event) => {
    if (event.target.closest?.(".bd-article")) more(event.target);
  }, { capture: true, passive: true });
  // Formulas have their width when their font is there.
  document.fonts.ready.then(reach);
});

// On paper every fold is open: answers, solutions, the bounds of claims.
let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll(".bd-article details:not([open])")];
  folded.forEach((fold) => { fold.open = true; });
});
window.addEventListener("afterprint", () => {
  folded.forEach((fold) => { fold.open = false; });
  folded = [];
});

// Who comes to the middle of a page waits until its formulas have their size: nothing jumps then.
if (location.hash.length > 1) {
  const page = document.documentElement.classList;
  const arrive = () => {
    if (!page.contains("dl-landing")) return;
    page.remove("dl-landing");
    document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  };
  page.add("dl-landing");
  window.addEventListener("load", () => document.fonts.ready.then(arrive));
  setTimeout(arrive, 3000);
}
