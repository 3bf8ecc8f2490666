"""``replicator demo``: the main job at work, with a broker that fails and a replicator killed."""

from typing import Annotated

import typer

from replicator.cli import options
from replicator.errors import SandboxMissing


def demo(
    *,
    seconds: Annotated[
        float, typer.Option("--seconds", min=5, help="How long its parts last, without the waits.")
    ] = 36,
    rate: Annotated[
        int, typer.Option("--rate", min=10, max=5000, help="Documents written a second.")
    ] = 300,
    as_json: options.AsJson = False,
) -> None:
    """Show that nothing gets lost: cut the broker, kill the replicator, compare the copy.

    Everything runs on this machine and is gone afterwards: an in-memory RethinkDB, a private
    RabbitMQ (Debian's rabbitmq-server must be installed), the replicator as a process of its
    own. RETHINKDB_URL and RABBITMQ_URL name servers to use instead; what the demo makes there
    has names of its own and is removed. With --json the story goes to standard error.
    """
    try:
        # Not above: the servers of the demo are an extra, and not in the container image.
        from replicator_sandbox.demo.story import Pace, run_demo  # noqa: PLC0415
    except ModuleNotFoundError as err:
        if err.name != "replicator_sandbox":
            raise
        raise SandboxMissing(
            "the servers of the demo are not installed",
            hint="pip install 'replicator[demo]', or run `make demo` in a clone of the project",
        ) from err
    run_demo(Pace(seconds, rate), as_json=as_json)
