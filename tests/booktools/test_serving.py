"""The server of pages and tests refuses what it cannot answer, and goes on."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from distill_lib.booktools.serving import MOST, serve
from distill_lib.models import SmallGPT

MODEL = SmallGPT(16)
ASK: dict[str, Any] = {"model": "teacher", "prompt": [1, 2], "max_tokens": 1}


def ask(url: str, body: bytes, path: str = "/completions") -> Any:
    request = urllib.request.Request(url + path, body)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "another"},
        {"prompt": []},
        {"prompt": "words"},
        {"prompt": [16]},
        {"prompt": [-1]},
        {"prompt": [True]},
        {"prompt": [1] * 40},
        {"max_tokens": 0},
        {"max_tokens": 39},
        {"max_tokens": 1.5},
        {"logprobs": 21, "return_tokens_as_token_ids": True},
        {"logprobs": 3},
        {"prompt_logprobs": -1},
        {"stop_token_ids": "x"},
        {"temperature": -1},
        {"temperature": "hot"},
        {"seed": -1},
    ],
)
def test_wrong_requests_are_refused_and_the_next_is_answered(wrong: dict[str, Any]) -> None:
    with serve(MODEL, vocabulary=16, length=40) as url:
        with pytest.raises(urllib.error.HTTPError) as told:
            ask(url, json.dumps(ASK | wrong).encode())
        with told.value as error:
            assert error.code == 400 and json.loads(error.read())["error"]["message"]
        assert ask(url, json.dumps(ASK).encode())["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (b"{", "/completions", 400),
        (b"7", "/completions", 400),
        (b"[" * 50_000, "/completions", 400),
        (b"{}", "/chat/completions", 404),
        (b" " * (MOST + 1), "/completions", 413),
    ],
)
def test_what_is_no_request_is_refused(body: bytes, path: str, status: int) -> None:
    with serve(MODEL, vocabulary=16, length=40) as url:
        with pytest.raises((urllib.error.HTTPError, urllib.error.URLError)) as told:
            ask(url, body, path)
        if isinstance(told.value, urllib.error.HTTPError):
            with told.value as error:
                assert error.code == status
        assert ask(url, json.dumps(ASK).encode())["model"] == "teacher"


def test_it_listens_on_this_machine_alone() -> None:
    with serve(MODEL, vocabulary=16, length=40) as url:
        assert url.startswith("http://127.0.0.1:")


def test_a_text_stops_at_a_stop() -> None:
    body = ASK | {"max_tokens": 30, "stop_token_ids": [*range(16)], "return_token_ids": True}
    with serve(MODEL, vocabulary=16, length=40) as url:
        choice = ask(url, json.dumps(body).encode())["choices"][0]
    assert len(choice["token_ids"]) == 1 and choice["finish_reason"] == "stop"
