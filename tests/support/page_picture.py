"""Makes the picture of the page: ``python -m tests.support.page_picture docs/page.png``.

It shows a fake service, because on a calm day there is little to see.
"""

import math
import sys
import tempfile
from pathlib import Path

from replicator import __version__
from tests.support.chromium import Chromium
from tests.support.observed import FakeService, feed_of
from tests.support.web import serving

WIDTH, HEIGHT = 900, 1180


def busy_service() -> FakeService:
    """Return a service after an outage of its broker, with one feed that starts again."""
    service = FakeService()
    gap = {"cause": "disconnect", "from": "2026-11-23T10:41:07.250Z"}
    service.is_ready = False
    service.changed = {"version": __version__}
    service.feeds = [
        feed_of("shop.orders", captured=1_204_331),
        feed_of("shop.customers", "initializing", captured=88_102, gap=gap),
    ]
    service.outbox |= {
        "pending": 41,
        "parked": 2,
        "bytes": 84_310,
        "oldest_entry_age_seconds": 0.4,
        "max_entries": 1_000_000,
        "max_bytes": 4 * 1024**3,
    }
    service.broker = {**(service.broker or {}), "in_flight": 41}
    # It rises for ten minutes while RabbitMQ is away, then falls.
    outage = [max(0, 420 * (turn - 150)) if turn < 210 else 0 for turn in range(240)]
    drain = [int(25_200 * math.exp(-turn / 12)) for turn in range(120)]
    calm = [40 + turn * 7919 % 60 for turn in range(360)]
    service.pending = [a + b for a, b in zip([*outage[:210], *drain, *[0] * 30], calm, strict=True)]
    return service


def main(target: Path) -> None:
    """Write the picture."""
    with (
        serving(busy_service()) as web,
        tempfile.TemporaryDirectory() as directory,
        Chromium(Path(directory)) as browser,
    ):
        browser.resize(WIDTH, HEIGHT)
        browser.do("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(f"http://127.0.0.1:{web.port}/")
        target.write_bytes(browser.screenshot())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
