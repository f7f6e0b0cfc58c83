// Which pages a search shows first: chapters before lists of names. Sphinx asks for all of these.
const Scorer = {
  score: ([docname, , , , score]) =>
    score + (docname.startsWith("chapters/") ? 10 : 0)
      - (/^book\/(api|glossary|scoreboard|robustness|changelog)/.test(docname) ? 10 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
