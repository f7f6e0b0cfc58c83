"""The small networks of the long ways: what is shipped is what was recorded."""

from __future__ import annotations

import json

import pytest
import torch

from distill_lib import compress, data, evaluate, zoo
from distill_lib.fusion.batchnorm import fold_batchnorm

LINES = (zoo.FOLDER / "pipeline.jsonl").read_text(encoding="utf-8").splitlines()
LAST = {
    line["leg"]: line
    for line in map(json.loads, LINES)
    if line["step"] == "shared" and line["seed"] == 0
}
FILES = {"image": "fashion_small0.packed", "text": "movie_small0.packed"}
TEACHERS = {"image": "fashion_resnet20", "text": "movie_minilm"}


@pytest.mark.parametrize("leg", FILES)
def test_a_file_is_as_small_as_its_line_says(leg):
    assert (zoo.FOLDER / FILES[leg]).stat().st_size == LAST[leg]["bytes"]


def test_the_image_network_scores_as_recorded():
    net = fold_batchnorm(zoo.ResNet(width=8))
    compress.load_packed(net, zoo.FOLDER / FILES["image"])
    test = data.load("fashion_mnist", split="test")
    some = test.subset(range(0, len(test), 10)).batches(250, shuffle=False)
    assert evaluate(net, some)["accuracy"] == pytest.approx(LAST["image"]["test"], abs=0.03)
    teacher = zoo.load_teacher(TEACHERS["image"])
    assert compress.file_bytes(teacher) >= 30 * LAST["image"]["bytes"]


def test_the_reader_scores_as_recorded():
    pytest.importorskip("transformers")
    net = zoo.small_bert(torch.arange(30_522), layers=6, hidden=384, heads=12)
    compress.load_packed(net, zoo.FOLDER / FILES["text"]).eval()
    test = data.load("movie_reviews", "test").tokenize(zoo.minilm_tokenizer())
    some = test.subset(range(0, len(test), 5)).by_length().batches(100, shuffle=False)
    assert evaluate(net, some)["accuracy"] == pytest.approx(LAST["text"]["test"], abs=0.05)
