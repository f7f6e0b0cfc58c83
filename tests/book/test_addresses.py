"""Where the book lives is said in one place, and nobody is sent where nobody is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import addresses
import pytest
from hypothesis import given
from hypothesis import strategies as st

NAMES = ("DISTILL_REPOSITORY", "DISTILL_SITE", "GITHUB_ACTIONS", "GITHUB_REPOSITORY")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository with or without an origin, and none of the variables."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)

    def make(origin: str | None = None) -> Path:
        if origin is not None:
            command = ["git", "-C", str(tmp_path), "remote", "add", "origin", origin]
            subprocess.run(command, check=True)
        return tmp_path

    return make


def test_without_any_word_there_is_no_address(clone):
    address = addresses.find(clone())
    assert (address.repository, address.site) == ("", "")
    assert address.notebook_in_colab("x") == ""


@pytest.mark.parametrize(
    "origin",
    [
        "https://github.com/Some-One/book",
        "https://github.com/Some-One/book.git",
        "https://token@github.com/Some-One/book.git",
        "git@github.com:Some-One/book.git",
        "ssh://git@github.com/Some-One/book.git",
    ],
)
def test_the_origin_says_it(clone, origin):
    address = addresses.find(clone(origin))
    assert address.repository == "https://github.com/Some-One/book"
    assert address.site == "https://some-one.github.io/book/"
    assert address.notebook_in_colab("a").endswith("/github/Some-One/book/blob/notebooks/a.ipynb")


@pytest.mark.parametrize(
    "origin",
    ["/work/main", "../main", "https://git.example.org/a/b.git", "https://github.com.evil.org/a/b"],
)
def test_an_origin_elsewhere_is_no_address(clone, origin):
    assert addresses.find(clone(origin)) == addresses.Address()


def test_a_folder_inside_another_repository_is_no_clone(clone):
    inside = clone("https://github.com/a/b") / "inside"
    inside.mkdir()
    assert addresses.find(inside) == addresses.Address()


def test_the_order_of_those_who_are_asked(clone, monkeypatch):
    root = clone("https://github.com/a/origin")
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/runner")
    assert addresses.find(root).repository.endswith("/origin")  # no hosted runner
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert addresses.find(root).repository.endswith("/runner")
    monkeypatch.setenv("DISTILL_REPOSITORY", "https://github.com/a/said")
    assert addresses.find(root).repository.endswith("/said")
    monkeypatch.setenv("DISTILL_SITE", "https://book.example")
    assert addresses.find(root).site == "https://book.example/"
    monkeypatch.setenv("DISTILL_REPOSITORY", "")
    assert addresses.find(root).repository == ""


def test_pages_of_an_owner_have_no_folder(clone):
    assert addresses.find(clone("https://github.com/a/a.github.io")).site == "https://a.github.io/"


@pytest.mark.parametrize("name", ["DISTILL_REPOSITORY", "DISTILL_SITE"])
def test_what_is_no_address_is_refused(clone, monkeypatch, name):
    monkeypatch.setenv(name, "book")
    with pytest.raises(ValueError, match=f"{name}='book': expected"):
        addresses.find(clone())


@given(st.text(max_size=40))
def test_nothing_but_github_is_taken_for_it(text):
    if addresses.GITHUB.match(text):
        assert "github.com" in text
