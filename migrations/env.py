"""Alembic's entry point: runs the migrations on a given connection, or on a URL.

``replicator migrate`` and ``replicator run`` pass their connection. The ``alembic`` program
itself, as used by ``make check``, takes ``-x url=sqlite:///FILE``.
"""

from alembic import context
from sqlalchemy import Connection, create_engine

from replicator.outbox.schema import metadata


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = context.get_x_argument(as_dictionary=True)["url"]
    with create_engine(url).begin() as own:
        run(own)
