// A BERT, over rows of numbers, one for each word piece. Weights that are zero are left out: half of the work.
const dlSparse = new WeakMap();
function dlLinear(net, name, x) {
  const W = net.get(name + ".weight"), bias = net.get(name + ".bias"), outs = bias.length, ins = W.length / outs, n = x.length / ins, y = new Float64Array(n * outs), z = new Float64Array(4 * ins);
  if (!dlSparse.has(W)) {
    const at = W.map((_, i) => i).filter(i => W[i]), end = new Uint32Array(outs);
    for (const i of at) end[i / ins | 0]++;
    end.forEach((v, o) => { end[o] += end[o - 1] || 0; });
    dlSparse.set(W, [end, Uint16Array.from(at, i => i % ins * 4), Float64Array.from(at, i => W[i])]);
  }
  const [end, place, value] = dlSparse.get(W);
  for (let t = 0; t < n; t += 4) { // four rows at a time, the last perhaps twice: each weight is fetched once for them
    const [a, b, c, d] = [t, t + 1, t + 2, t + 3].map(k => Math.min(k, n - 1));
    [a, b, c, d].forEach((row, k) => { for (let i = 0; i < ins; i++) z[4 * i + k] = x[row * ins + i]; });
    for (let o = 0, k = 0; o < outs; o++) {
      let p = bias[o], q = p, r = p, s = p;
      for (; k < end[o]; k++) { const v = value[k], i = place[k]; p += v * z[i]; q += v * z[i + 1]; r += v * z[i + 2]; s += v * z[i + 3]; }
      y[a * outs + o] = p; y[b * outs + o] = q; y[c * outs + o] = r; y[d * outs + o] = s;
    }
  }
  return y;
}
function dlGelu(x) { // with erfc as in Numerical Recipes, whose relative error is below 1.2e-7
  const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + z / 2), half = t / 2 * Math.exp(-z * z - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))))))));
  return x > 0 ? x * (1 - half) : x * half;
}
function dlBert(net, ids) {
  const E = "bert.embeddings.", n = ids.length, D = net.get(E + "LayerNorm.bias").length, H = 32, linear = (name, x) => dlLinear(net, name, x), dot = (a, b) => { let sum = 0; for (let i = 0; i < H; i++) sum += a[i] * b[i]; return sum; };
  const norm = (x, plus, name) => { // of the sum of both
    const gain = net.get(name + ".weight"), bias = net.get(name + ".bias"), y = x.map((v, i) => v + plus[i]);
    for (let t = 0; t < y.length; t += D) {
      const row = y.subarray(t, t + D), mean = row.reduce((a, b) => a + b) / D, scale = 1 / Math.sqrt(row.reduce((a, b) => a + (b - mean) ** 2, 0) / D + 1e-12);
      row.forEach((v, i) => { row[i] = (v - mean) * scale * gain[i] + bias[i]; });
    }
    return y;
  };
  const [rows, words, kind, places] = ["word_embeddings.lookup", "word_embeddings.embedding.weight", "token_type_embeddings.weight", "position_embeddings.weight"].map(name => net.get(E + name));
  let x = norm(new Float64Array(n * D).map((_, i) => words[rows[ids[i / D | 0]] * D + i % D] + kind[i % D]), places, E + "LayerNorm");
  for (let l = 0, name; net.has((name = `bert.encoder.layer.${l}.`) + "output.dense.bias"); l++) {
    const [q, k, v] = ["query", "key", "value"].map(part => linear(name + "attention.self." + part, x)), M = q.length / n, mixed = new Float64Array(n * M), head = (all, t, h) => all.subarray(t * M + h, t * M + h + H);
    for (let h = 0; h < M; h += H) for (let s = 0; s < n; s++) {
      const one = head(q, s, h), score = new Float64Array(n).map((_, t) => dot(one, head(k, t, h)) / Math.sqrt(H)), most = Math.max(...score), weight = score.map(z => Math.exp(z - most)), total = weight.reduce((a, b) => a + b);
      for (let t = 0; t < n; t++) for (let i = h; i < h + H; i++) mixed[s * M + i] += weight[t] / total * v[t * M + i];
    }
    x = norm(linear(name + "attention.output.dense", mixed), x, name + "attention.output.LayerNorm");
    x = norm(linear(name + "output.dense", linear(name + "intermediate.dense", x).map(dlGelu)), x, name + "output.LayerNorm");
  }
  return Array.from(linear("classifier", linear("bert.pooler.dense", x.subarray(0, D)).map(Math.tanh)));
}
// The words of a text, as spaces part them, with their pieces. `rows` says what becomes of a character: gone, a space, itself, another.
function dlTokenizer(pieces, rows) {
  const known = new Map(pieces.map((piece, i) => [piece, i])), which = new Uint16Array(0x110000), special = /(\[(?:PAD|UNK|CLS|SEP|MASK)\])/;
  rows.forEach(([start, count], k) => which.fill(k + 1, start, start + count));
  const cut = word => {
    const found = [];
    for (let at = 0, end, id; at < word.length; at = end) {
      for (id = undefined, end = word.length; end > at && (id = known.get((at ? "##" : "") + word.slice(at, end))) === undefined; end--);
      if (id === undefined || [...word].length > 100) return [known.get("[UNK]")];
      found.push(id);
    }
    return found;
  };
  return text => {
    const words = [{ text: "", ids: [] }];
    for (const part of text.split(special)) {
      let plain = "", last = words[words.length - 1];
      const flush = () => { for (const word of plain.split(" ")) if (word) last.ids.push(...cut(word)); plain = ""; };
      for (const c of part) {
        const k = which[c.codePointAt(0)], to = k ? rows[k - 1][2] : "\ufffd"; // no piece has this character
        dlMust(to !== null, "it holds half a character, which no file of text can hold");
        if (to === " ") { flush(); words.push(last = { text: "", ids: [] }); } else { last.text += c; plain += to.replace("\u0001", () => c); }
      }
      if (special.test(part)) last.ids.push(known.get(part)); else flush();
    }
    return words.filter(word => word.ids.length);
  };
}
function dlReviews(root, cfg) {
  root.dataset.ready = "1";
  const part = name => root.querySelector(`[data-part=${name}]`), box = part("box"), idsOf = words => [101, ...words.flatMap(w => w.ids).slice(0, cfg.most), 102];
  let turn = 0, net = null, split = null;
  const odds = words => { const [no, yes] = dlBert(net, idsOf(words)); return yes - no; };
  const show = () => {
    const mine = ++turn, begun = performance.now();
    let words = [], said = net ? "Type a sentence." : "The student is not loaded yet.";
    try { words = net ? split(box.value) : []; } catch (error) { said = `This text is not read: ${error.message}.`; }
    const whole = words.length && odds(words), p = 1 / (1 + Math.exp(-whole)), cells = words.map(() => part("word").content.firstElementChild.cloneNode(true));
    part("answer").textContent = words.length ? `${p > 0.5 ? "Positive" : "Negative"}, ${(100 * Math.max(p, 1 - p)).toFixed(1)}%.` : said;
    part("bar").style.width = 100 * p * Math.min(words.length, 1) + "%";
    if (words.length) part("took").textContent = Math.ceil(performance.now() - begun);
    cells.forEach((cell, i) => { cell.firstElementChild.textContent = words[i].text; });
    part("words").replaceChildren(...cells);
    const leave = i => { // a word at a time, so that typing goes on
      if (mine !== turn || i >= words.length) return;
      const moved = whole - odds(words.filter((_, j) => j !== i)), size = Math.min(Math.abs(moved) / cfg.full, 1) * 50;
      Object.assign(cells[i].children[1].firstElementChild.style, { height: size + "%", bottom: (moved > 0 ? 50 : 50 - size) + "%" });
      cells[i].lastElementChild.textContent = (moved < 0 ? "\u2212" : "+") + Math.abs(moved).toFixed(1);
      setTimeout(() => leave(i + 1));
    };
    setTimeout(() => leave(0));
  };
  const read = async data => { const found = await dlUnpack(dlBytes(data.packed), cfg.shapes); split = dlTokenizer(data.pieces, data.rows); odds([], net = found); return net; };
  root.live = { unpack: dlUnpack, split: text => split(text), ids: text => idsOf(split(text)), logits: ids => dlBert(net, ids) };
  box.oninput = show;
  root.querySelectorAll("[data-example]").forEach(b => { b.onclick = () => { box.value = b.textContent; show(); }; });
  part("load").onclick = () => {
    const refuse = error => { part("answer").textContent = `The student's file was refused: ${error.message}.`; part("load").disabled = false; }, ready = found => { part("load").textContent = "loaded"; show(); return found; };
    part("load").disabled = true;
    window.dlReviewsFile = data => { root.live.ready = read(data).then(ready).catch(refuse); };
    document.head.append(Object.assign(document.createElement("script"), { src: cfg.src, onerror: () => refuse(new Error("it is not beside this page")) }));
  };
}
