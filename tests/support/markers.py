"""A password that is easy to find, in all forms in which it could be shown."""

import base64
from collections.abc import Iterator, Mapping
from urllib.parse import quote

MARKER = "Zq9marker7"
# Characters with a meaning in URLs, shells, JSON, TOML, HTML or regular expressions.
PASSWORD = f"ä:@/%41?#[]\"'\\ <&>{{$}}(*|€{MARKER}\N{GRINNING FACE}"
IN_URL = quote(PASSWORD, safe="")


def _base64_of(secret: bytes) -> Iterator[str]:
    """Return the three forms that a secret can have in the base64 of a longer text."""
    for before in range(3):
        written = base64.b64encode(b"\0" * before + secret).decode().rstrip("=")
        yield written[4 if before else 0 : -2]


_FORMS = (
    MARKER,  # the same in plain text, in JSON and percent-encoded
    MARKER.encode("utf-16-le").decode(),
    *_base64_of(MARKER.encode()),  # as in SASL PLAIN and HTTP's basic authentication
    MARKER.encode().hex(),
)


def assert_hidden(shown: Mapping[str, str | bytes]) -> None:
    """Check that nothing of what was shown contains the marker in any form."""
    for place, said in shown.items():
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        for form in _FORMS:
            assert form not in text, f"{place} shows the password as {form!r}"
