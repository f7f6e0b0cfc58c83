// What a link leads to, in small, while the pointer or the keyboard's focus is on it (WCAG 1.4.13:
// Escape closes it, the pointer may go into it, and it stays until it is left). Touch follows links.
document.addEventListener("DOMContentLoaded", () => {
  const KINDS = "figure, div.proof, div.citation, div.math, div.exercise";
  const data = JSON.parse(document.getElementById("dl-previews")?.textContent || "{}");
  const tip = document.createElement("div");
  Object.assign(tip, {className: "dl-preview", id: "dl-preview", hidden: true});
  tip.setAttribute("role", "tooltip");
  let link = null, timer = 0;

  // The target of a link: put into the page when it was built, or a copy of a part of this page.
  const content = (href) => {
    if (Object.hasOwn(data, href)) return data[href];
    const own = href[0] === "#" && document.getElementById(decodeURIComponent(href.slice(1)));
    if (!own || !own.matches(KINDS)) return "";
    const copy = own.cloneNode(true);
    copy.querySelectorAll(".headerlink, .backrefs, script, button").forEach((e) => e.remove());
    copy.querySelectorAll("a").forEach((e) => e.replaceWith(...e.childNodes));
    [copy, ...copy.querySelectorAll("[id], [tabindex]")].forEach((e) => {
      e.removeAttribute("id");
      e.removeAttribute("tabindex");
    });
    return copy.outerHTML;
  };

  const close = () => {
    clearTimeout(timer);
    link?.removeAttribute("aria-describedby");
    link = null;
    tip.hidden = true;
  };
  // Below the link, or above it where there is more room; never beyond the edge of the window.
  const place = () => {
    const at = link.getBoundingClientRect(), below = innerHeight - at.bottom, gap = 4;
    const up = below < tip.offsetHeight + gap && at.top > below;
    const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - tip.offsetWidth - 8));
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${(up ? at.top - tip.offsetHeight - gap : at.bottom + gap) + scrollY}px`;
  };
  const open = (to) => {
    if (to === link) return;
    close();
    const html = content(to.getAttribute("href"));
    if (!html) return;
    link = to;
    link.removeAttribute("title");  // the browser's own tip would lie above ours
    tip.innerHTML = html;
    tip.hidden = false;
    link.setAttribute("aria-describedby", tip.id);
    const shown = () => {
      if (link !== to) return;
      // a formula that is wider than the preview is drawn smaller: nobody could scroll it here
      tip.querySelectorAll("math").forEach((formula) => {
        const fits = (tip.clientWidth - 40) / formula.getBoundingClientRect().width;
        if (fits < 1) formula.style.fontSize = `${Math.floor(100 * fits)}%`;
      });
      place();
    };
    shown();
    tip.querySelectorAll("img").forEach((image) => image.addEventListener("load", shown));
  };
  const soon = (what, wait) => { clearTimeout(timer); timer = setTimeout(what, wait); };
  const linkOf = (event) => event.target.closest?.(".bd-article a.reference.internal[href*='#']");

  document.body.append(tip);
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    const to = linkOf(event);
    if (to) soon(() => open(to), 150);
    else if (tip.contains(event.target)) clearTimeout(timer);
    else soon(close, link ? 250 : 0);
  });
  document.addEventListener("focusin", (event) => {
    const to = linkOf(event);
    if (to?.matches(":focus-visible")) open(to);
    else if (!tip.contains(event.target)) close();
  });
  document.addEventListener("focusout", (event) => { if (event.target === link) close(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
});
