// Sliders that select among positions which Python has computed: each shows cfg.fits[index].
const dlTwo = ["#0072B2", "#D55E00"], dlPercent = v => (100 * v).toFixed(1) + "\u202f%";
const dlCount = n => n.toLocaleString("en"), dlAt = (line, x) => ["x1", "x2"].forEach(a => line.setAttribute(a, x));
// A histogram between -reach and reach, and below it two bars with their names.
function dlBell(pen, cfg, names) {
  const { el, svg, text } = pen, n = cfg.counts.length, x = v => 240 + 225 * v / cfg.reach, top = Math.max(...cfg.counts);
  const bar = (i, c, attrs) => el("rect", { x: 15 + 450 * i / n, width: 450 / n - 0.6, y: 112 - 104 * c / top, height: 104 * c / top, ...attrs }, svg);
  cfg.counts.forEach((c, i) => bar(i, c, { fill: "currentColor", "fill-opacity": 0.25 }));
  el("line", { x1: 15, x2: 465, y1: 112, y2: 112, stroke: "currentColor" }, svg);
  [-0.8, 0, 0.8].forEach(v => text(x(v * cfg.reach), 170, (v * cfg.reach).toFixed(2).replace("-", "\u2212")));
  const bars = names.map((name, k) => {
    text(168, 199 + 26 * k, name, "end");
    return [el("rect", { x: 176, y: 186 + 26 * k, height: 17, fill: dlTwo[k] }, svg), text(0, 199 + 26 * k, "", "start")];
  });
  return { x: x, bar: bar, top: top, show: (shares, words) => bars.forEach(([r, t], k) => {
    r.setAttribute("width", 215 * shares[k]);
    Object.assign(t, { textContent: words[k] }).setAttribute("x", 182 + 215 * shares[k]);
  }) };
}
function dlBits(root, cfg) {
  dlFigure(root, { label: cfg.label, positions: cfg.positions, start: cfg.start, lines: 3.3, scene: pen => {
    const bell = dlBell(pen, cfg, ["even grid", "k-means"]), marks = pen.el("g", { "stroke-width": 1.3 }, pen.svg), most = Math.max(...cfg.fits.map(f => f.kmeans_db));
    return (bits, i) => {
      const { even, kmeans, ...f } = cfg.fits[i], db = [f.even_db, f.kmeans_db];
      marks.textContent = "";
      [even, kmeans].forEach((values, k) => values.forEach(v => pen.el("line", { x1: bell.x(v), x2: bell.x(v), y1: 119 + 18 * k, y2: 133 + 18 * k, stroke: dlTwo[k] }, marks)));
      bell.show(db.map(v => v / most), db.map(v => v.toFixed(1) + " dB"));
      const note = "Even grid: " + f.even_values + (bits === 1 ? " value, zero. " : " values, as far as the largest weight. ") + "k-means: " + f.kmeans_values + " values, where the weights are. Bars: signal to noise.";
      return { shown: String(bits), note: note, title: note, values: { position: bits, ...f } };
    };
  } });
}
function dlSparsity(root, cfg) {
  dlFigure(root, { label: cfg.label, positions: cfg.positions, start: cfg.start, lines: 3.3, scene: pen => {
    const bell = dlBell(pen, cfg, ["weights kept", "squares kept"]), stay = cfg.counts.map((c, i) => bell.bar(i, 0, { fill: dlTwo[0] })), edges = [-1, 1].map(() => pen.el("line", { y1: 4, y2: 118, stroke: dlTwo[1], "stroke-width": 2 }, pen.svg));
    return (sparsity, i) => {
      const { left, ...f } = cfg.fits[i];
      stay.forEach((r, k) => { r.setAttribute("y", 112 - 104 * left[k] / bell.top); r.setAttribute("height", 104 * left[k] / bell.top); });
      edges.forEach((e, k) => dlAt(e, bell.x((2 * k - 1) * f.threshold)));
      bell.show([f.kept, f.squares], [dlPercent(f.kept), dlPercent(f.squares)]);
      const note = "Weights below " + f.threshold.toFixed(4) + " in absolute value go (gray). What stays (blue) is " + dlPercent(f.kept) + " of the weights and " + dlPercent(f.squares) + " of the sum of their squares.";
      return { shown: Math.round(100 * sparsity) + "\u202f%", note: note, title: note, values: { position: sparsity, ...f } };
    };
  } });
}
function dlMixture(root, cfg) {
  dlFigure(root, { label: cfg.label, positions: cfg.positions, start: cfg.start, lines: 3.3, scene: pen => {
    const all = cfg.fits.flatMap(f => f.wrong), low = 5 * Math.floor(Math.min(...all) / 5), high = 5 * Math.ceil(Math.max(...all) / 5), ticks = Array.from({ length: (high - low) / 5 + 1 }, (_, k) => low + 5 * k);
    const axes = dlAxes(pen, [0, 1], [low, high], [0, 0.25, 0.5, 0.75, 1], ticks, "λ, from labels alone to the teacher alone"), at = pen.el("line", { y1: 12, y2: 196, stroke: "currentColor", "stroke-dasharray": "3 4" }, pen.svg);
    const dots = cfg.counts.map((n, k) => {
      const ys = cfg.fits.map(f => f.wrong[k]), best = ys.indexOf(Math.min(...ys)), look = { fill: "none", stroke: dlTwo[1], "stroke-width": 2.2, "stroke-opacity": 0.45 + 0.275 * k };
      pen.el("path", { d: dlPath(cfg.positions, ys, axes), ...look }, pen.svg);
      pen.el("circle", { cx: axes.x(cfg.positions[best]), cy: axes.y(ys[best]), r: 8, ...look, stroke: dlTwo[0], "stroke-opacity": 1 }, pen.svg);
      pen.text(axes.x(0) + 6, axes.y(ys[0]) - 7, dlCount(n) + " labels", "start");
      return pen.el("circle", { r: 4.5, fill: dlTwo[1] }, pen.svg);
    });
    return (mix, i) => {
      const wrong = cfg.fits[i].wrong;
      dlAt(at, axes.x(mix));
      dots.forEach((c, k) => { c.setAttribute("cx", axes.x(mix)); c.setAttribute("cy", axes.y(wrong[k])); });
      const note = "Percent wrong: " + cfg.counts.map((n, k) => wrong[k].toFixed(1) + " with " + dlCount(n) + " labels").join(", ") + "; the teacher itself " + cfg.teacher.toFixed(1) + ". Rings: the best λ.";
      return { shown: mix.toFixed(2), note: note, title: note, values: { position: mix, wrong: wrong } };
    };
  } });
}
function dlBudget(root, cfg) {
  dlFigure(root, { label: cfg.label, positions: cfg.positions, start: cfg.start, lines: 4.4, scene: pen => {
    const axes = dlAxes(pen, [7.8, 11.3], [0.3, 1.1], [8, 9, 10, 11], [0.3, 0.5, 0.7, 0.9, 1.1], "operations, as a power of ten"), limit = pen.el("line", { y1: 12, y2: 196, stroke: "currentColor", "stroke-width": 1.5 }, pen.svg);
    const dots = cfg.points.map(([x, y, k]) => pen.el("circle", { cx: axes.x(x), cy: axes.y(y), r: 3.6, fill: dlTwo[1 - k] }, pen.svg));
    ["teacher, paid", "labels"].forEach((name, k) => { pen.text(62, 169 + 18 * k, name, "start"); pen.el("circle", { cx: 52, cy: 164 + 18 * k, r: 4.5, fill: dlTwo[k] }, pen.svg); });
    const say = (f, k) => f[k + "_loss"] === undefined ? "nothing" : f[k + "_loss"].toFixed(3) + " (" + f[k + "_width"] + " units, " + dlCount(f[k + "_steps"]) + " steps" + (f[k + "_teacher"] ? ", teacher of " + f[k + "_teacher"] : "") + ")";
    return (power, i) => {
      const f = cfg.fits[i];
      dlAt(limit, axes.x(power));
      cfg.points.forEach(([x], k) => dots[k].setAttribute("fill-opacity", x <= power ? 0.85 : 0.15));
      const note = "Lowest log-loss on labels: " + say(f, "labels") + "; teacher paid: " + say(f, "paid") + "; teacher given: " + say(f, "given") + ".", raised = [...String(Math.floor(power))].map(d => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("");
      return { shown: (10 ** (power - Math.floor(power))).toFixed(1) + " · 10" + raised + " operations", note: note, title: note, values: { position: power, ...f } };
    };
  } });
}
