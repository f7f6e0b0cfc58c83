"""Ask the sentiment teachers of the zoo once about every text, and keep their logits.

    python teachers/cache_movie_logits.py

``<name>.cache`` has all rated texts but the test set (film reviews, tweets, product reviews,
editorials), ``<name>.test.cache`` the test set, ``<name>.rewritten.cache`` the film reviews with
words replaced and parts cut out. They lie beside the weights, in distill_lib/zoo, as float16; the
texts do not. A file that fits its teacher and the data is left alone, an unfinished one is
finished; one that does not fit is refused, and ``--again`` replaces it. It takes about ten minutes
a teacher.
"""

from __future__ import annotations

import argparse

import torch

from distill_lib import Cache, Teacher, data, zoo
from distill_lib.data import TextDataset, rewrite

OTHERS = ("tweets", "amazon_reviews", "editorials")


def texts(table: torch.Tensor) -> dict[str, TextDataset]:
    """What the teachers are asked about, by the ending of the file."""
    tokenizer = zoo.minilm_tokenizer()
    load = lambda name, split="train": data.load(name, split).tokenize(tokenizer)  # noqa: E731
    train, validation, ambiguous, test = (
        load("movie_reviews", split) for split in ("train", "validation", "ambiguous", "test")
    )
    every = train + validation + ambiguous
    for name in OTHERS:
        every = every + load(name)
    return {
        "test.cache": test,
        "cache": every,
        "rewritten.cache": rewrite(train + ambiguous, tokenizer, table, copies=4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="teachers of the zoo")
    parser.add_argument("--again", action="store_true", help="replace the files there are")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    known = [name for name in zoo.names() if name.startswith("movie_")]
    for name in args.names or known:
        model = zoo.load_teacher(name)
        for ending, asked in texts(model.bert.embeddings.word_embeddings.weight).items():
            path = zoo.FOLDER / f"{name}.{ending}"
            if args.again:
                path.unlink(missing_ok=True)
            cache = Cache.build(path, Teacher(model), asked.by_length(), dtype=torch.float16)
            labeled = asked.labels >= 0
            said = cache({"index": asked.index})["logits"].argmax(-1) == asked.labels
            right = f", right on {said[labeled].float().mean():.1%}" if labeled.any() else ""
            print(f"{path.name}: {len(cache):,} rows{right}", flush=True)


if __name__ == "__main__":
    main()
