"""JSON to a server and back: tried again where that helps, bounded in time and size, in our words.

Certificates are checked as ``urllib`` does it by default. A redirected request becomes one without
the key, which is told to no other address, printed nowhere, and left out of pickles.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from distill_lib.arguments import check_counts, checked

__all__ = ["Post", "ServedError"]

AGAIN = (408, 425, 429, 500, 502, 503, 504, 529)  # what may be otherwise a moment later
LONGEST = 60.0  # seconds between two tries, whatever a server asks for
MOST = 1e6  # seconds; the system's clocks hold no more than some years
PART = 1 << 16
QUOTED = 200  # characters of what a server says, in a message


class ServedError(RuntimeError):
    """A server that does not answer, refuses, or answers something else than was asked."""


class _Again(Exception):
    """This try failed; the next one may not. ``wait`` is what the server asks for, in seconds."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


@checked
class Post:
    """Requests to one address.

    Args:
        url: Where they go, http or https.
        key: What the server knows its users by, if it asks for that.
        tries: How often a request is sent until it is answered.
        timeout: Seconds for an answer: without a byte, and for all of them.
        most: Bytes that an answer may have.
        pause: Seconds until the second try; each later one waits twice as long, up to a minute.
        sleep: Waits for some seconds.
        clock: Tells seconds.

    Raises:
        ValueError: another kind of url, or a key that no header can hold.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        tries: int = 5,
        timeout: float = 60.0,
        most: int = 1 << 26,
        pause: float = 1.0,
        sleep: Callable[[float], Any] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_counts(tries=tries, most=most)
        if not (0 < timeout < MOST and 0 <= pause < MOST):
            raise ValueError(
                f"expected seconds timeout > 0 and pause >= 0, below {MOST:g}, got {timeout} and "
                f"{pause}"
            )
        local = _address(url)
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key):
            raise ValueError("key expected printable characters without spaces around them")
        self.url, self.tries, self.timeout, self.most = url, tries, timeout, most
        self.pause, self.sleep, self.clock = pause, sleep, clock
        self._key: str | None = key or None
        # no proxy stands between this machine and itself
        handlers = [urllib.request.ProxyHandler({})] if local else []
        self._open: Callable[..., Any] = urllib.request.build_opener(*handlers).open

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a connection with a key is not stored: make it again where it is needed")

    def __repr__(self) -> str:
        return f"Post({self.url!r})"

    def __call__(self, question: Mapping[str, Any]) -> Any:
        """The server's answer, as Python has JSON.

        Raises:
            ServedError: no answer after all tries, a refusal, or something else than JSON.
        """
        data, failed = json.dumps(question).encode(), ""
        for count in range(self.tries):
            try:
                return self._parsed(self._once(data))
            except _Again as error:
                failed, wait = str(error), error.wait
            if count + 1 < self.tries:
                self.sleep(min(max(self.pause * 2.0 ** min(count, 60), wait), LONGEST))
        raise ServedError(
            f"{self.url} gave no answer in {self.tries} tries; the last time it {failed}"
        )

    def _once(self, data: bytes) -> bytes:
        kind = {"Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(self.url, data, kind)
        if self._key is not None:  # this kind of header does not follow a redirection
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        end = self.clock() + self.timeout
        try:
            with self._open(request, timeout=self.timeout) as answer:
                return self._read(answer, end)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, end) from None
        except TimeoutError:
            raise _Again(f"was silent for {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLError):  # a certificate is no better the next time
                raise ServedError(f"{self.url} has no trusted connection: {reason}") from None
            if isinstance(reason, TimeoutError):
                raise _Again(f"was silent for {self.timeout:g} s") from None
            raise _Again(f"broke off ({type(reason).__name__}: {self._quoted(reason)})") from None

    def _read(self, answer: Any, end: float) -> bytes:
        parts, size, due = [], 0, _length(answer)
        while size != due and (part := answer.read1(PART)):
            parts.append(part)
            size += len(part)
            if size > self.most:
                raise ServedError(
                    f"{self.url} answered with more than {self.most:,} bytes; ask for less at a "
                    "time, or raise most="
                )
            if self.clock() > end:
                raise _Again(f"was not done after {self.timeout:g} s")
        if due is not None and size < due:
            raise _Again(f"broke off after {size} of {due} bytes")
        return b"".join(parts)

    def _refusal(self, error: urllib.error.HTTPError, end: float) -> Exception:
        status = error.code
        if status in (401, 403):  # what it says may repeat the key
            given = "with the key that it was given" if self._key else "and was given no key"
            return ServedError(f"{self.url} lets nobody in (status {status}) {given}: see key=")
        try:
            said = self._message(self._read(error, end))
        except (OSError, http.client.HTTPException, _Again, ServedError):
            said = "nothing that can be read"
        if status in AGAIN:
            asked = error.headers.get("Retry-After") or ""
            wait = float(asked) if asked.isdecimal() and len(asked) < 9 else 0.0
            return _Again(f"answered with status {status} and said {said}", wait)
        hint = ": is the url right, and the model's name?" if status in (404, 405) else ""
        return ServedError(f"{self.url} refused (status {status}) and said {said}{hint}")

    def _parsed(self, raw: bytes) -> Any:
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            text = raw.strip()  # without a length, only an object that is not closed tells
            if not text or (text[:1] == b"{" and text[-1:] != b"}"):
                raise _Again(f"broke off after {len(raw)} bytes") from None
            raise ServedError(
                f"{self.url} answered something else than JSON: {self._quoted(raw[:QUOTED])}; does "
                "the url end as the server wants it, such as in /v1?"
            ) from None

    def _message(self, raw: bytes) -> str:
        try:
            said = json.loads(raw)
            said = said.get("error", said)
            said = said.get("message", said)
        except (ValueError, RecursionError, TypeError, AttributeError):
            said = raw[: 4 * QUOTED]
        return self._quoted(said)

    def _quoted(self, said: Any) -> str:
        """The beginning of what came, without line ends, and without the key."""
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        text = text.replace(self._key, "…") if self._key else text
        return repr(text[:QUOTED])


def _length(answer: Any) -> int | None:
    """The bytes that an answer says it has."""
    said = answer.headers.get("Content-Length") or ""
    return int(said) if said.isdecimal() and len(said) < 19 else None


def _address(url: str) -> bool:
    """Whether a url is one of this machine's own."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"url expected an address, got {url[:QUOTED]!r} ({error})") from None
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"url expected http://… or https://…, got {url[:QUOTED]!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "url expected scheme, host, port and path alone: it is printed in messages, so that a "
            "key belongs into key="
        )
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
