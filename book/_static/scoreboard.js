// Looks for words among the claims, and sorts them by a column; without it the folds stand there.
(() => {
  const box = document.querySelector(".dl-find");
  if (!box) return;
  const field = box.querySelector("input");
  const said = box.querySelector("[role=status]");
  const plain = (text) => text.toLowerCase().replace(/[\u2010-\u2015\u2212]/g, "-").trim();
  const folds = [...document.querySelectorAll(".bd-article details")].flatMap((fold) => {
    const table = fold.querySelector("table");
    // What this machine measured stands in folds of the same page, and is no claim.
    if (table?.tHead.rows[0].cells[0].textContent.trim() !== "claim") return [];
    const name = plain(fold.querySelector("summary").textContent);
    return [{ fold, table, name, rows: [...table.tBodies[0].rows] }];
  });

  const look = () => {
    const words = plain(field.value).split(/\s+/).filter(Boolean);
    let found = 0, all = 0;
    folds.forEach(({ fold, name, rows }) => {
      let here = 0;
      rows.forEach((row) => {
        const text = `${name} ${plain(row.textContent)}`;
        row.hidden = !words.every((word) => text.includes(word));
        here += !row.hidden;
      });
      fold.hidden = !here;
      fold.open = words.length > 0 && here > 0;
      found += here;
      all += rows.length;
    });
    said.textContent = found ? `${found} of ${all} claims`
      : "No claim has all of these words: try fewer.";
  };

  // A bound is sorted by its number, whatever the sign before it; what has no number comes last.
  const value = (row, column) => {
    const text = plain(row.cells[column].textContent);
    const number = text.replace(/,/g, "").match(/^[≥≤=>< ]*(-?[\d.]+(?:e[-+]?\d+)?)\b/);
    return number ? parseFloat(number[1]) : text;
  };
  const kind = (one) => (one === "-" ? 2 : typeof one === "string" ? 1 : 0);
  const order = (a, b) => kind(a) - kind(b)
    || (typeof a === "string" ? a.localeCompare(b) : a - b);
  const sort = (table, column, way) => {
    const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => (kind(a) === 2 || kind(b) === 2 ? kind(a) - kind(b) : way * order(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  folds.forEach(({ table }) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
        sort(table, column, way);
      });
    });
  });

  // The field has its room from the start: nothing moves when it can be used.
  box.style.visibility = "visible";
  field.addEventListener("input", look);
  look();
})();
