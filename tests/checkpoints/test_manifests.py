"""A manifest finds what bare formats cannot tell."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutants import flips, mutants

from distill_lib.checkpoints import CheckpointError, load_checkpoint, verify, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    place = tmp_path / "model"
    (place / "inner").mkdir(parents=True)
    save_file({"a": torch.arange(50.0)}, place / "model.safetensors")
    (place / "config.json").write_text("{}")
    (place / "inner" / "Ünï ☃ name").write_bytes(b"")
    return place


def test_every_flipped_bit_of_safetensors_is_found(folder: Path) -> None:
    digest = write_manifest(folder)
    path = folder / "model.safetensors"
    whole, silent = path.read_bytes(), 0
    for data in flips(whole, 100):
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            silent += load_checkpoint(path).kind == "safetensors"
        with pytest.raises(CheckpointError, match=r"changed: model\.safetensors\. Get the files"):
            verify(folder)
    assert silent > 30, "the format tells by itself: the manifest shows nothing"
    path.write_bytes(whole)
    verify(folder, digest)


def test_what_is_missing_or_new_is_named_and_parts_are_not(folder: Path) -> None:
    write_manifest(folder)
    (folder / "config.json").rename(folder / "other.json")
    (folder / "c.0.part").write_bytes(b"being written")
    with pytest.raises(
        CheckpointError, match=r"missing: config\.json; not in the manifest: other\.json\."
    ):
        verify(folder)
    write_manifest(folder)
    verify(folder)


def test_the_digest_tells_an_exchanged_manifest(folder: Path) -> None:
    digest = write_manifest(folder)
    assert digest == hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()
    (folder / "config.json").write_text("[]")
    assert write_manifest(folder) != digest
    verify(folder)
    with pytest.raises(CheckpointError, match="is not the manifest with SHA-256"):
        verify(folder, digest)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_reads_it_and_writes_one_that_is_read(folder: Path) -> None:
    write_manifest(folder)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
    names = "config.json model.safetensors inner/*"
    subprocess.run(f"sha256sum {names} > SHA256SUMS", cwd=folder, check=True, shell=True)
    verify(folder)


def test_a_torn_manifest_is_refused(folder: Path) -> None:
    write_manifest(folder)
    path = folder / "SHA256SUMS"
    whole = path.read_bytes()
    for data in [b"", b"\n", whole[:-1], whole + whole, whole.upper(), *mutants(whole, 200)]:
        path.write_bytes(data)
        if data != whole:
            with pytest.raises(CheckpointError):
                verify(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"has no SHA256SUMS .* call checkpoints\.write_man"):
        verify(folder)


def test_what_cannot_be_written_down_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(ValueError, match="no folder with files"):
            write_manifest(place)
    (tmp_path / "a\nb").write_bytes(b"")
    with pytest.raises(ValueError, match="rename the file"):
        write_manifest(tmp_path)


NAMES = st.text(st.characters(exclude_characters="/\0\n\\", codec="utf-8"), min_size=1, max_size=40)


@given(st.dictionaries(NAMES.filter(lambda n: n not in (".", "..")), st.binary(max_size=50),
                       min_size=1, max_size=5), st.data())  # fmt: skip
def test_any_change_of_any_file_is_found(tmp_path_factory, files: dict[str, bytes], data) -> None:
    folder = tmp_path_factory.mktemp("m")
    kept = {n: c for n, c in files.items() if not n.endswith(".part") and n != "SHA256SUMS"}
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    if not kept:
        return
    write_manifest(folder)
    verify(folder)
    name = data.draw(st.sampled_from(sorted(kept)))
    other = data.draw(st.one_of(st.none(), st.binary(max_size=50)))
    if other is None:
        os.unlink(folder / name)
    else:
        (folder / name).write_bytes(other)
    if other != kept[name]:
        with pytest.raises(CheckpointError):
            verify(folder)
