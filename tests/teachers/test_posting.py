"""Requests that are tried again, bounded, and never tell the key."""

from __future__ import annotations

import copy
import pickle
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from distill_lib.booktools.serving import Answer, serve
from distill_lib.models import SmallGPT
from distill_lib.teachers import ServedError
from distill_lib.teachers.posting import LONGEST, Post

MODEL = SmallGPT(16)
ASK = {"model": "teacher", "prompt": [1, 2], "max_tokens": 1}
KEY = "sk-a-secret-of-ours"


def served(spoil: Callable[[int, Answer], Answer | None], **more: Any) -> Any:
    return serve(MODEL, vocabulary=16, length=40, spoil=spoil, **more)


def post(url: str, **more: Any) -> Post:
    return Post(url + "/completions", **{"sleep": lambda seconds: None, **more})


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_with_longer_pauses(status: int) -> None:
    pauses: list[float] = []
    with served(lambda n, answer: Answer(status, b"busy") if n < 3 else answer) as url:
        post(url, sleep=pauses.append)(ASK)
    assert pauses == [1.0, 2.0, 4.0]


def test_a_connection_that_breaks_is_tried_again() -> None:
    with served(lambda n, answer: None if n < 2 else answer) as url:
        assert post(url)(ASK)["model"] == "teacher"


def test_an_answer_that_breaks_off_is_tried_again() -> None:
    def cut(n: int, answer: Answer) -> Answer:
        return Answer(200, answer.body, {"Content-Length": "9999"}) if n == 0 else answer

    with served(cut) as url:
        assert post(url)(ASK)["model"] == "teacher"


@pytest.mark.parametrize("left", [0, 1, 7, -1])
def test_an_answer_that_ends_too_early_is_tried_again(left: int) -> None:
    """Also where the server never said how long it would be."""

    def cut(n: int, answer: Answer) -> Answer:
        return Answer(200, answer.body[:left]) if n == 0 else answer

    with served(cut) as url:
        assert post(url)(ASK)["model"] == "teacher"
    with (
        served(lambda n, answer: Answer(200, answer.body[:left])) as url,
        pytest.raises(ServedError, match="no answer in 2 tries; the last time it broke off after"),
    ):
        post(url, tries=2)(ASK)


def test_a_server_says_how_long_to_wait_up_to_a_minute() -> None:
    pauses: list[float] = []
    said = {0: "7", 1: "Wed, 21 Oct 2015 07:28:00 GMT", 2: "100000", 3: "9" * 5000}

    def busy(n: int, answer: Answer) -> Answer:
        return Answer(429, b"{}", {"Retry-After": said[n]}) if n in said else answer

    with served(busy) as url:
        post(url, sleep=pauses.append)(ASK)
    assert pauses == [7.0, 2.0, LONGEST, 8.0]


def test_at_last_it_says_what_went_wrong_and_how_often() -> None:
    pauses: list[float] = []
    body = b'{"error": {"message": "the engine\\nis dead"}}'
    with (
        served(lambda n, answer: Answer(503, body)) as url,
        pytest.raises(ServedError, match=r"no answer in 3 tries.*status 503.*the engine\\nis dead"),
    ):
        post(url, tries=3, sleep=pauses.append)(ASK)
    assert len(pauses) == 2


def test_nobody_there() -> None:
    with served(lambda n, answer: answer) as url:
        pass
    with pytest.raises(ServedError, match=r"no answer in 2 tries.*broke off .ConnectionRefused"):
        post(url, tries=2)(ASK)


def test_a_silent_server_is_given_up() -> None:
    def silent(request: Any, timeout: float) -> Any:
        raise TimeoutError

    asking = post("http://127.0.0.1:9", tries=2, timeout=3.0)
    asking._open = silent
    with pytest.raises(ServedError, match=r"2 tries.*silent for 3 s"):
        asking(ASK)
    asking._open = lambda request, timeout: silent_url()
    with pytest.raises(ServedError, match="silent for 3 s"):
        asking(ASK)


def silent_url() -> Any:
    raise urllib.error.URLError(TimeoutError("timed out"))


def test_a_dripping_server_is_given_up() -> None:
    ticks = iter(range(0, 10_000, 2))
    with (
        served(lambda n, answer: answer) as url,
        pytest.raises(ServedError, match=r"1 tries.*not done after 1 s"),
    ):
        post(url, tries=1, timeout=1.0, clock=lambda: float(next(ticks)))(ASK)


