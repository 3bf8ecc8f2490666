"""A password that is easily found again, in all forms in which it could be shown."""

import base64
from collections.abc import Iterator, Mapping
from urllib.parse import quote

MARKER = "Zq9marker7"
# What URLs, shells, JSON, TOML, HTML and regular expressions each have a meaning for.
PASSWORD = f"ä:@/%41?#[]\"'\\ <&>{{$}}(*|€{MARKER}\N{GRINNING FACE}"
IN_URL = quote(PASSWORD, safe="")


def _base64_of(secret: bytes) -> Iterator[str]:
    """Write a secret in base64 as it looks inside of something longer: there are three ways."""
    for before in range(3):
        written = base64.b64encode(b"\0" * before + secret).decode().rstrip("=")
        yield written[4 if before else 0 : -2]


_FORMS = (
    MARKER,  # is in the password as it is, and percent-encoded, and in JSON
    MARKER.encode("utf-16-le").decode(),
    *_base64_of(MARKER.encode()),  # SASL PLAIN and HTTP's basic authentication are this
    MARKER.encode().hex(),
)


def assert_hidden(shown: Mapping[str, str | bytes]) -> None:
    """Look for the marker in everything that was shown, in all forms."""
    for place, said in shown.items():
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        for form in _FORMS:
            assert form not in text, f"{place} shows the password as {form!r}"
