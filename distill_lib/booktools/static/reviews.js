// A BERT, over rows of numbers, one for each word piece.
function dlGelu(x) { // with erfc as in Numerical Recipes, whose relative error is below 1.2e-7
  const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + z / 2), half = t / 2 * Math.exp(-z * z - 1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277)))))))));
  return x > 0 ? x * (1 - half) : x * half;
}
function dlBert(net, ids) {
  const E = "bert.embeddings.", n = ids.length, D = net.get(E + "LayerNorm.bias").length, H = 32, linear = (name, x) => dlLinear(net, name, x);
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
    const [q, k, v] = ["query", "key", "value"].map(part => linear(name + "attention.self." + part, x)), M = q.length / n, mixed = new Float64Array(n * M), dot = (a, b) => { let sum = 0; for (let i = 0; i < H; i++) sum += q[a + i] * k[b + i]; return sum; };
    for (let h = 0; h < M; h += H) for (let s = 0; s < n; s++) {
      const score = new Float64Array(n).map((_, t) => dot(s * M + h, t * M + h) / Math.sqrt(H)), most = Math.max(...score), weight = score.map(z => Math.exp(z - most)), total = weight.reduce((a, b) => a + b);
      for (let t = 0; t < n; t++) for (let i = h, share = weight[t] / total; i < h + H; i++) mixed[s * M + i] += share * v[t * M + i];
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
  const cut = (word, at = 0) => { // the longest piece that is known, and what comes after it
    if ([...word].length > 100) return null;
    for (let end = word.length; end > at; end--) {
      const id = known.get((at ? "##" : "") + word.slice(at, end)), rest = id === undefined || end === word.length ? [] : cut(word, end);
      if (id !== undefined) return rest && [id, ...rest];
    }
    return null;
  };
  return text => {
    const words = [{ text: "", ids: [] }];
    for (const part of text.split(special)) {
      let plain = "", last = words[words.length - 1];
      const flush = () => { for (const word of plain.split(" ")) if (word) last.ids.push(...cut(word) || [known.get("[UNK]")]); plain = ""; };
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
      cells[i].lastElementChild.textContent = (Math.abs(moved) < 0.05 ? "" : moved < 0 ? "\u2212" : "+") + Math.abs(moved).toFixed(1);
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
