// What is wrong with pages that are ready to be printed: what is wider than they are, or not drawn.
() => [...document.querySelectorAll("article.bd-article")].flatMap((article) => {
  const edge = article.getBoundingClientRect().right + 2, found = [];
  const shown = (e) => e.checkVisibility() && e.getBoundingClientRect().width > 0;
  article.querySelectorAll("pre, table, img, svg, math").forEach((e) => {
    const over = e.getBoundingClientRect().right - edge;
    const what = `${e.tagName} is ${Math.ceil(over)} px too wide: ${e.textContent.slice(0, 60)}`;
    if (over > 0 && shown(e)) found.push(what);
  });
  article.querySelectorAll("img").forEach((e) => {
    if (!e.naturalWidth) found.push(`${e.src.slice(0, 80)} is no picture`);
  });
  return found.map((what) => `${article.id}: ${what}`);
})
