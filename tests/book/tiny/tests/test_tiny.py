"""Quoted by the tiny book, and not collected by pytest there."""


def answer() -> int:
    return 42


def test_answer() -> None:
    assert answer() == 42
