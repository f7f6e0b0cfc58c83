// Slides: keys move from one to the next, and what does not fit its slide becomes smaller.
const slides = [...document.querySelectorAll(".slide")];
const steps = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };
addEventListener("keydown", event => {
  // Arrows and space belong to what has the focus; the keys of a clicker always turn the page.
  const used = event.target.closest("input, textarea, select, button, video");
  if (!(event.key in steps) || used && !event.key.startsWith("Page")) return;
  const here = slides.findIndex(slide => slide.getBoundingClientRect().bottom > innerHeight / 2);
  slides[here + steps[event.key]]?.scrollIntoView();
  event.preventDefault();
});
const spills = slide => {
  const [shown] = slide.getElementsByClassName("shown");
  return [slide, shown].some(box => box && (box.scrollHeight > box.clientHeight + 1 || box.scrollWidth > box.clientWidth + 1));
};
const fit = () => {
  for (const slide of slides) {
    let size = 1;
    slide.style.fontSize = "";
    while (size > 0.4 && spills(slide)) slide.style.fontSize = `${size *= 0.95}em`;
  }
  document.documentElement.dataset.fitted = "1";
};
addEventListener("load", () => document.fonts.ready.then(fit));
addEventListener("resize", fit);
