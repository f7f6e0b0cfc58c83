function dlDirection(root, cfg) {
  dlFigure(root, { label: cfg.label, positions: cfg.positions, start: cfg.start, lines: 2, scene: pen => {
    const top = cfg.top, axes = dlAxes(pen, [cfg.x[0], cfg.x[cfg.x.length - 1]], [0, top], cfg.ticks, [0]);
    const area = dlPath(cfg.x, cfg.target, axes);
    pen.el("path", { d: area + "L" + axes.x(cfg.x[cfg.x.length - 1]) + " " + axes.y(0) + "L" + axes.x(cfg.x[0]) + " " + axes.y(0) + "Z", fill: "currentColor", "fill-opacity": 0.15, stroke: "currentColor", "stroke-width": 1.5 }, pen.svg);
    const fit = pen.el("path", { fill: "none", stroke: "#D55E00", "stroke-width": 3 }, pen.svg);
    pen.el("line", { x1: 300, x2: 326, y1: 20, y2: 20, stroke: "#D55E00", "stroke-width": 3 }, pen.svg);
    pen.text(332, 24, "student (Gaussian)", "start");
    pen.el("rect", { x: 300, y: 32, width: 26, height: 10, fill: "currentColor", "fill-opacity": 0.15, stroke: "currentColor" }, pen.svg);
    pen.text(332, 42, "teacher (mixture)", "start");
    return (position, i) => {
      const f = cfg.fits[i], mu = f.mu, sigma = f.sigma;
      const q = cfg.x.map(x => Math.exp(-0.5 * ((x - mu) / sigma) ** 2) / (sigma * Math.sqrt(2 * Math.PI)));
      fit.setAttribute("d", dlPath(cfg.x, q, axes));
      const end = position === 0 ? ", forward KL" : position === 1 ? ", reverse KL" : "";
      return {
        shown: position.toFixed(3) + end,
        note: "Mean " + mu.toFixed(3) + ", standard deviation " + sigma.toFixed(3) + ". KL(teacher‖student) " + f.forward.toFixed(3) + ", KL(student‖teacher) " + f.reverse.toFixed(3) + " nats",
        title: "A Gaussian fitted to two modes, " + cfg.label + " " + position.toFixed(3) + end + ": mean " + mu.toFixed(3) + ", standard deviation " + sigma.toFixed(3),
        values: Object.assign({ position: position }, f),
      };
    };
  } });
}
