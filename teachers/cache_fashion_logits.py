"""Ask the image teachers of the zoo about every image of Fashion-MNIST, and keep their logits.

    python teachers/cache_fashion_logits.py                        # of every image teacher
    python teachers/cache_fashion_logits.py fashion_resnet20       # of one, about a minute

``<name>.cache`` has the 60,000 training images, ``<name>.test.cache`` the 10,000 of the test; both
lie beside the weights, in distill_lib/zoo, as float16. A file that fits its teacher and the data is
left alone; one that does not is refused, and ``--again`` replaces it.
"""

from __future__ import annotations

import argparse

import torch

from distill_lib import Cache, Teacher, data, zoo


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="teachers of the zoo")
    parser.add_argument("--again", action="store_true", help="replace the files there are")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    known = [name for name in zoo.names() if name.startswith("fashion_")]
    for split, ending in (("train", "cache"), ("test", "test.cache")):
        images = data.load("fashion_mnist", split=split)
        for name in args.names or known:
            path = zoo.FOLDER / f"{name}.{ending}"
            if args.again:
                path.unlink(missing_ok=True)
            teacher = Teacher(zoo.load_teacher(name))
            cache = Cache.build(path, teacher, images, dtype=torch.float16)
            right = cache({"index": images.index})["logits"].argmax(-1) == images.labels
            print(f"{path.name}: {len(cache):,} rows, right on {right.float().mean():.1%} of them")


if __name__ == "__main__":
    main()