def test_an_answer_has_a_size() -> None:
    with (
        served(lambda n, answer: Answer(200, b" " * 100_000)) as url,
        pytest.raises(ServedError, match=r"more than 50,000 bytes.*most="),
    ):
        post(url, most=50_000)(ASK)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"\xff\x00", b"[" * 50_000, b"9" * 50_000])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with (
        served(lambda n, answer: Answer(200, body)) as url,
        pytest.raises(ServedError, match="something else than JSON"),
    ):
        post(url)(ASK)


@pytest.mark.parametrize("status", [400, 404, 405, 413, 422])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    count = []

    def refuse(n: int, answer: Answer) -> Answer:
        count.append(n)
        return Answer(status, b'{"message": "no such thing"}')

    with (
        served(refuse) as url,
        pytest.raises(ServedError, match=rf"refused \(status {status}\) and said 'no such thing'"),
    ):
        post(url)(ASK)
    assert count == [0]


@pytest.mark.parametrize("body", [b"7", b"[]", b"{", b'{"error": 3}', b'{"error": null}', b"\xfe"])
def test_a_refusal_may_say_anything(body: bytes) -> None:
    with (
        served(lambda n, answer: Answer(400, body)) as url,
        pytest.raises(ServedError, match="status 400"),
    ):
        post(url)(ASK)


def test_a_certificate_that_is_not_trusted_is_no_matter_of_patience() -> None:
    def untrusted(request: Any, timeout: float) -> Any:
        raise urllib.error.URLError(ssl.SSLCertVerificationError("self-signed certificate"))

    asking = post("https://127.0.0.1:9")
    asking._open = untrusted
    with pytest.raises(ServedError, match=r"no trusted connection.*self-signed"):
        asking(ASK)


# ---- the key ----


def test_the_key_opens_the_door_and_none_is_said_to_be_missing() -> None:
    with served(lambda n, answer: answer, key=KEY) as url:
        assert post(url, key=KEY)(ASK)["model"] == "teacher"
        with pytest.raises(ServedError, match=r"status 401\) and was given no key"):
            post(url)(ASK)
        with pytest.raises(ServedError, match="with the key that it was given"):
            post(url, key="another")(ASK)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 429, 500])
def test_no_message_tells_the_key_even_if_the_server_repeats_it(status: int) -> None:
    body = f'{{"error": {{"message": "wrong key {KEY}"}}'.encode()  # and no JSON
    with (
        served(lambda n, answer: Answer(status, body)) as url,
        pytest.raises(ServedError) as told,
    ):
        post(url, key=KEY)(ASK)
    assert KEY not in str(told.value) + repr(told.value.__cause__) + repr(post(url, key=KEY))


def test_the_key_is_stored_nowhere() -> None:
    asking = Post("http://127.0.0.1:9", KEY)
    for store in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not stored"):
            store(asking)


def test_the_key_follows_no_redirection() -> None:
    seen: list[str | None] = []

    def elsewhere(n: int, answer: Answer) -> Answer:
        return Answer(302, b"", {"Location": "/v1/other"})

    with served(elsewhere) as url:
        asking = post(url, key=KEY)
        opener = asking._open.__self__  # type: ignore[attr-defined]

        class Watch(urllib.request.BaseHandler):
            handler_order = 1

            def http_request(self, request: Any) -> Any:
                seen.append(request.headers.get("Authorization"))
                seen.append(request.unredirected_hdrs.get("Authorization"))
                return request

        opener.add_handler(Watch())
        with pytest.raises(ServedError):
            asking(ASK)
    assert seen == [None, f"Bearer {KEY}", None, None]


@pytest.mark.parametrize("key", ["", " a", "a\nb", "ä", "a\x00"])
def test_a_key_that_no_header_can_hold_is_refused_without_printing_it(key: str) -> None:
    if not key:
        assert Post("http://127.0.0.1:9", key)._key is None
        return
    with pytest.raises(ValueError, match=r"^key expected printable") as told:
        Post("http://127.0.0.1:9", key)
    assert key.strip() == "a" or key not in str(told.value)


# ---- addresses ----


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "localhost:8000",
        "//host",
        "http://",
        "http://[::1",
        "http://host:99999999",
        "http://ho st/",
        "http://host/a\r\nX: y",
        "http://höst/",
        "http://user:word@host/",
        "http://host/?key=secret",
        "http://host/#a",
        "",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url expected") as told:
        Post(url)
    assert "secret" not in str(told.value) and "word" not in str(told.value)


def test_no_proxy_stands_between_this_machine_and_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with served(lambda n, answer: answer) as url:
        assert post(url, tries=1)(ASK)["model"] == "teacher"
    assert Post("http://example.org")._open is not None


@pytest.mark.parametrize("wrong", [{"timeout": 0.0}, {"pause": -1.0}, {"tries": 0}, {"most": 0}])
def test_wrong_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Post("http://127.0.0.1:9", **wrong)
