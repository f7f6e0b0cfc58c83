"""The binary files of CIFAR, by their authors' layout; the published ones need a network."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill_lib import data
from distill_lib.data import DataError, cifar

TRAIN, TEST = 50, 20


def records(count: int, labels: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images ``[N, 3, 32, 32]``, and rows as they stand in a file."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    pixels[:, 1] //= 2  # colors that differ
    marks = generator.integers(0, classes, (count, labels), dtype=np.uint8)
    return pixels, np.concatenate([marks, pixels.reshape(count, -1)], axis=1)


def packed(archive: cifar.Archive, classes: int, extra: dict[str, bytes] | None = None) -> bytes:
    files = {archive.names: "\n".join(f"class{i}" for i in range(classes)).encode() + b"\n\n"}
    for number, name in enumerate((*archive.train, *archive.test)):
        count = TEST if name in archive.test else TRAIN // len(archive.train)
        files[name] = records(count, archive.labels, classes, number)[1].tobytes()
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as file:
        for name, content in {**files, **(extra or {})}.items():
            member = tarfile.TarInfo(f"{archive.folder}/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return target.getvalue()


@pytest.fixture(params=["cifar10", "cifar100"])
def published(request, monkeypatch, tmp_path):
    """A small archive in the layout of the published one, served from a folder."""
    name, classes = request.param, int(request.param.removeprefix("cifar"))
    served = tmp_path / "served"
    served.mkdir()

    def publish(content: bytes) -> Path:
        archive = cifar.SETS[name]
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(cifar.SETS, name, replace(archive, size=len(content), sha256=digest))
        (served / archive.file).write_bytes(content)
        return served / archive.file

    publish(packed(cifar.SETS[name], classes))
    monkeypatch.setattr(cifar, "HOST", served.as_uri() + "/")
    return name, classes, tmp_path / "home", publish


def test_images_and_classes_are_those_of_the_file(published):
    name, classes, home, _ = published
    archive = cifar.SETS[name]
    test = data.load(name, split="test", root=home)
    pixels, rows = records(TEST, archive.labels, classes, len(archive.train))
    everything = np.concatenate(
        [records(TRAIN // len(archive.train), archive.labels, classes, i)[0]
         for i in range(len(archive.train))]
    ).astype(np.float64)  # fmt: skip
    mean, std = (of(everything, axis=(0, 2, 3))[:, None, None] for of in (np.mean, np.std))
    assert torch.equal(test.labels, torch.from_numpy(rows[:, archive.labels - 1]).long())
    torch.testing.assert_close(
        test.inputs.double().numpy(), (pixels - mean) / std, rtol=0, atol=1e-5
    )
    assert len(test.classes) == classes


def test_training_images_are_standardized_by_color(published):
    name, _, home, _ = published
    train = data.load(name, root=home)
    assert train.inputs.shape == (TRAIN, 3, 32, 32)
    assert train.inputs.mean((0, 2, 3)).abs().max() < 1e-5
    assert (train.inputs.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_what_was_fetched_stays(published):
    name, _, home, _ = published
    data.load(name, root=home)
    (home.parent / "served" / cifar.SETS[name].file).unlink()
    assert len(data.load(name, split="test", root=home)) == TEST


def test_without_file_and_network_it_says_what_helps(published):
    name, _, home, _ = published
    (home.parent / "served" / cifar.SETS[name].file).unlink()
    with pytest.raises(DataError, match="put the file of") as caught:
        data.load(name, root=home)
    assert cifar.SETS[name].file in str(caught.value)
    assert not list((home / "cifar").iterdir())  # nor half of a file


def test_another_file_is_refused_before_it_is_unpacked(published, monkeypatch):
    name, _, home, _ = published
    (home / "cifar").mkdir(parents=True)
    (home / "cifar" / cifar.SETS[name].file).write_bytes(b"\x80\x04cos\nsystem\n")
    monkeypatch.setattr(tarfile, "open", None)
    with pytest.raises(DataError, match="not the published file"):
        data.load(name, root=home)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_fetch_of_another_length_leaves_nothing(published, change):
    name, _, home, _ = published
    served = home.parent / "served" / cifar.SETS[name].file
    content = served.read_bytes()
    served.write_bytes(content[:-1] if change < 0 else content + b"x")
    with pytest.raises(DataError, match=r"expected .* bytes"):
        data.load(name, root=home)
    assert not list((home / "cifar").iterdir())


def test_a_torn_or_foreign_archive_ends_in_our_error(published):
    name, classes, home, publish = published
    whole = publish(packed(cifar.SETS[name], classes)).read_bytes()
    torn = [whole[: len(whole) // 2], b"", b"no archive"]
    odd = packed(cifar.SETS[name], classes, {cifar.SETS[name].test[0]: b"x" * 100})
    for content in (*torn, odd):
        publish(content)
        for old in home.rglob("*.gz"):
            old.unlink()
        with pytest.raises(DataError, match="is broken"):
            data.load(name, split="test", root=home)


def test_a_member_that_unpacks_to_more_than_the_bound_is_refused(published, monkeypatch):
    name, _, home, _ = published
    monkeypatch.setattr(cifar, "MOST", 10_000)
    with pytest.raises(DataError, match="unpacks to more than 10,000 bytes"):
        data.load(name, root=home)


def test_a_member_in_another_folder_is_not_read(published):
    """Only what the archive is known to hold, and nothing is written."""
    name, classes, home, publish = published
    archive = cifar.SETS[name]
    publish(packed(archive, classes, {"../escaped/test.bin": b"x"}))
    assert len(data.load(name, split="test", root=home)) == TEST
    assert not list(home.parent.rglob("escaped"))
