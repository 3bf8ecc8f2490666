"""Where a RethinkDB is, whichever kind it is."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from rethinkdb import r

USED: set[str] = set()
"""The servers that this session used, for its last lines."""


@dataclass(frozen=True)
class RethinkServer:
    url: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 28015

    def connect(self, **options: Any) -> Any:
        parts = urlsplit(self.url)
        return r.connect(
            host=self.host,
            port=self.port,
            **{
                "user": unquote(parts.username or "admin"),
                "password": unquote(parts.password or ""),
                **options,
            },
        )
