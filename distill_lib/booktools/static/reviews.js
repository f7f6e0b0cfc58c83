// A BERT: rows of numbers, one for each word piece.
function dlLinear(net, name, x) {
  const W = net.get(name + ".weight"), bias = net.get(name + ".bias"), outs = bias.length, ins = W.length / outs, n = x.length / ins, y = new Float64Array(n * outs);
  for (let t = 0; t < n; t += 4) { // four rows at a time, the last perhaps twice: so each weight is fetched once
    const [A, B, C, D] = [t, t + 1, t + 2, t + 3].map(k => Math.min(k, n - 1)), a = A * ins, b = B * ins, c = C * ins, d = D * ins;
    for (let o = 0, w = 0; o < outs; o++) {
      let p = bias[o], q = p, r = p, s = p;
      for (let i = 0; i < ins; i++, w++) { const v = W[w]; p += v * x[a + i]; q += v * x[b + i]; r += v * x[c + i]; s += v * x[d + i]; }
      y[A * outs + o] = p; y[B * outs + o] = q; y[C * outs + o] = r; y[D * outs + o] = s;
    }
  }
  return y;
}
function dlGelu(x) { // with erfc as in Numerical Recipes: its relative error is below 1.2e-7
  const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + z / 2), half = t / 2 * Math.exp(-z * z - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))))))));
  return x > 0 ? x * (1 - half) : x * half;
}
function dlBert(net, ids) {
  const E = "bert.embeddings.", n = ids.length, from = name => net.get(E + name), D = from("LayerNorm.bias").length, linear = (name, x) => dlLinear(net, name, x);
  const norm = (x, plus, name) => { // of the sum of both
    const gain = net.get(name + ".weight"), bias = net.get(name + ".bias"), y = x.map((v, i) => v + plus[i]);
    for (let t = 0; t < y.length; t += D) {
      const row = y.subarray(t, t + D), mean = row.reduce((a, b) => a + b) / D, scale = 1 / Math.sqrt(row.reduce((a, b) => a + (b - mean) ** 2, 0) / D + 1e-12);
      row.forEach((v, i) => { row[i] = (v - mean) * scale * gain[i] + bias[i]; });
    }
    return y;
  };
  const rows = from("word_embeddings.lookup"), words = from("word_embeddings.embedding.weight"), kind = from("token_type_embeddings.weight"), places = from("position_embeddings.weight");
  let x = norm(Float64Array.from({ length: n * D }, (_, i) => words[rows[ids[i / D | 0]] * D + i % D] + kind[i % D]), places, E + "LayerNorm");
  for (let l = 0, name; net.has((name = `bert.encoder.layer.${l}.`) + "output.dense.bias"); l++) {
    const [q, k, v] = ["query", "key", "value"].map(part => linear(name + "attention.self." + part, x)), M = q.length / n, H = 32, mixed = new Float64Array(n * M);
    for (let h = 0; h < M; h += H) for (let s = 0; s < n; s++) {
      const score = Float64Array.from({ length: n }, (_, t) => { let sum = 0; for (let i = h; i < h + H; i++) sum += q[s * M + i] * k[t * M + i]; return sum / Math.sqrt(H); });
      const most = Math.max(...score), weight = score.map(z => Math.exp(z - most)), total = weight.reduce((a, b) => a + b);
      for (let t = 0; t < n; t++) for (let i = h; i < h + H; i++) mixed[s * M + i] += weight[t] / total * v[t * M + i];
    }
    x = norm(linear(name + "attention.output.dense", mixed), x, name + "attention.output.LayerNorm");
    x = norm(linear(name + "output.dense", linear(name + "intermediate.dense", x).map(dlGelu)), x, name + "output.LayerNorm");
  }
  return Array.from(linear("classifier", linear("bert.pooler.dense", x.subarray(0, D)).map(Math.tanh)));
}
// The words of a text between spaces, with their pieces. `rows` says what becomes of a character: gone, a space, itself, another.
function dlTokenizer(pieces, rows) {
  const known = new Map(pieces.map((piece, i) => [piece, i])), which = new Uint16Array(0x110000), special = /(\[(?:PAD|UNK|CLS|SEP|MASK)\])/;
  rows.forEach(([start, count], k) => which.fill(k + 1, start, start + count));
  const wordPieces = word => {
    const found = [];
    for (let at = 0, end; at < word.length; at = end) {
      for (end = word.length; end > at && !known.has((at ? "##" : "") + word.slice(at, end)); end--);
      if (end === at || [...word].length > 100) return [known.get("[UNK]")];
      found.push(known.get((at ? "##" : "") + word.slice(at, end)));
    }
    return found;
  };
  return text => {
    const words = [{ text: "", ids: [] }];
    for (const part of text.split(special)) {
      let plain = "";
      const add = c => { const last = words[words.length - 1]; for (const w of plain.split(" ")) if (w) last.ids.push(...wordPieces(w)); plain = ""; last.text += c; return last; };
      if (special.test(part)) { add(part).ids.push(known.get(part)); continue; }
      for (const c of part) {
        const k = which[c.codePointAt(0)], to = k ? rows[k - 1][2] : "\ufffd"; // a character that no piece has
        dlMust(to !== null, "it holds half a character, which no file of text can hold");
        if (to === " ") { add(""); words.push({ text: "", ids: [] }); continue; }
        words[words.length - 1].text += c;
        plain += to.replace("=", () => c);
      }
      add("");
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
    const mine = ++turn;
    let words = [], trouble = net ? "" : "The student is not loaded yet.";
    try { words = net ? split(box.value) : []; } catch (error) { trouble = `This text is not read: ${error.message}.`; }
    const begun = performance.now(), whole = words.length ? odds(words) : 0, p = 1 / (1 + Math.exp(-whole)), cells = words.map(word => part("word").content.firstElementChild.cloneNode(true));
    if (words.length) trouble = `${p > 0.5 ? "Positive" : "Negative"}, ${(100 * Math.max(p, 1 - p)).toFixed(1)}%.`;
    part("answer").textContent = trouble || "Type a sentence.";
    part("bar").style.width = 100 * (words.length ? p : 0) + "%";
    part("took").textContent = words.length ? Math.ceil(performance.now() - begun) : "…";
    cells.forEach((cell, i) => { cell.firstElementChild.textContent = words[i].text; });
    part("words").replaceChildren(...cells);
    const leave = i => {
      if (mine !== turn || i >= words.length) return;
      const moved = whole - odds(words.filter((_, j) => j !== i)), bar = cells[i].children[1].firstElementChild, size = Math.min(Math.abs(moved) / 4, 1) * 50;
      Object.assign(bar.style, { height: size + "%", bottom: (moved > 0 ? 50 : 50 - size) + "%" });
      cells[i].lastElementChild.textContent = (moved < 0 ? "\u2212" : "+") + Math.abs(moved).toFixed(1);
      setTimeout(() => leave(i + 1));
    };
    setTimeout(() => leave(0));
  };
  const read = async data => { [net, split] = [await dlUnpack(dlBytes(data.packed), cfg.shapes), dlTokenizer(data.pieces, data.rows)]; return net; };
  root.live = { read, odds, split: text => split(text), ids: text => idsOf(split(text)), logits: ids => dlBert(net, ids) };
  box.oninput = show;
  root.querySelectorAll("[data-example]").forEach(b => { b.onclick = () => { box.value = b.textContent; show(); }; });
  part("load").onclick = () => {
    const refuse = error => { part("answer").textContent = "The student's file was refused: " + error.message + "."; part("load").disabled = false; }, script = document.createElement("script");
    part("load").disabled = true;
    window.dlReviewsFile = data => { root.live.ready = read(data).then(() => { part("load").textContent = "loaded"; show(); }).catch(refuse); };
    script.onerror = () => refuse(new Error("it is not beside this page"));
    script.src = cfg.src;
    document.head.append(script);
  };
}
