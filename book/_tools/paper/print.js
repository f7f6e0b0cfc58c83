// Pages of the book as one document, in the place of the page of the site that lends
// its styles. `articles` are names with XHTML; links to what is not among them become words.
async ({title, articles, images}) => {
  document.title = title;
  // the site would open its folds for the printer, and miss the buttons that are gone
  addEventListener("beforeprint", (event) => event.stopImmediatePropagation(), true);
  const names = new Set(articles.map(([name]) => name));
  const whole = document.createElement("div");
  for (const [name, xhtml] of articles) {
    const part = document.createElement("div");
    part.innerHTML = xhtml;
    const article = part.firstElementChild;
    article.querySelectorAll("[id]").forEach((e) => { e.id = `${name}--${e.id}`; });
    article.id = name;
    article.querySelectorAll("a[href]").forEach((link) => {
      const [, to, , place] = /^([\w-]+)\.xhtml(#(.*))?$/.exec(link.getAttribute("href")) ?? [];
      if (!to) return;
      if (names.has(to)) link.setAttribute("href", place ? `#${to}--${place}` : `#${to}`);
      else link.replaceWith(...link.childNodes);
    });
    // bookmarks: under a part its chapters, under a chapter its sections
    article.querySelectorAll("h1, h2, h3, h4, h5").forEach((h) => {
      if (!article.matches(".dl-part")) h.setAttribute("aria-level", Number(h.tagName[1]) + 1);
    });
    article.querySelectorAll("details").forEach((e) => { e.open = true; });
    article.querySelectorAll("img").forEach((img) => {
      img.src = images[img.getAttribute("src").replace("images/", "")];
    });
    whole.append(article);
  }
  document.querySelector("article.bd-article").replaceWith(...whole.children);
  await document.fonts.ready;
  await Promise.all([...document.images].map((img) => img.decode().catch(() => {})));
}
