"""Building the service, as far as no server is needed."""

from pathlib import Path

import pytest

from replicator.config.load import load_settings
from replicator.errors import OutboxUnusable
from replicator.service import Service
from tests.support.outbox import outbox


def opened_files() -> set[Path]:
    links = Path("/proc/self/fd").iterdir()
    return {link.readlink() for link in links if link.is_symlink()}


def test_an_outbox_that_is_refused_at_the_start_is_closed(tmp_path: Path) -> None:
    with outbox(tmp_path) as made, made.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE meta SET last_entry = 9223372036854775807")
    settings = load_settings(
        environ={
            "REPLICATOR_TABLES": "db.t",
            "REPLICATOR_OUTBOX__URL": f"sqlite:///{made.path}",
            "REPLICATOR_RETHINKDB__URL": "rethinkdb://127.0.0.1:1",
            "REPLICATOR_RABBITMQ__URL": "amqp://127.0.0.1:1",
        }
    )
    service = Service(settings)

    with pytest.raises(OutboxUnusable):
        service.run()

    assert made.path not in opened_files()
