// How much code a page shows: "text" none, "key" what is not folded, "all" every fold of code too.
// This file is read in the head, so that what a reader chose earlier holds before the first paint.
(() => {
  const page = document.documentElement, key = "dl-shown", values = ["text", "key", "all"];
  const folds = "details.dl-code, details.dl-before";

  // On a first visit the theme finds no mode here, and complains to the console.
  page.dataset.mode ||= "auto";

  // A page that is opened as a file may have no storage: the choice then holds for this page.
  const stored = (value) => {
    try {
      if (value) localStorage.setItem(key, value);
      return localStorage.getItem(key);
    } catch { return null; }
  };
  // All folds of code, but the one in which the reader has just chosen.
  const fold = (open, button) => document.querySelectorAll(folds).forEach((box) => {
    if (!button || !box.contains(button)) box.open = open;
  });

  const before = stored();
  page.dataset.shown = values.includes(before) ? before : "key";
  if (page.dataset.shown === "all") {
    // Opened as they are read, between two paints: nothing below them moves.
    const watch = new MutationObserver(() => fold(true));
    watch.observe(page, {childList: true, subtree: true});
    document.addEventListener("DOMContentLoaded", () => { watch.disconnect(); fold(true); });
  }
  document.addEventListener("DOMContentLoaded", () => {
    const buttons = document.querySelectorAll(".dl-shown input");
    const mark = () => buttons.forEach((b) => { b.checked = b.value === page.dataset.shown; });
    mark();
    // A page that comes back as it was left may be older than the choice.
    addEventListener("pageshow", (event) => {
      const now = stored();
      if (!event.persisted || !values.includes(now) || now === page.dataset.shown) return;
      page.dataset.shown = now;
      mark();
      fold(now === "all");
    });
    buttons.forEach((button) => button.addEventListener("change", () => {
      page.dataset.shown = button.value;
      stored(button.value);
      mark();
      fold(button.value === "all", button);
    }));
  });
})();
