"""A stand-in for the library, small enough that the machinery's tests stay quick."""

from IPython.display import display

ANSWER = 42


def answer(offset: int = 0) -> int:
    """The answer, moved by an offset."""
    return ANSWER + offset


def claim(text: str, value: float, at_least: float) -> None:
    """Show a claim as distill_lib.booktools does."""
    record = {
        "kind": "claim",
        "id": text.lower().replace(" ", "-"),
        "text": text,
        "value": value,
        "relation": ">=",
        "bound": at_least,
        "seeds": 3,
        "source": None,
        "holds": value >= at_least,
    }
    display({"text/plain": text, "application/vnd.distill.claim+json": record}, raw=True)


def measurement(text: str, value: float) -> None:
    """Show a measurement of the machine as distill_lib.booktools does."""
    fields = dict.fromkeys(("relation", "bound", "seeds", "source", "holds"))
    record = {"kind": "machine", "id": "m", "text": text, "value": value, "machine": "ours"}
    bundle = {"claims": [{**fields, **record}]}
    display({"text/plain": text, "application/vnd.distill.claim+json": bundle}, raw=True)


def glue(name: str, value: object) -> None:
    """Store a value for the text."""
    data = {"application/papermill.record/text/plain": str(value)}
    record = {"name": name, "mime_prefix": "application/papermill.record/"}
    display(data, raw=True, metadata={"scrapbook": record})
