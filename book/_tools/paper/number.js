// Page numbers into the contents, by the names of the chapters that begin there.
(starts) => document.querySelectorAll(".dl-contents a").forEach((link) => {
  link.dataset.page = starts[link.hash.slice(1)] ?? "";
})
