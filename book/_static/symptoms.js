// Looks for words among the symptoms; without this script the whole list stands there.
(() => {
  const box = document.querySelector(".dl-find");
  if (!box) return;
  const field = box.querySelector("input");
  const said = box.querySelector("[role=status]");
  const rows = [...document.querySelectorAll(".dl-symptom")];
  const plain = (text) => text.toLowerCase()
    .replace(/\bcan['’]t\b/g, "cannot").replace(/n['’]t\b/g, " not")
    .replace(/[^\p{L}\p{N}]+/gu, " ").trim();
  // A symptom and the names of its exhibits; names of tests would match nearly everything.
  const names = 'p:first-child, a[href*="#err-"]';
  const texts = rows.map((row) => plain(
    [...row.querySelectorAll(names)].map((part) => part.textContent).join(" ")));
  // Words that say nothing of what is seen.
  const skipped = new Set("a an and are do does i in is it my of so that the to why".split(" "));

  const look = () => {
    const words = plain(field.value).split(" ").filter((word) => word && !skipped.has(word));
    let found = 0;
    rows.forEach((row, i) => {
      const fits = words.every((word) => texts[i].includes(word));
      row.hidden = !fits;
      found += fits;
    });
    said.textContent = found ? `${found} of ${rows.length} symptoms`
      : "None of the symptoms has all of these words: try fewer.";
  };

  // The field has its room from the start: nothing moves when it can be used.
  box.style.visibility = "visible";
  field.addEventListener("input", look);
  look();
})();
