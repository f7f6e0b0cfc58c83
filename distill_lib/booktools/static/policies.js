// Acrobot and Pendulum of Gymnasium in float64. h is the share of a step: what is drawn lies between two states.
function dlAcrobotStep(s, a, h = 1) {
  const slope = ([p, q, v, w]) => {
    const c = Math.cos(q), n = Math.sin(q), d1 = 3.5 + c, d2 = 1.25 + 0.5 * c, f2 = 4.9 * Math.cos(p + q - Math.PI / 2);
    const f1 = -0.5 * w * w * n - w * v * n + 14.7 * Math.cos(p - Math.PI / 2) + f2, qa = (a + d2 / d1 * f1 - 0.5 * v * v * n - f2) / (1.25 - d2 * d2 / d1);
    return [v, w, -(d2 * qa + f1) / d1, qa];
  };
  const dt = 0.2 * h, on = (k, t) => s.map((x, i) => x + t * k[i]), T = 2 * Math.PI, wrap = x => x > Math.PI ? wrap(x - T) : x < -Math.PI ? wrap(x + T) : x;
  const k1 = slope(s), k2 = slope(on(k1, dt / 2)), k3 = slope(on(k2, dt / 2)), k4 = slope(on(k3, dt)), cut = (x, most) => Math.min(Math.max(x, -most), most);
  const r = s.map((x, i) => x + dt / 6 * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]));
  return [wrap(r[0]), wrap(r[1]), cut(r[2], 2 * T), cut(r[3], 4.5 * T)];
}
function dlPendulumStep(s, a, h = 1) {
  const u = Math.min(Math.max(a, -2), 2), w = Math.min(Math.max(s[1] + (15 * Math.sin(s[0]) + 3 * u) * 0.05, -8), 8);
  return [s[0] + 0.05 * h * w, w];
}
function dlPolicies(root, cfg) { // the page has the buttons, pictures and texts
  const { cos, sin, PI } = Math, any = m => (2 * Math.random() - 1) * m, bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
  const high = s => -cos(s[0]) - cos(s[0] + s[1]) > 1, off = x => x - 2 * PI * Math.floor((x + PI) / (2 * PI)), show = v => Math.round(v).toLocaleString("en-US").replace("-", "\u2212");
  const kinds = {
    acrobot: { rate: 15, begin: () => [any(0.1), any(0.1), any(0.1), any(0.1)], step: dlAcrobotStep, turn: 2, aim: s => Math.sign(cos(s[0])), last: 500,
      see: s => [cos(s[0]), sin(s[0]), cos(s[1]), sin(s[1]), s[2], s[3]], act: y => y.indexOf(Math.max(...y)) - 1, reward: (s, a, next) => high(next) - 1,
      over: (s, n) => high(s) || n >= 500, note: w => !w.over ? "step " + w.n : (high(w.s) ? "up after " : "not up in ") + w.n + " steps",
      goal: 1, joints: s => [[0, 0], [sin(s[0]), -cos(s[0])], [sin(s[0]) + sin(s[0] + s[1]), -cos(s[0]) - cos(s[0] + s[1])]] },
    pendulum: { rate: 20, begin: () => [any(PI), any(1)], step: dlPendulumStep, turn: 1, aim: s => -Math.sign(cos(s[0])), last: 200,
      see: s => [cos(s[0]), sin(s[0]), s[1]], act: y => Math.min(Math.max(y[0], -2), 2), reward: (s, a) => -(off(s[0]) ** 2 + 0.1 * s[1] ** 2 + 0.001 * a * a),
      over: () => false, note: w => (w.n < 200 ? "step " + w.n + ", return " : "200 steps: return ") + show(w.sum), joints: s => [[0, 0], [-1.8 * sin(s[0]), 1.8 * cos(s[0])]] },
    lander: { rate: 25, last: -1, note: w => w.over ? w.one.end + ", return " + show(w.one.return) : "step " + 2 * w.n },
  };
  let wanted, kind, about, lesson = 0, pair = 0, part = 0, rest = 0, last = 0, run = !matchMedia("(prefers-reduced-motion: reduce)").matches, visible = true;
  const net = one => { // Gymnasium shows float32
    const W = new Float32Array(bytes(about.networks[one.network])), curve = one.elu ? z => z > 0 ? z : Math.expm1(z) : Math.tanh, final = one.layers.length - 1, { mean, scale, clip } = about;
    return seen => one.layers.reduce(([x, at], n, k) => [Array.from({ length: n }, (_, i) => {
      const z = x.reduce((sum, v, j) => sum + W[at + i * x.length + j] * v, W[at + n * x.length + i]);
      return k < final ? curve(z) : z;
    }), at + n * (x.length + 1)], [seen.map((v, i) => Math.min(Math.max((Math.fround(v) - mean[i]) * scale[i], -clip), clip)), 0])[0];
  };
  const all = what => [...root.querySelectorAll(what)], [tasks, lessons] = all("fieldset"), [pause, fresh, ...pushes] = all("button"), said = all("p")[1];
  root.dataset.ready = "1"; root.lastElementChild.hidden = false;
  said.style.minHeight = 1.6 * Math.ceil(9 * cfg.longest / (root.clientWidth || 360)) + "em";
  const make = (tag, style, parent, props) => parent.appendChild(Object.assign(document.createElement(tag), { style: style }, props));
  const choose = (box, title, words, press) => {
    box.textContent = ""; make("legend", "font-size:1em;font-weight:600;margin:0;padding:0;float:none", box, { textContent: title });
    words.forEach((text, i) => make("input", "width:22px;height:22px", make("label", "display:inline-flex;gap:.4rem;align-items:center;min-height:44px;margin-right:1.1rem", box),
      { type: "radio", name: root.id + title, value: text, checked: i === 0, onchange: () => press(i) }).after(text));
  };
  const worlds = all("figure").map((box, i) => {
    const [c, , title, size, live] = box.querySelectorAll("*");
    c.onclick = e => push(e.offsetX < c.clientWidth / 2 ? 1 : -1);
    return { c: c, color: i ? "#D55E00" : "#0072B2", title: title, size: size, live: live };
  });
  pause.onclick = () => { pause.textContent = (run = !run) ? "pause" : "play"; };
  pause.textContent = run ? "pause" : "play"; fresh.onclick = () => about && again(); pushes.forEach((b, i) => { b.onclick = () => push(2 * i - 1); });
  const decide = (w, s) => Object.assign(w, { s: s, a: s && kind.act(w.net(kind.see(s))) }), again = () => teach(about.films ? (lesson + 1) % about.lessons.length : lesson, ++pair);
  const push = d => {
    for (const w of worlds) if (w.s && !w.over) decide(w, w.s.map((v, i) => i === kind.turn ? v + d * about.push * kind.aim(w.s) : v)).pushed++;
    draw();
  };
  const teach = i => {
    const s = kind.begin && kind.begin(), { who, said: words } = about.lessons[lesson = i];
    lessons.querySelectorAll("input")[i].checked = true; said.textContent = words;
    worlds.forEach((w, j) => {
      const one = who[j][pair % who[j].length], clean = { one: one, n: 0, sum: 0, over: false, pushed: 0, trail: [] };
      decide(Object.assign(w, clean, about.films ? { film: new Int16Array(bytes(one.film)) } : { net: net(one) }), s);
      [w.title.textContent, w.size.textContent, w.c.ariaLabel] = [one.name, one.size, one.name + ", " + about.doing];
    });
    part = rest = 0; draw();
  };
  const tick = () => {
    for (const w of worlds) if (!w.over) {
      const s = about.films ? w.s : kind.step(w.s, w.a);
      w.sum += ++w.n > kind.last ? 0 : kind.reward(w.s, w.a, s);
      decide(w, s).over = about.films ? w.n >= w.film.length / 6 - 1 : kind.over(s, w.n);
    }
    if (worlds.every(w => w.over) && ++rest > 2.5 * kind.rate) again();
  };
  const draw = () => {
    const ink = getComputedStyle(root).color, q = window.devicePixelRatio || 1, upTo = (n, of) => Array.from({ length: n }, (_, i) => of(i));
    for (const w of about ? worlds : []) {
      const g = w.c.getContext("2d"), W = Math.round(w.c.clientWidth * q), u = W / 2 / about.half, f = w.over ? 0 : part, color = w.color;
      if (w.c.width !== W) w.c.width = w.c.height = W;
      const path = (points, color, thick, alpha = 1) => { // filled where it has no thickness
        Object.assign(g, { lineCap: "round", lineJoin: "round", strokeStyle: color, fillStyle: color, lineWidth: thick * W / 100, globalAlpha: alpha }).beginPath();
        for (const [x, y] of points) g.lineTo(W / 2 + x * u, W - (y - about.floor) * u);
        g[thick ? "stroke" : "fill"]();
      };
      g.clearRect(0, 0, W, W);
      w.live.textContent = kind.note(w) + (w.pushed ? ", pushed " + (w.pushed > 1 ? w.pushed + " times" : "once") : "");
      if (about.films) {
        const [now, next] = [w.n, w.n + !w.over].map(k => w.film.slice(6 * k, 6 * k + 6)), [x, y, turn, left, right] = Array.from(now, (v, i) => (v + f * (next[i] - v)) / 1000);
        const body = (points, t) => points.map(([a, b]) => [x + (a * cos(t) - b * sin(t)) / 30 - 10, y + (a * sin(t) + b * cos(t)) / 30]), { ground } = about.lessons[lesson];
        path(ground.map((h, i) => [2 * i - 10, h]).concat([[10, -9], [-10, -9]]), ink, 0, 0.25);
        for (const X of [-2, 2]) path([[X, 0], [X, 0.9], [X + 0.5, 0.7], [X, 0.5]].map(([a, b]) => [a, b + ground[5]]), ink, 1);
        path(upTo(w.n + 1, k => [w.film[6 * k] / 1000 - 10, w.film[6 * k + 1] / 1000]), color, 0.8, 0.5);
        const flame = [[], [[17, 9], [36, 12], [17, 15]], [[-6, -10], [0, -36], [6, -10]], [[-17, 9], [-36, 12], [-17, 15]]][now[5]];
        for (const [points, t, c] of [[flame, turn, "#E69F00"], [[[18, -26], [22, -26], [22, -10], [18, -10]], left, color], [[[-18, -26], [-22, -26], [-22, -10], [-18, -10]], right, color],
          [[[-14, 17], [-17, 0], [-17, -10], [17, -10], [17, 0], [14, 17]], turn, color]]) path(body(points, t), c, 0);
        continue;
      }
      const joints = kind.joints(kind.step(w.s, w.a, f)), [x, y] = joints[joints.length - 2], arc = upTo(9, i => [x - 0.4 * sin(w.a * i / 9), y + 0.4 * cos(w.a * i / 9)]); // of the torque
      for (let i = -2.2; i < 2.2 && kind.goal; i += 0.28) path([[i, kind.goal], [i + 0.1, kind.goal]], ink, 1);
      w.trail = w.trail.slice(-45).concat([joints[joints.length - 1]]);
      for (let i = 1; i < w.trail.length; i++) path(w.trail.slice(i - 1, i + 1), color, 2, i / 90);
      path(joints, color, 6);
      for (const j of joints.slice(0, -1)) path([j, j], ink, 4);
      if (Math.abs(w.a) > 0.1) for (const [some, thick] of [[arc, 1.5], [[arc[8], arc[8]], 4]]) path(some, ink, thick);
    }
  };
  const load = i => {
    const id = wanted = cfg.tasks[i][0], file = cfg.folder + "/policies_" + id + ".js", ready = () => {
      if (wanted !== id) return; // another was chosen since
      [about, kind, pair] = [window.dlLive[id], kinds[id], 0];
      for (const b of pushes) b.style.visibility = about.films ? "hidden" : "visible";
      choose(lessons, about.question, about.lessons.map(one => one.label), teach);
      teach(0);
    };
    if (window.dlLive && window.dlLive[id]) ready();
    else make("script", "", root, { onload: ready, onerror: () => { said.textContent = "A file of this figure is missing: " + file; } }).src = file;
  };
  const loop = t => {
    if (run && visible && about) {
      for (part += Math.min(t - last, 100) * kind.rate / 1000; part >= 1; part--) tick();
      draw();
    }
    last = t; requestAnimationFrame(loop);
  };
  if (window.IntersectionObserver) new IntersectionObserver(seen => { visible = seen[seen.length - 1].isIntersecting; }).observe(root);
  root.live = { steps: { acrobot: dlAcrobotStep, pendulum: dlPendulumStep }, answer: (i, s) => worlds[i].net(kind.see(s)), worlds: worlds, tick: tick };
  choose(tasks, "Task", cfg.tasks.map(one => one[1]), load); load(0); requestAnimationFrame(loop);
}
