function dlTemperature(root, cfg) {
  const K = cfg.logits.length;
  dlFigure(root, { label: "Temperature T", positions: cfg.positions, start: cfg.start, scene: pen => {
    const axes = dlAxes(pen, [0, K], [0, 1], [], [0, 0.5, 1]);
    const bars = cfg.logits.map((_, i) => pen.el("rect", { x: axes.x(i + 0.15), width: axes.x(0.7) - axes.x(0), fill: "#0072B2", stroke: "currentColor", "stroke-opacity": 0.5 }, pen.svg));
    const nums = cfg.logits.map((_, i) => pen.text(axes.x(i + 0.5), 0, ""));
    const many = K > 6, at = i => many && i === K - 1 ? ["end", axes.x(K)] : ["middle", axes.x(i + 0.5)];
    cfg.labels.forEach((s, i) => pen.text(at(i)[1], axes.y(0) + 17 + (many && i % 2 ? 16 : 0), s, at(i)[0]));
    return T => {
      const s = cfg.logits.map(z => z / T), m = Math.max(...s), e = s.map(v => Math.exp(v - m)), Z = e.reduce((a, b) => a + b, 0);
      const p = e.map(v => v / Z), H = -p.reduce((a, v) => a + (v > 0 ? v * Math.log(v) : 0), 0);
      p.forEach((v, i) => {
        bars[i].setAttribute("y", axes.y(v));
        bars[i].setAttribute("height", axes.y(0) - axes.y(v));
        nums[i].setAttribute("y", axes.y(v) - 4);
        nums[i].textContent = v.toFixed(K > 6 ? 2 : 3);
      });
      return {
        shown: String(T),
        note: "Entropy " + H.toFixed(3) + " of at most " + Math.log(K).toFixed(3) + " nats",
        title: "Softmax at temperature " + T + ": " + p.map((v, i) => cfg.labels[i] + " " + v.toFixed(3)).join(", "),
        values: { T: T, p: p, entropy: H },
      };
    };
  } });
}
