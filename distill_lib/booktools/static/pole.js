// CartPole of Gymnasium in float64: the constants and the order of operations are those there.
function dlPoleStep(s, a) {
  const [x, v, th, w] = s, F = a ? 10 : -10, c = Math.cos(th), n = Math.sin(th);
  const push = (F + 0.05 * (w * w) * n) / 1.1;
  const tha = (9.8 * n - c * push) / (0.5 * (4 / 3 - 0.1 * (c * c) / 1.1)), xa = push - 0.05 * tha * c / 1.1;
  return [x + 0.02 * v, v + 0.02 * xa, th + 0.02 * w, w + 0.02 * tha];
}
function dlPole(root, cfg) {
  const offRail = s => Math.abs(s[0]) > 2.4, fell = s => Math.abs(s[2]) > 12 * 2 * Math.PI / 360;
  const floats = text => new Float32Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const W = floats(cfg.weights), names = ["position", "speed", "angle", "turning", "offset"];
  // Gymnasium shows float32, and the policies cut normalized observations at cfg.clip.
  const see = s => s.map((v, i) => Math.min(Math.max((Math.fround(v) - cfg.mean[i]) * cfg.scale[i], -cfg.clip), cfg.clip));
  const teacher = s => {
    let x = see(s), at = 0;
    cfg.layers.forEach((n, k) => {
      const m = x.length, y = new Array(n);
      for (let i = 0; i < n; i++) {
        let z = W[at + n * m + i];
        for (let j = 0; j < m; j++) z += W[at + i * m + j] * x[j];
        y[i] = k < cfg.layers.length - 1 ? Math.tanh(z) : z;
      }
      at += n * (m + 1);
      x = y;
    });
    return x[1] > x[0] ? 1 : 0;
  };
  // One hidden unit is a threshold: five numbers act.
  const student = (s, p) => p[4] + see(s).reduce((sum, v, i) => sum + p[i] * (v / cfg.scale[i] + cfg.mean[i]), 0) > 0 ? 1 : 0;

  const make = (name, props, parent, css) => {
    const e = parent.appendChild(Object.assign(document.createElement(name), props));
    if (css) e.style.cssText = css;
    return e;
  };
  root.textContent = "";
  root.dataset.ready = "1";
  make("p", { textContent: cfg.lead }, root, "margin:0 0 .6rem");
  const two = make("div", {}, root, "display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:.4rem 1rem");
  const button = (text, parent, press) => {
    const b = make("button", { type: "button", textContent: text }, parent, "font:inherit;min-height:44px;padding:0 .9rem;border:1px solid currentColor;border-radius:6px;background:none;color:inherit;cursor:pointer");
    b.addEventListener("click", () => press(b));
    return b;
  };
  const taught = Object.keys(cfg.students);
  let chosen = taught[0], p = cfg.students[chosen].slice();
  const worlds = [[cfg.teacher, "#0072B2", teacher], [cfg.student, "#D55E00", s => student(s, p)]].map(([name, color, act]) => {
    const box = make("figure", {}, two, "margin:0");
    const c = make("canvas", {}, box, "width:100%;aspect-ratio:2/1;display:block;cursor:pointer;touch-action:manipulation");
    c.setAttribute("role", "img");
    c.setAttribute("aria-label", name + ", balancing a pole on a cart");
    const caption = make("figcaption", {}, box, "text-align:start");
    make("strong", { textContent: name }, caption);
    const w = { c: c, color: color, act: act, note: make("span", {}, caption, "display:block;font-variant-numeric:tabular-nums;min-height:3em") };
    c.addEventListener("click", e => push(e.offsetX < c.clientWidth / 2 ? cfg.push : -cfg.push));
    return w;
  });
  const begin = only => {
    const s = [0, 0, 0, 0].map(() => Math.random() * 0.1 - 0.05);
    for (const w of worlds) if (!only || w === only) Object.assign(w, { s: s.slice(), steps: 0, down: 0, force: 0, pushes: 0 });
  };
  const push = d => {
    for (const w of worlds) if (!w.down) { w.s[1] += d; w.force = 12 * d; w.pushes++; }
    draw();
  };
  const tick = () => {
    for (const w of worlds) {
      if (w.down) { if (++w.down > 100) begin(w); continue; }
      w.s = dlPoleStep(w.s, w.act(w.s));
      w.steps++;
      if (offRail(w.s) || fell(w.s)) { w.down = 1; w.how = offRail(w.s) ? "left the rail" : "fell"; }
    }
  };
  const draw = () => {
    const ink = getComputedStyle(root).color, q = window.devicePixelRatio || 1;
    for (const w of worlds) {
      const width = Math.round(w.c.clientWidth * q), g = w.c.getContext("2d");
      if (w.c.width !== width) { w.c.width = width; w.c.height = Math.round(w.c.clientHeight * q); }
      const u = w.c.width / 5.2, X = w.c.width / 2 + w.s[0] * u, Y = w.c.height * 0.82, L = w.c.height * 0.66;
      g.clearRect(0, 0, w.c.width, w.c.height);
      g.lineCap = "round";
      const line = (x0, y0, x1, y1, thick, color) => { g.strokeStyle = color; g.lineWidth = thick * q; g.beginPath(); g.moveTo(x0, y0); g.lineTo(x1, y1); g.stroke(); };
      line(u * 0.2, Y, w.c.width - u * 0.2, Y, 1.5, ink);
      for (const e of [-2.4, 2.4]) line(w.c.width / 2 + e * u, Y - 8 * q, w.c.width / 2 + e * u, Y + 8 * q, 2.5, ink);
      g.fillStyle = ink;
      g.fillRect(X - u * 0.28, Y - u * 0.14, u * 0.56, u * 0.28);
      line(X, Y - u * 0.1, X + Math.sin(w.s[2]) * L, Y - u * 0.1 - Math.cos(w.s[2]) * L, 8, w.color);
      if (Math.abs(w.force) > 0.4) {
        line(X - Math.sign(w.force) * u * 0.36, Y, X - Math.sign(w.force) * u * (0.36 + Math.abs(w.force) / 12), Y, 5, w.color);
        w.force *= 0.92;
      }
      const after = w.pushes ? ", pushed " + (w.pushes === 1 ? "once" : w.pushes + " times") : "";
      w.note.textContent = w.down ? w.how + " after " + w.steps + " steps" + after : "standing for " + w.steps + " steps" + after;
    }
  };
  const bar = make("div", {}, root, "display:flex;flex-wrap:wrap;gap:.5rem;margin:.3rem 0 .6rem");
  button("◀ push", bar, () => push(-cfg.push));
  button("push ▶", bar, () => push(cfg.push));
  let run = !matchMedia("(prefers-reduced-motion: reduce)").matches, visible = true;
  button(run ? "pause" : "play", bar, b => { run = !run; b.textContent = run ? "pause" : "play"; });
  button("new start", bar, () => { begin(); draw(); });
  const choice = make("fieldset", {}, root, "border:0;margin:0;padding:0");
  make("legend", { textContent: cfg.question }, choice, "font-size:1em;margin:0;padding:0");
  for (const name of taught) {
    const l = make("label", {}, choice, "display:inline-flex;gap:.4rem;align-items:center;min-height:44px;margin-right:1.2rem");
    const r = make("input", { type: "radio", name: root.id + "-taught", value: name, checked: name === chosen }, l, "width:22px;height:22px");
    l.append(name);
    r.addEventListener("change", () => { chosen = name; back(); begin(); draw(); });
  }
  const fold = make("details", {}, root);
  make("summary", { textContent: "All that the student knows" }, fold, "cursor:pointer;min-height:44px");
  make("p", { textContent: cfg.formula }, fold, "margin:.2rem 0");
  const nine = make("div", {}, fold, "display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.2rem 1rem");
  const sliders = names.map((name, i) => {
    const most = 1.5 * Math.max(...taught.map(t => Math.abs(cfg.students[t][i])), 1e-3);
    const l = make("label", { textContent: name + " " }, nine, "display:block");
    const o = make("output", {}, l), r = make("input", { type: "range", min: -most, max: most, step: most / 200 }, l, "display:block;width:100%;height:44px;margin:0");
    const show = () => { o.textContent = p[i].toFixed(2).replace("-", "\u2212"); };
    r.addEventListener("input", () => { p[i] = +r.value; show(); });
    return () => { r.value = p[i]; show(); };
  });
  const back = () => { p = cfg.students[chosen].slice(); sliders.forEach(show => show()); };
  let last = 0, debt = 0;
  const loop = t => {
    if (run && visible) {
      debt += Math.min(t - last, 100);
      while (debt >= 20) { tick(); debt -= 20; }
      draw();
    }
    last = t;
    requestAnimationFrame(loop);
  };
  if (window.IntersectionObserver) new IntersectionObserver(seen => { visible = seen[seen.length - 1].isIntersecting; }).observe(root);
  root.live = { step: dlPoleStep, teacher: teacher, student: s => student(s, p), worlds: worlds };
  back();
  begin();
  draw();
  requestAnimationFrame(loop);
}
