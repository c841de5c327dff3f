"""What may be secret in an address is not shown: not in messages, logs, manifests, reports or quarantine."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_LETTERS = 300
_USER = re.compile(r"//[^/\s]*@")
_QUERY = re.compile(r"[?#](?!…[0-9a-f]{8}$).*$", re.DOTALL)
_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>|]*[^\s'\"<>|:;,.)]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def redacted_uri(uri: str) -> str:
    """Return a uri without user, password and query string.

    A digest stands for the query string: it tells two addresses apart, and two nights' signatures as well.
    What is redacted already is returned unchanged.
    """
    return _QUERY.sub(_digest, _USER.sub("//…@", uri)) if "://" in uri else uri


def shown_uri(uri: str) -> str:
    """Return a uri as a message may show it: redacted, on one line, and not endless."""
    shown = _printable(redacted_uri(uri)).replace("\n", "\\n")
    return shown if len(shown) <= MAX_LETTERS else f"{shown[: MAX_LETTERS - 1]}…"


def without_secrets(text: str) -> str:
    """Return a text with every address in it redacted, and nothing in it that a terminal would obey."""
    return _printable(_ADDRESS.sub(lambda found: redacted_uri(found[0]), text))


def redacted(value: Any) -> Any:
    """Return a JSON value with `without_secrets` done to every text in it."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {name: redacted(each) for name, each in value.items()}
    return [redacted(each) for each in value] if isinstance(value, Sequence) else value


def _digest(query: re.Match[str]) -> str:
    return f"?…{hashlib.sha256(query[0].encode('utf-8', 'replace')).hexdigest()[:8]}"


def _printable(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
