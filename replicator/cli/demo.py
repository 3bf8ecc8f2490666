"""``replicator demo``: replication at work, with a broker outage and a killed replicator."""

from typing import Annotated

import typer

from replicator.cli import options
from replicator.errors import SandboxMissing


def demo(
    *,
    seconds: Annotated[
        float, typer.Option("--seconds", min=5, help="Length of the demo, without the waits.")
    ] = 36,
    rate: Annotated[
        int, typer.Option("--rate", min=10, max=5000, help="Documents to write per second.")
    ] = 300,
    as_json: options.AsJson = False,
) -> None:
    """Show that changes survive: stop the broker, kill the replicator, compare the copy.

    Starts an in-memory RethinkDB, a private RabbitMQ (install Debian's rabbitmq-server) and a
    replicator on this machine, and removes them afterwards. RETHINKDB_URL and RABBITMQ_URL name
    servers to use instead; the demo uses its own names there and removes what it made. With
    --json the story goes to standard error.
    """
    try:
        # Imported here: the demo's servers are an extra, and not in the container image.
        from replicator_sandbox.demo.story import Pace, run_demo  # noqa: PLC0415
    except ModuleNotFoundError as err:
        if err.name != "replicator_sandbox":
            raise
        raise SandboxMissing(
            "the servers of the demo are not installed",
            hint="pip install 'replicator[demo]', or run `make demo` in a clone of the project",
        ) from err
    run_demo(Pace(seconds, rate), as_json=as_json)
