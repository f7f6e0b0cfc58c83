// One training step, walked through line by line. Every number comes from the trace in cfg.
function liveStep(root, cfg) {
  const make = (name, props, parent, css) => {
    const e = parent.appendChild(Object.assign(document.createElement(name), props));
    if (css) e.style.cssText = css;
    return e;
  };
  const say = v => (Math.abs(v) < 0.5 / 10 ** cfg.digits ? 0 : v).toFixed(cfg.digits).replace("-", "\u2212");
  const tints = { teacher: "0,114,178", student: "213,94,0", "": "128,128,128" };
  const table = (t, box) => {
    const e = make("table", {}, box, "border-collapse:collapse;width:100%;margin:0 0 .7rem;font-size:13px;line-height:1.3;table-layout:fixed;font-variant-numeric:tabular-nums");
    make("caption", { textContent: t.name }, e, "caption-side:top;text-align:left;color:inherit;font-weight:600;margin:0;padding:0 0 .15rem .4rem;border-left:5px solid rgb(" + tints[t.by] + ")");
    const cell = "padding:.15rem .25rem;border:0;color:inherit;font-weight:400;text-align:", head = make("tr", {}, make("thead", {}, e)), body = make("tbody", {}, e);
    t.head.forEach((h, k) => make(h ? "th" : "td", h ? { textContent: h, scope: "col" } : {}, head, cell + (k ? "right" : "left") + ";font-size:12px;vertical-align:bottom"));
    const most = Math.max(...t.values.flat().map(Math.abs));
    t.values.forEach((row, i) => {
      const tr = make("tr", {}, body), th = make("th", { scope: "row" }, tr, cell + "left;vertical-align:middle;white-space:nowrap");
      if (!t.rows) make("img", { src: cfg.pictures[i], alt: "" }, th, "image-rendering:pixelated;vertical-align:middle;margin:0 .35rem 0 0;display:inline-block;width:" + (t.large ? 44 : 20) + "px");
      th.append((t.rows || cfg.rows)[i]);
      for (const v of row) make("td", { textContent: say(v) }, tr, cell + "right;vertical-align:middle;background:rgba(" + tints[t.by] + "," + (0.4 * Math.abs(v) / most).toFixed(3) + ")");
    });
  };
  root.textContent = "";
  root.dataset.ready = "1";
  root.tabIndex = -1; // after a click anywhere in the figure the arrow keys turn it
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "One step of distillation, line by line");
  root.style.cssText = "outline:none;margin:1rem 0";
  const bar = make("div", {}, root, "display:flex;gap:.6rem;align-items:center"), last = cfg.stages.length - 1;
  const button = (text, by) => {
    const b = make("button", { type: "button", textContent: text }, bar, "font:inherit;min-height:44px;padding:0 .8rem;border:1px solid currentColor;border-radius:6px;background:none;color:inherit;cursor:pointer;white-space:nowrap");
    b.addEventListener("click", () => go(at + by));
    return b;
  };
  const back = button("◀ back", -1), range = make("input", { type: "range", min: 0, max: last, step: 1, ariaLabel: "Place in the step" }, bar, "flex:1;min-width:0;height:44px;margin:0");
  const next = button("next ▶", 1), name = make("p", { ariaLive: "polite" }, root, "margin:.5rem 0 .4rem;font-weight:600");
  const two = make("div", {}, root, "display:flex;flex-wrap:wrap;gap:.4rem 1.4rem;align-items:flex-start");
  const code = make("pre", {}, two, "flex:1 1 19.5rem;min-width:0;margin:0;padding:.4rem 0;font-size:12px;line-height:1.75;white-space:pre-wrap;overflow:visible;background:none;border:0;color:inherit;box-shadow:none");
  const lines = cfg.code.map(line => make("span", { textContent: line }, code, "display:block;padding:0 .4rem;border-left:4px solid transparent"));
  // All stages lie in one cell of a grid, so that the page does not move when another one shows.
  const pile = make("div", {}, two, "flex:1 1 18rem;min-width:0;display:grid"), sheets = cfg.stages.map(s => {
    const sheet = make("div", {}, pile, "grid-area:1/1;min-width:0");
    make("p", { textContent: s.says }, sheet, "margin:.3rem 0 .7rem;font-size:.93em;line-height:1.4");
    s.tables.forEach(t => table(t, sheet));
    return sheet;
  });
  let at = 0;
  const go = to => {
    const s = cfg.stages[at = Math.min(Math.max(to, 0), last)];
    name.textContent = range.ariaValueText = (at + 1) + " of " + (last + 1) + " · " + s.name;
    range.value = at;
    [[back, 0], [next, last]].forEach(([b, end]) => { b.ariaDisabled = at === end; b.style.opacity = at === end ? 0.4 : 1; });
    lines.forEach((e, i) => { e.style.borderLeftColor = s.lines.includes(i) ? "#D55E00" : "transparent"; e.style.background = s.lines.includes(i) ? "rgba(128,128,128,.22)" : "none"; });
    sheets.forEach((e, i) => { e.style.visibility = i === at ? "visible" : "hidden"; });
    root.dataset.values = JSON.stringify({ stage: at, tables: s.tables.map(t => t.values) });
  };
  range.addEventListener("input", () => go(+range.value));
  root.addEventListener("keydown", e => { const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key]; if (by && e.target !== range) { e.preventDefault(); go(at + by); } });
  go(0);
}
