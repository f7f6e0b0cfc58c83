// A page of the site, drawn by its scripts, as a page of a book that has none: well-formed XHTML,
// formulas as MathML, links to pages of the book as "name.xhtml#place". `pages` has the names by
// path; `stills`, in the order of the page, the pictures of its live figures.
({root, site, pages, stills}) => {
  const article = document.querySelector("article.bd-article");
  const own = (selector) => [...article.querySelectorAll(selector)];
  const make = (tag, props, ...inside) => {
    const made = Object.assign(document.createElement(tag), props);
    made.append(...inside);
    return made;
  };
  const images = {}, page = location.href.slice(root.length).replace(/\.html.*/, "");
  const picture = (name, src, alt) => {
    images[name] = src;
    return make("img", {src: `images/${name}`, alt});
  };
  const where = "the page of the site";
  // What moves is a sentence, with a link where the site has an address.
  const moves = (what) => make("p", {className: "dl-moves"}, what + " on ",
    site ? make("a", {href: `${site}${page}.html`}, where) : where, ".");

  for (const formula of own("span.math")) {
    if (formula.offsetWidth > 250) formula.classList.add("dl-long");  // it scrolls on a phone
  }

  own(".dl-live, .dl-fig").forEach((live, i) => {
    const alt = live.getAttribute("aria-label")
      || live.querySelector("[aria-label]")?.getAttribute("aria-label") || "A figure that moves";
    const still = picture(stills[i], "", alt);
    still.width = live.offsetWidth;  // the picture has twice as many points
    live.replaceWith(still, moves("This figure can be moved"));
  });
  own("video").forEach((film, i) => {
    const still = picture(`${page.split("/").pop()}-film-${i}.png`, film.poster, film.ariaLabel);
    still.width = film.parentElement.closest(".dl-films") ? 300 : film.width || 320;
    film.replaceWith(still);
    if (!still.closest(".dl-films")) still.after(moves("This film runs"));
  });
  own(".dl-films").forEach((films) => films.after(moves("These films run")));

  own("label.sd-tab-label").forEach((tab) => {
    tab.replaceWith(make("p", {className: "dl-tab"}, tab.textContent.trim()));
  });
  own("div.sd-tab-content").forEach((tab) => { tab.className = "dl-tab-content"; });
  own("script, noscript, style, button, fieldset, input, textarea, select, .headerlink, .dl-cost, "
    + ".dl-paper, .dl-find, .viewcode-link").forEach((e) => e.remove());
  own("label, summary p").forEach((e) => e.replaceWith(...e.childNodes));
  own("[aria-controls], [aria-labelledby], [aria-describedby]").forEach((e) => {
    ["aria-controls", "aria-labelledby", "aria-describedby"].forEach((a) => e.removeAttribute(a));
  });
  // the extensions of proofs and exercises name all of theirs alike
  const seen = new Set();
  own("[id]").forEach((e) => { if (seen.has(e.id)) e.removeAttribute("id"); else seen.add(e.id); });
  own("[tabindex], [onclick]").forEach((e) => {
    e.removeAttribute("tabindex");
    e.removeAttribute("onclick");
  });
  // Answers are open, bookkeeping is not.
  own(".toggle-hidden").forEach((e) => e.classList.remove("toggle-hidden", "toggle"));
  own("details").forEach((e) => { e.open = !e.matches(".dl-code, .dl-before"); });

  own("img").forEach((img, i) => {
    if (img.getAttribute("src").startsWith("images/")) return;
    const name = img.src.startsWith("data:")
      ? `${page.split("/").pop()}-${i}.png` : img.src.split("/").pop();
    images[name] = img.src;
    img.setAttribute("src", `images/${name}`);
  });
  own("a").forEach((link) => {
    const to = link.href;
    if (!to.startsWith("file:")) {
      if (!to) link.replaceWith(...link.childNodes);
      return;
    }
    const [path, place] = to.slice(root.length).split("#");
    const name = pages[path.replace(/\.html$/, "")];
    const there = name ? `${name}.xhtml` : site && path && `${site}${path}`;
    if (there) link.setAttribute("href", place ? `${there}#${place}` : there);
    else link.replaceWith(...link.childNodes);
  });
  own("[id^=toggle-], [id^=button-]").forEach((e) => e.removeAttribute("id"));
  const title = article.querySelector("h1")?.textContent.trim() ?? "";
  const xhtml = new XMLSerializer().serializeToString(article);
  return {title, xhtml, images};
}
