// A convolution is a linear layer for the k x k places around each place. An image is a row of channels for each of its h x h places.
function dlConv(net, name, x, h, k, stride) {
  const ins = x.length / (h * h), size = ins * k * k, g = Math.ceil(h / stride), around = (v, d) => v * stride + d - (k >> 1);
  return dlLinear(net, name, new Float64Array(g * g * size).map((_, i) => {
    const place = i / size | 0, j = i % size, row = around(place / g | 0, (j / k | 0) % k), col = around(place % g, j % k);
    return row < 0 || row >= h || col < 0 || col >= h ? 0 : x[(row * h + col) * ins + (j / (k * k) | 0)];
  }));
}
function dlResNet(net, image) {
  const relu = x => x.map(v => Math.max(v, 0));
  let h = 28, x = relu(dlConv(net, "conv", image, h, 3, 1));
  for (const block of ["1.0", "1.1", "1.2", "2.0", "2.1", "2.2", "3.0", "3.1", "3.2"].map(b => "layer" + b)) {
    const stride = net.has(block + ".shortcut.0.weight") ? 2 : 1, first = relu(dlConv(net, block + ".conv1", x, h, 3, stride)), short = stride > 1 ? dlConv(net, block + ".shortcut.0", x, h, 1, 2) : x;
    h = Math.ceil(h / stride);
    x = relu(dlConv(net, block + ".conv2", first, h, 3, 1).map((v, i) => v + short[i]));
  }
  const mean = new Float64Array(x.length / (h * h));
  x.forEach((v, i) => { mean[i % mean.length] += v / (h * h); });
  return Array.from(dlLinear(net, "fc", mean));
}
function dlGarments(root, cfg) {
  root.dataset.ready = "1";
  const part = name => root.querySelector(`[data-part=${name}]`), pad = part("pad"), range = part("range"), kinds = [...root.querySelectorAll("[data-image]")], g = pad.getContext("2d");
  const images = cfg.images.map(one => Float32Array.from(dlBytes(one), v => v / 255)), inside = v => Math.min(Math.max(v, 0), 27), say = (name, text) => { if (part(name).textContent !== text) part(name).textContent = text; };
  const tools = { smear: (old, x, y, dx, dy) => 0.2 * old[28 * y + x] + 0.8 * old[28 * inside(y - dy) + inside(x - dx)], draw: () => 1, erase: () => 0 };
  let k = 0, gray = images[0].slice(), at = [14, 14], down = false, net = null, student = null, due = 0;
  const answer = pixels => dlResNet(net, Float64Array.from(pixels, v => (v - cfg.mean) / cfg.std));
  const bars = () => {
    const T = +(0.25 * 80 ** (range.value / 60)).toPrecision(2), [teacher, own] = [cfg.logits[k], student].map((z, who) => {
      if (!z) return {};
      const e = z.map(v => Math.exp((v - Math.max(...z)) / T)), sum = e.reduce((a, b) => a + b), p = e.map(v => v / sum), best = p.indexOf(Math.max(...p));
      root.querySelectorAll(`[data-of="${who}"]`).forEach((cell, c) => {
        cell.firstChild.style.width = `calc((100% - 3.4em) * ${p[c]})`;
        Object.assign(cell.lastChild, { textContent: (100 * p[c]).toFixed(p[c] < 0.0995 ? 1 : 0) + "%" }).style.fontWeight = c === best ? 700 : 400;
      });
      return { p, best };
    });
    say("heat", "T = " + T);
    if (student) say("said", `Label: ${cfg.names[cfg.labels[k]]}. Teacher: ${cfg.names[teacher.best]}. Student: ${cfg.names[own.best]}${gray.some((v, i) => v !== images[k][i]) ? ", of the picture as it is now" : ""}.`);
    root.dataset.values = JSON.stringify({ T, image: k, teacher: teacher.p, student: own.p });
  };
  const draw = () => {
    gray.forEach((v, i) => { g.fillStyle = `rgb(${[v, v, v].map(v => Math.round(255 * v))})`; g.fillRect(i % 28 * 12, (i / 28 | 0) * 12, 12, 12); });
    Object.assign(g, { strokeStyle: "#D55E00", lineWidth: down ? 6 : 3 }).stroke(new Path2D(`M${at[0] * 12 - 21},${at[1] * 12 + 6} a27,27 0 1,0 54,0 a27,27 0 1,0 -54,0`));
    say("brush", down ? "down" : "up");
    if (net && !due) due = requestAnimationFrame(() => { const begun = performance.now(); due = 0; student = answer(gray); say("took", "" + Math.ceil(performance.now() - begun)); bars(); });
  };
  const move = (x, y) => { // in steps of a pixel, so that a fast stroke has no holes
    for (let n = Math.max(1, Math.ceil(Math.hypot(x - at[0], y - at[1]))); n > 0; n--) {
      const to = [at[0] + (x - at[0]) / n, at[1] + (y - at[1]) / n], [dx, dy] = to.map((v, i) => Math.round(v) - Math.round(at[i])), old = gray, tool = tools[root.querySelector("input:checked").value];
      if (down) gray = old.map((v, i) => Math.hypot(i % 28 - to[0], (i / 28 | 0) - to[1]) < 2.3 ? tool(old, i % 28, i / 28 | 0, dx, dy) : v);
      at = to;
    }
    draw();
  };
  const choose = i => { gray = images[k = i].slice(); kinds.forEach((b, j) => { b.setAttribute("aria-pressed", j === k); b.style.boxShadow = j === k ? "0 0 0 3px #D55E00" : ""; }); draw(); };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0], Escape: [0, 0] }, place = e => [e.offsetX / pad.clientWidth, e.offsetY / pad.clientHeight].map(v => inside(28 * v - 0.5));
  pad.onpointerdown = e => { pad.setPointerCapture(e.pointerId); at = place(e); down = true; move(...at); };
  pad.onpointermove = e => { if (down && e.buttons) move(...place(e)); };
  pad.onpointerup = pad.onpointercancel = pad.onblur = () => { down = false; draw(); };
  pad.onkeydown = e => {
    if (arrows[e.key]) e.preventDefault(); else return;
    down = e.key === " " ? !down : down && e.key !== "Escape";
    move(...at.map((v, i) => inside(Math.round(v) + arrows[e.key][i])));
  };
  kinds.forEach((b, i) => { b.onclick = () => choose(i); });
  range.oninput = bars;
  part("restore").onclick = () => choose(k);
  part("clear").onclick = () => { gray = gray.map(() => 0); draw(); };
  const file = dlBytes(cfg.file), read = bytes => dlUnpack(bytes, cfg.shapes), refused = error => `refused, ${error.message}`, any = n => Math.floor(n * Math.random());
  part("damage").onclick = () => { const torn = file.slice(); torn[any(torn.length)] ^= 1 << any(8); read(torn).then(() => say("file", "read"), error => say("file", refused(error))); };
  root.live = { answer, unpack: dlUnpack, ready: read(file).then(found => { answer(gray, net = found); draw(); }, error => say("said", "The student's file was " + refused(error))) };
  choose(0);
  bars();
}
