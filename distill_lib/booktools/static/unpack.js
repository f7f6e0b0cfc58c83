// Files of distill_lib.compress.save_packed: Huffman codes, codebooks, gaps between what is not zero.
const dlBytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const dlMust = (good, what) => { if (!good) throw new Error(what); };
function dlCrc(bytes) {
  const table = Int32Array.from({ length: 256 }, (_, c) => { for (let k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320 ^ c >>> 1 : c >>> 1; return c; });
  return ~bytes.reduce((crc, byte) => table[(crc ^ byte) & 255] ^ crc >>> 8, -1) >>> 0;
}
async function dlInflate(bytes, room) {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")).getReader(), found = new Uint8Array(room);
  for (let n = 0; ;) {
    const { done, value } = await reader.read();
    if (done) return found.subarray(0, n);
    if (n + value.length > room) { reader.cancel().catch(() => 0); dlMust(false, "a part of it unpacks to more than it should"); }
    found.set(value, n);
    n += value.length;
  }
}
function dlHuffman(data, lengths, count) {
  const used = [...lengths.keys()].filter(i => lengths[i]).sort((a, b) => lengths[a] - lengths[b] || a - b), longest = lengths[used[used.length - 1]], out = new Uint16Array(count);
  if (!used.length) return out; // one symbol, without bits
  dlMust(longest <= 16 && used.reduce((sum, i) => sum + 2 ** -lengths[i], 0) <= 1, "it has lengths that are not those of a Huffman code");
  const table = new Int32Array(1 << longest); // for the next bits: their symbol, and the length of its word
  let end = 0, bits = 0, have = 0, p = 0;
  for (const i of used) table.fill(i << 5 | lengths[i], end, end += 1 << longest - lengths[i]);
  for (let i = 0; i < count; i++) {
    for (; have < longest; have += 8) bits = bits << 8 | data[p++]; // zeros beyond the end
    const word = table[bits >> have - longest];
    dlMust(word, "some of its bits are no code word");
    bits &= (1 << (have -= word & 31)) - 1;
    out[i] = word >> 5;
  }
  dlMust(8 * p - have <= 8 * data.length, "it ends too early");
  return out;
}
const dlHalf = h => (h >> 15 ? -1 : 1) * ((h >> 10 & 31) === 31 ? NaN : h >> 10 & 31 ? (1 + (h & 1023) / 1024) * 2 ** ((h >> 10 & 31) - 15) : (h & 1023) * 2 ** -24);
const dlKinds = new Map([["float32", [4, (v, i) => v.getFloat32(i, true)]], ["float16", [2, (v, i) => dlHalf(v.getUint16(i, true))]], ["int16", [2, (v, i) => v.getInt16(i, true)]]]);
// The tensors that `shapes` names; an error where the file holds anything else. What a file only says gets no room.
async function dlUnpack(file, shapes) {
  const need = new Map(Object.entries(shapes)), view = new DataView(file.buffer, file.byteOffset, file.length), found = new Map(), seen = new Set(), text = bytes => new TextDecoder().decode(bytes);
  const taker = bytes => { let at = 0; return n => { dlMust((at += n) <= bytes.length, "it ends too early"); return bytes.subarray(at - n, at); }; };
  dlMust(file.length > 20 && text(file.subarray(0, 8)) === "DLPACK1\n", "it is no packed file");
  dlMust(view.getUint32(file.length - 4, true) === dlCrc(file.subarray(0, -4)), "its checksum does not fit");
  const head = view.getUint32(8, true), table = view.getUint32(12, true), start = 16 + head + table;
  dlMust(Math.max(head, table) <= 8192 && start <= file.length - 4, "its parts are longer than they can be");
  const header = JSON.parse(text(await dlInflate(file.subarray(16, 16 + head), 4096 * (1 + need.size))));
  let room = 0;
  for (const e of header.tensors) {
    dlMust(!seen.has(e.k) && need.has(e.k) && JSON.stringify(need.get(e.k)) === JSON.stringify(e.s) && dlKinds.has(e.t), "it is of another network");
    const total = e.s.reduce((a, b) => a * b, 1), [symbols, coded] = e.b || [1, 0], [gaps, placed] = e.g || [0, 0], { n = total } = e, [wide, read] = dlKinds.get(e.t);
    dlMust([symbols, coded, gaps, placed, n].every(Number.isInteger) && Math.min(symbols - 1, coded, gaps, placed, n) >= 0, "its sizes are no whole numbers");
    dlMust(Math.max(gaps, symbols, n) <= total && symbols <= 4096, "its sizes are beyond those of the network");
    room += (e.g ? 256 : 0) + (e.b ? symbols * (wide + 1) : 0);
    seen.add(Object.assign(e, { total, symbols, coded, gaps, placed, n, wide, read }).k);
  }
  dlMust(seen.size === need.size && !("ties" in header), "it is of another network");
  const tables = taker(await dlInflate(file.subarray(16 + head, start), room)), bodies = taker(file.subarray(start, -4));
  for (const e of header.tensors) {
    const numbers = bytes => {
      const v = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), all = new Float32Array(bytes.length / e.wide).map((_, i) => e.read(v, i * e.wide));
      dlMust(all.every(Number.isFinite), "it holds numbers that are none");
      return all;
    };
    const gaps = e.g && dlHuffman(bodies(e.placed), tables(256), e.gaps), lengths = e.b && tables(e.symbols), book = e.b && numbers(tables(e.symbols * e.wide)), codes = e.b && dlHuffman(bodies(e.coded), lengths, e.n);
    const values = e.b ? new Float32Array(e.n).map((_, i) => book[codes[i]]) : numbers(bodies(e.n * e.wide)), whole = e.g ? new Float32Array(e.total) : values;
    let place = 0, k = e.g ? 0 : e.total;
    for (const gap of gaps || []) if ((place += gap) <= e.total && gap < 255) whole[place++] = values[k++];
    dlMust(place <= e.total && k === values.length, "its values do not fit their places");
    found.set(e.k, whole);
  }
  return found;
}
// A linear layer for rows of numbers. Weights that are zero are left out.
const dlSparse = new WeakMap();
function dlLinear(net, name, x) {
  const W = net.get(name + ".weight"), bias = net.get(name + ".bias"), outs = bias.length, ins = W.length / outs, n = x.length / ins, y = new Float64Array(n * outs), z = new Float64Array(8 * ins), all = new Float64Array(8);
  if (!dlSparse.has(W)) {
    const at = W.map((_, i) => i).filter(i => W[i]), end = new Uint32Array(outs);
    for (const i of at) end[i / ins | 0]++;
    end.forEach((v, o) => { end[o] += end[o - 1] || 0; });
    dlSparse.set(W, [end, Uint16Array.from(at, i => i % ins * 8), Float64Array.from(at, i => W[i])]);
  }
  const [end, place, value] = dlSparse.get(W);
  for (let t = 0; t < n; t += 8) { // eight rows at a time, the last perhaps again and again: each weight is fetched once for them
    const rows = [0, 1, 2, 3, 4, 5, 6, 7].map(k => Math.min(t + k, n - 1));
    rows.forEach((row, k) => { for (let i = 0; i < ins; i++) z[8 * i + k] = x[row * ins + i]; });
    for (let o = 0, k = 0; o < outs; o++) {
      let a = bias[o], b = a, c = a, d = a, e = a, f = a, g = a, h = a;
      for (; k < end[o]; k++) {
        const v = value[k], i = place[k];
        a += v * z[i]; b += v * z[i + 1]; c += v * z[i + 2]; d += v * z[i + 3]; e += v * z[i + 4]; f += v * z[i + 5]; g += v * z[i + 6]; h += v * z[i + 7];
      }
      all[0] = a; all[1] = b; all[2] = c; all[3] = d; all[4] = e; all[5] = f; all[6] = g; all[7] = h;
      for (let r = 0; r < 8; r++) y[rows[r] * outs + o] = all[r];
    }
  }
  return y;
}
