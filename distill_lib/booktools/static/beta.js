function dlBeta(root, cfg) {
  const logSoftmax = z => { const m = Math.max(...z), s = m + Math.log(z.reduce((a, v) => a + Math.exp(v - m), 0)); return z.map(v => v - s); };
  const lp = logSoftmax(cfg.teacher), lq = logSoftmax(cfg.student);
  const kl = (a, b) => a.reduce((t, v, i) => t + Math.exp(v) * (v - b[i]), 0);
  const forward = kl(lp, lq), reverse = kl(lq, lp);
  // D, D/β and D/(1-β); where one is 0/0 its limit, a pure KL, stands.
  const at = beta => {
    if (beta === 0) return { beta: beta, d: 0, over_beta: forward, over_rest: 0 };
    if (beta === 1) return { beta: beta, d: 0, over_beta: 0, over_rest: reverse };
    const lb = Math.log(beta), lr = Math.log1p(-beta);
    const lm = lp.map((v, i) => { const a = lb + v, b = lr + lq[i], m = Math.max(a, b); return m + Math.log(Math.exp(a - m) + Math.exp(b - m)); });
    const d = beta * kl(lp, lm) + (1 - beta) * kl(lq, lm);
    return { beta: beta, d: d, over_beta: d / beta, over_rest: d / (1 - beta) };
  };
  const nice = v => { const e = Math.pow(10, Math.floor(Math.log10(v))); return [1, 2, 5, 10].map(k => k * e).find(k => k >= v); };
  dlFigure(root, { label: "β", positions: cfg.positions, start: cfg.start, lines: 2, scene: pen => {
    const top = nice(1.05 * Math.max(forward, reverse, 1e-9));
    const axes = dlAxes(pen, [0, 1], [0, top], [0, 0.25, 0.5, 0.75, 1], [0, top / 2, top], "β");
    const grid = Array.from({ length: 201 }, (_, i) => at(i / 200));
    const names = { d: ["D", "#0072B2", "none"], over_beta: ["D/β", "#D55E00", "7 4"], over_rest: ["D/(1 − β)", "#009E73", "2 3"] };
    const dots = {};
    Object.entries(names).forEach(([key, [name, color, dash]], i) => {
      pen.el("path", { d: dlPath(grid.map(g => g.beta), grid.map(g => g[key]), axes), fill: "none", stroke: color, "stroke-width": 2.5, "stroke-dasharray": dash }, pen.svg);
      pen.el("line", { x1: 170, x2: 200, y1: 18 + 18 * i, y2: 18 + 18 * i, stroke: color, "stroke-width": 2.5, "stroke-dasharray": dash }, pen.svg);
      pen.text(206, 22 + 18 * i, name, "start");
      dots[key] = pen.el("circle", { r: 6, fill: color, stroke: "currentColor" }, pen.svg);
    });
    return beta => {
      const v = at(beta);
      for (const key in dots) { dots[key].setAttribute("cx", axes.x(beta)); dots[key].setAttribute("cy", axes.y(v[key])); }
      const words = "D = " + v.d.toFixed(4) + ", D/β = " + v.over_beta.toFixed(4) + ", D/(1 − β) = " + v.over_rest.toFixed(4);
      return {
        shown: String(beta),
        note: words + ". KL(teacher‖student) = " + forward.toFixed(4) + ", KL(student‖teacher) = " + reverse.toFixed(4) + " nats",
        title: "Generalized Jensen-Shannon divergence at β = " + beta + ": " + words,
        values: Object.assign(v, { forward: forward, reverse: reverse }),
      };
    };
  } });
}
