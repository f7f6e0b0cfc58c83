// Which pages a search shows first: chapters before lists of names. Sphinx asks for all of these.
var Scorer = { // as searchtools.js declares it, where there is none
  score: ([docname, , , , score]) =>
    score + (docname.startsWith("chapters/") ? 20 : 0)
      - (/^book\/(api|glossary|scoreboard|robustness|changelog)/.test(docname) ? 20 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
