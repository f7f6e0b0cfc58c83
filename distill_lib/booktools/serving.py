"""A server on this machine that speaks the protocol of OpenAI's completions as vLLM does.

It is for pages and tests: it listens on loopback alone, reads requests of bounded size, runs
nothing that comes from outside, and answers wrongly on demand. It has no tokenizer: texts are ids.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distill_lib.sequences import sample
from distill_lib.signals import call, eval_mode, pick

__all__ = ["Answer", "serve"]

MOST = 1 << 20  # bytes of a request
SILENCE = 10.0  # seconds that a request may take to arrive


class Answer(NamedTuple):
    """What is about to be sent."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


Spoil = Callable[[int, Answer], Answer | None]


@contextlib.contextmanager
def serve(
    model: nn.Module,
    name: str = "teacher",
    *,
    vocabulary: int,
    length: int,
    most: int = 20,
    key: str | None = None,
    spoil: Spoil | None = None,
) -> Iterator[str]:
    """Serve a causal language model while the block runs; its url is what ``with`` gives.

    Args:
        model: A causal model of 🤗 Transformers, or a ``SmallGPT``.
        name: What it is called in requests.
        vocabulary: Its tokens.
        length: The longest text that it reads and writes.
        most: The most log-probabilities of a position.
        key: If given, nobody else is answered.
        spoil: ``spoil(n, answer)`` changes the n-th answer, from 0; None hangs up instead.

    Example:
        >>> from distill_lib.models import SmallGPT
        >>> from distill_lib.teachers import Served
        >>> with serve(SmallGPT(16), vocabulary=16, length=40) as url:
        ...     said = Served(url, "teacher", top=3)(torch.tensor([[1, 2]]))
        >>> said["top_ids"].shape
        torch.Size([1, 2, 3])
    """
    desk = _Desk(model, name, vocabulary, length, most)
    counter, gate = iter(range(1 << 62)), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = SILENCE

        def do_POST(self) -> None:
            right = self._answer()
            answer: Answer | None = right
            if spoil is not None:
                with gate:
                    number = next(counter)
                answer = spoil(number, right)
            if answer is None:
                self.close_connection = True
                return
            with contextlib.suppress(ConnectionError):  # nobody listens any more
                self.send_response(answer.status)
                said = {"Content-Length": str(len(answer.body)), "Content-Type": "application/json"}
                for title, value in {**said, **answer.headers}.items():
                    self.send_header(title, value)
                self.end_headers()
                self.wfile.write(answer.body)

        def _answer(self) -> Answer:
            size = self.headers.get("Content-Length") or ""
            if not size.isdecimal() or len(size) > 9 or int(size) > MOST:
                return _refused(413, f"a request has at most {MOST} bytes")
            body = self.rfile.read(int(size))
            if key is not None and self.headers.get("Authorization") != f"Bearer {key}":
                return _refused(401, "who is it?")
            if self.path != "/v1/completions":
                return _refused(404, "there is /v1/completions alone")
            try:
                return Answer(200, json.dumps(desk.answer(json.loads(body))).encode())
            except (ValueError, RecursionError) as error:
                return _refused(400, str(error))

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _refused(status: int, why: str) -> Answer:
    return Answer(status, json.dumps({"error": {"message": why, "code": status}}).encode())


class _Desk:
    """Reads requests, asks the model, and says what it said."""

    def __init__(
        self, model: nn.Module, name: str, vocabulary: int, length: int, most: int
    ) -> None:
        self.model, self.name, self.vocabulary = model, name, vocabulary
        self.length, self.most, self.alone = length, most, threading.Lock()

    def answer(self, ask: Any) -> dict[str, Any]:
        if not isinstance(ask, dict) or ask.get("model") != self.name:
            raise ValueError(f"the model is called {self.name!r}")
        prompt = ask.get("prompt")
        if not isinstance(prompt, list) or not prompt:
            raise ValueError("prompt is a list of token ids")
        if not all(type(x) is int and 0 <= x < self.vocabulary for x in prompt):
            raise ValueError(f"prompt has ids from 0 to {self.vocabulary - 1}")
        new = _number(ask, "max_tokens", 16, 1, self.length - len(prompt))
        tops = [_number(ask, k, 0, 0, self.most) for k in ("logprobs", "prompt_logprobs")]
        echo, named = bool(ask.get("echo")), bool(ask.get("return_tokens_as_token_ids"))
        if tops[0] and not named:
            raise ValueError("without a tokenizer, logprobs need return_tokens_as_token_ids")
        ends = ask.get("stop_token_ids") or []
        if not isinstance(ends, list) or not all(type(x) is int for x in ends):
            raise ValueError("stop_token_ids is a list of token ids")
        temperature = ask.get("temperature", 1.0)
        if not isinstance(temperature, (int, float)) or not 0 <= temperature <= 100:
            raise ValueError("temperature is a number from 0 to 100")
        generator = torch.Generator()
        generator.manual_seed(_number(ask, "seed", generator.seed() >> 1, 0, 2**63 - 1))
        with self.alone, torch.no_grad(), eval_mode([self.model]):
            said = self._write(prompt, new, temperature, ends, generator)
            logs = self._logs([*prompt, *said]) if any(tops) else None
        choice: dict[str, Any] = {"index": 0, "text": "", "logprobs": None}
        choice["finish_reason"] = "stop" if said[-1] in ends else "length"
        cut, all_ids = len(prompt), [*prompt, *said]
        if logs is not None and (top := tops[1] or (tops[0] if echo else 0)):
            rows = _rows(all_ids[:cut], logs, top)
            choice["prompt_logprobs"] = [None] + [
                {str(i): {"logprob": v, "rank": n, "decoded_token": ""}
                 for n, (i, v) in enumerate(row.items(), 1)}
                for row in rows[1:]
            ]  # fmt: skip
        if logs is not None and tops[0]:
            rows = _rows(all_ids, logs, tops[0])[0 if echo else cut :]
            names = [{f"token_id:{i}": v for i, v in row.items()} or None for row in rows]
            choice["logprobs"] = {"top_logprobs": names}
        if ask.get("return_token_ids"):
            choice |= {"prompt_token_ids": prompt, "token_ids": said}
        return {"object": "text_completion", "model": self.name, "choices": [choice]}

    def _write(
        self, prompt: list[int], new: int, temperature: float, ends: list[int], draw: Any
    ) -> list[int]:
        found = sample(
            self.model, torch.tensor([prompt]), new,
            temperature=temperature, stop=ends, generator=draw,
        )  # fmt: skip
        kept = found["completion_mask"].bool()
        return [int(x) for x in found["input_ids"][kept]]

    def _logs(self, ids: list[int]) -> Tensor:
        """[L, V] log-probabilities of the next token."""
        logits = pick(call(self.model, {"input_ids": torch.tensor([ids])}), "logits")
        return logits[0].float().log_softmax(-1)


def _rows(ids: list[int], logs: Tensor, top: int) -> list[dict[int, float]]:
    """For each token of a text the most probable ones in its place, and itself; none at first."""
    best = logs.topk(min(top, logs.shape[-1]), -1)
    rows: list[dict[int, float]] = [{}]
    for place, token in enumerate(ids[1:]):
        row = dict(zip(best.indices[place].tolist(), best.values[place].tolist(), strict=True))
        rows.append(row | {token: logs[place, token].item()})
    return rows


def _number(ask: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = ask.get(name)
    value = default if value is None else value
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is a whole number from {least} to {most}")
    return value
