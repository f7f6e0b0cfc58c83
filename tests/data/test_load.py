"""Where the files come from, and how broken ones are refused by name."""

from __future__ import annotations

import builtins
import gzip
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill_lib import data
from distill_lib.data import DataError, fashion, sources


@pytest.fixture(scope="module")
def real():
    """Both splits; without any source a test is skipped, but not in continuous integration."""
    try:
        return {split: data.load("fashion_mnist", split) for split in ("train", "test")}
    except DataError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def idx(values: torch.Tensor) -> bytes:
    head = struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.to(torch.uint8).numpy().tobytes()


CONTENTS = {
    "train-images-idx3-ubyte.gz": idx(torch.arange(6 * 784).view(6, 28, 28) % 256),
    "train-labels-idx1-ubyte.gz": idx(torch.arange(6)),
    "t10k-images-idx3-ubyte.gz": idx(torch.zeros(3, 28, 28)),
    "t10k-labels-idx1-ubyte.gz": idx(torch.tensor([9, 8, 7])),
}


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with nothing: small files stand for the real ones, and every source is closed."""
    import hashlib

    monkeypatch.delenv("DISTILL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion, "SYSTEM", tmp_path / "system")
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(fashion, "FILES", sums)

    def closed(store, split, files):
        raise sources.Unavailable("closed")

    monkeypatch.setattr(sources, "FETCHERS", {"Debian": closed, "hub": closed})
    return tmp_path


def write(folder: Path, prefix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CONTENTS.items():
        if name.startswith(prefix):
            (folder / name).write_bytes(gzip.compress(content))
    return folder


def test_names_and_words():
    with pytest.raises(
        ValueError, match=r"no data set 'mnist'; there are .*digits, .*fashion_mnist"
    ):
        data.load("mnist")
    with pytest.raises(ValueError, match="no split 'val' of digits; there are train and test"):
        data.load("digits", "val")


def test_the_real_files_are_the_published_ones(real):
    train, test = real["train"], real["test"]
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.inputs.shape[1:] == (1, 28, 28)
    assert train.inputs.dtype == torch.float32
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert train.inputs.mean().abs() < 1e-3
    assert abs(train.inputs.std() - 1) < 1e-3
    assert train.classes[int(train.labels[0])] == "ankle boot"
    assert train.license == "MIT"


def test_digits_are_split_by_class_and_standardized():
    train, test = data.load("digits"), data.load("digits", "test")
    assert (len(train), len(test)) == (1442, 355)
    assert not set(train.index.tolist()) & set(test.index.tolist())
    assert torch.bincount(test.labels).min() >= 34
    assert train.inputs.mean().abs() < 1e-5
    assert abs(train.inputs.std() - 1) < 1e-5
    assert data.load("digits").fingerprint() == train.fingerprint()


def test_digits_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        data.load("digits")


@pytest.mark.parametrize("place", ["root", "nested", "environment", "cache", "system"])
def test_a_local_copy_is_found(bare, monkeypatch, place):
    root = None
    if place == "root":
        root = write(bare / "here")
    elif place == "nested":
        root = write(bare / "here" / "fashion-mnist").parent
    elif place == "environment":
        monkeypatch.setenv("DISTILL_DATA", str(write(bare / "there")))
    else:
        write(bare / "system" if place == "system" else bare / "cache/distill_lib/fashion-mnist")
    train = data.load("fashion_mnist", root=root)
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.load("fashion_mnist", "test", root).labels.tolist() == [9, 8, 7]
    expected = (torch.tensor(5 / 255) - fashion.MEAN) / fashion.STD
    assert torch.allclose(train.inputs[0, 0, 0, 5], expected)


def test_when_nothing_works_every_place_and_every_way_out_is_said(bare):
    write(bare / "partial", prefix="t10k")
    with pytest.raises(DataError) as caught:
        data.load("fashion_mnist", root=bare / "partial")
    words = str(caught.value)
    for part in (
        f"{bare}/partial: lacks train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz",
        f"{bare}/partial/fashion-mnist: no such folder",
        f"{bare}/system: no such folder",
        "Debian: closed",
        "hub: closed",
        "apt-get install dataset-fashion-mnist",
        f"into {bare}/partial/fashion-mnist",
        "set DISTILL_DATA",
    ):
        assert part in words


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[: len(raw) // 2], "is broken .*Delete it and load again"),
        (lambda raw: b"", "is not the published file|is broken"),
        (lambda raw: b"not gzip", "is broken .*Delete it and load again"),
        (lambda raw: raw[:20] + bytes([raw[20] ^ 255]) + raw[21:], "is broken"),
        (lambda raw: gzip.compress(CONTENTS["t10k-labels-idx1-ubyte.gz"]),
         "is not the published file: its content has SHA-256 .*Delete it and load again"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_by_name(bare, damage, words):
    path = write(bare / "here") / "train-labels-idx1-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path} ({words})"):
        data.load("fashion_mnist", root=bare / "here")


def test_a_broken_system_file_is_not_to_be_deleted_by_hand(bare):
    (write(bare / "system") / "train-labels-idx1-ubyte.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="Install Debian's package dataset-fashion-mnist again"):
        data.load("fashion_mnist")


def test_what_is_fetched_is_stored_and_checked(bare, monkeypatch):
    calls = []

    def fetch(store, split, files):
        calls.append(split)
        write(store)

    monkeypatch.setitem(sources.FETCHERS, "hub", fetch)
    assert len(data.load("fashion_mnist")) == 6
    assert len(data.load("fashion_mnist", "test")) == 3
    assert calls == ["train"]


def test_a_fetched_file_that_is_wrong_is_refused(bare, monkeypatch):
    def fetch(store, split, files):
        (write(store) / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))

    monkeypatch.setitem(sources.FETCHERS, "Debian", fetch)
    with pytest.raises(DataError, match="is not the published file"):
        data.load("fashion_mnist")


@pytest.fixture
def apt(monkeypatch):
    """A machine with apt: commands are recorded and answered by ``answer``."""
    commands, state = [], {"answer": lambda command, cwd: None}

    def run(command, *, cwd, **rest):
        commands.append(command)
        state["answer"](command, cwd)

    monkeypatch.setattr(sources.shutil, "which", lambda name: "/usr/bin/apt-get")
    monkeypatch.setattr(sources.subprocess, "run", run)
    return commands, state


def unpacking(command, cwd):
    """What apt-get download and dpkg -x would leave."""
    if "download" in command:
        (cwd / "dataset-fashion-mnist_1_all.deb").touch()
    elif command[0] == "dpkg":
        write(cwd / "unpacked/usr/share/datasets/fashion-mnist")


def failing(command, stderr="E: Unable to locate package\n"):
    raise subprocess.CalledProcessError(100, command, stderr=stderr)


def test_debian_with_package_lists(apt, tmp_path):
    commands, state = apt
    state["answer"] = unpacking
    sources.from_debian(tmp_path / "store", "train", list(CONTENTS))
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == sorted(CONTENTS)
    assert [command[0] for command in commands] == ["apt-get", "dpkg"]


def test_debian_without_package_lists_fetches_its_own(apt, tmp_path):
    commands, state = apt

    def answer(command, cwd):
        if "download" in command and not any("Dir::State::Lists" in part for part in command):
            failing(command)
        unpacking(command, cwd)

    state["answer"] = answer
    sources.from_debian(tmp_path / "store", "train", list(CONTENTS))
    assert [command[-1] for command in commands[1:3]] == ["update", "dataset-fashion-mnist"]
    assert (tmp_path / "store" / "train-images-idx3-ubyte.gz").is_file()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda command, cwd: failing(command), "apt-get update: E: Unable to locate package"),
        (lambda command, cwd: failing(command, ""), "exit status 100"),
        (lambda command, cwd: (_ for _ in ()).throw(OSError("no such program")), "no such program"),
        (lambda command, cwd: None, "left no package"),
        (
            lambda command, cwd: unpacking(command, cwd) if "download" in command else None,
            "has no train-images",
        ),
    ],
)
def test_debian_says_why_it_does_not_work(apt, tmp_path, answer, words):
    apt[1]["answer"] = answer
    with pytest.raises(sources.Unavailable, match=words):
        sources.from_debian(tmp_path, "train", list(CONTENTS))


def test_no_apt(monkeypatch, tmp_path):
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    with pytest.raises(sources.Unavailable, match="there is no apt-get"):
        sources.from_debian(tmp_path, "train", list(CONTENTS))


def test_a_store_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(sources.Unavailable, match=r"cannot write .*set DISTILL_DATA"):
        sources._store(tmp_path / "file" / "x.gz", b"")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that serves one parquet file of the small training images."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    huggingface = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")

    def png(pixels: bytes) -> dict[str, bytes]:
        buffer = io.BytesIO()
        image.frombytes("L", (28, 28), pixels).save(buffer, "png")
        return {"bytes": buffer.getvalue(), "path": None}

    content = CONTENTS["train-images-idx3-ubyte.gz"][16:]
    images = [png(content[i : i + 784]) for i in range(0, len(content), 784)]
    parquet.write_table(pyarrow.table({"image": images, "label": list(range(6))}),
                        tmp_path / "train.parquet")  # fmt: skip
    asked = []

    def download(repo, file, repo_type):
        asked.append((repo, file, repo_type))
        return str(tmp_path / "train.parquet")

    monkeypatch.setattr(huggingface, "hf_hub_download", download)
    return asked


def test_the_hub_gives_the_original_format(hub, bare, monkeypatch):
    monkeypatch.setitem(sources.FETCHERS, "hub", sources.from_hub)
    assert data.load("fashion_mnist").labels.tolist() == [0, 1, 2, 3, 4, 5]
    file = "fashion_mnist/train-00000-of-00001.parquet"
    assert hub == [("zalando-datasets/fashion_mnist", file, "dataset")]


def test_an_offline_hub_says_so(hub, monkeypatch, tmp_path):
    import huggingface_hub

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("outgoing traffic is disabled\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(sources.Unavailable, match=r"outgoing traffic is disabled$"):
        sources.from_hub(tmp_path, "train", list(CONTENTS))


def test_the_hub_names_the_package_it_lacks(monkeypatch, tmp_path):
    real_import = builtins.__import__

    def without(name, *rest, **keywords):
        if name.startswith("PIL"):
            raise ImportError(name="PIL")
        return real_import(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(sources.Unavailable, match=r"PIL is not installed .*pip install"):
        sources.from_hub(tmp_path, "train", list(CONTENTS))
