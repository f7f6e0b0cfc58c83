// What every slider figure shares: a labelled native range input, an SVG that follows the text
// color of its page, a live title, and the shown numbers in full precision in data-values.
const dlMinus = s => String(s).replace(/(?<!\w)-(?=\d)/g, "\u2212");  // not that of ResNet-20
function dlFigure(root, spec) {
  const NS = "http://www.w3.org/2000/svg";
  window.dlFigures = (window.dlFigures || 0) + 1;
  const id = root.id + "-" + window.dlFigures;
  const el = (name, attrs, parent, text) => {
    const e = document.createElementNS(NS, name);
    for (const k in attrs) e.setAttribute(k, attrs[k]);
    if (text !== undefined) e.textContent = text;
    if (parent) parent.appendChild(e);
    return e;
  };
  const html = (name, props, parent) => parent.appendChild(Object.assign(document.createElement(name), props));
  root.textContent = "";
  root.dataset.ready = "1";
  root.style.cssText = "max-width:560px;margin:0 auto";
  const label = html("label", { htmlFor: id, textContent: spec.label + " = " }, root);
  const shown = html("output", { htmlFor: id }, label);
  const last = spec.positions.length - 1;
  const range = html("input", { type: "range", id: id, min: 0, max: last, step: 1 }, root);
  range.value = spec.start;
  range.style.cssText = "display:block;width:100%;height:44px;margin:0";
  const under = html("div", {}, root);  // both ends of the range, and the way back to the start
  under.style.cssText = "display:flex;justify-content:space-between;align-items:center;font-size:.85em";
  const [first, back, end] = ["span", "button", "span"].map(name => html(name, { type: "button" }, under));
  const note = html("p", {}, root);
  note.style.cssText = "margin:0 0 .3rem;font-size:.9em;min-height:" + 1.5 * (spec.lines || 1) + "em";
  const svg = el("svg", { viewBox: "0 0 480 240", width: "100%", role: "img", "aria-labelledby": id + "-t", style: "display:block;color:inherit;overflow:visible" }, root);
  const title = el("title", { id: id + "-t" }, svg);
  const text = (x, y, s, anchor, parent) => el("text", { x: x, y: y, "text-anchor": anchor || "middle", "font-size": 14, fill: "currentColor" }, parent || svg, dlMinus(s));
  const update = spec.scene({ svg: svg, el: el, text: text });
  const draw = () => {
    const view = update(spec.positions[+range.value], +range.value);
    shown.textContent = dlMinus(view.shown);
    note.textContent = dlMinus(view.note);
    title.textContent = dlMinus(view.title);
    range.setAttribute("aria-valuetext", spec.label + " " + view.shown);
    root.dataset.values = JSON.stringify(view.values);
  };
  [[first, 0], [end, last]].forEach(([e, i]) => e.textContent = dlMinus(update(spec.positions[i], i).shown));
  back.textContent = "back to " + dlMinus(update(spec.positions[spec.start], spec.start).shown);
  back.style.cssText = "font:inherit;color:inherit;background:none;border:0;text-decoration:underline;min-height:44px;cursor:pointer";
  back.addEventListener("click", () => { range.value = spec.start; draw(); });
  range.addEventListener("input", draw);
  draw();
}
// Axes of a plot in the box of the figure; returns the two maps from data to pixels.
function dlAxes(pen, xr, yr, xticks, yticks, xlabel) {
  const L = 38, R = 470, T = 12, B = 196;
  const x = v => L + (v - xr[0]) / (xr[1] - xr[0]) * (R - L), y = v => B - (v - yr[0]) / (yr[1] - yr[0]) * (B - T);
  for (const v of yticks) {
    pen.el("line", { x1: L, x2: R, y1: y(v), y2: y(v), stroke: "currentColor", "stroke-opacity": v === yr[0] ? 0.7 : 0.2 }, pen.svg);
    pen.text(L - 6, y(v) + 4, String(v), "end");
  }
  for (const v of xticks) pen.text(x(v), B + 17, String(v));
  if (xlabel) pen.text((L + R) / 2, B + 36, xlabel);
  return { x: x, y: y };
}
function dlPath(xs, ys, axes) {
  return xs.map((v, i) => (i ? "L" : "M") + axes.x(v).toFixed(2) + " " + axes.y(ys[i]).toFixed(2)).join("");
}
