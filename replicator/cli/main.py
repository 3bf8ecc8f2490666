"""The ``replicator`` command: all commands together, and what an error becomes."""

import io
import sys
from typing import Annotated

import typer

from replicator import __version__
from replicator.cli import check, demo, feed, listen, migrate, outbox, run, status
from replicator.cli.arguments import PrivateGroup, hide_passwords
from replicator.cli.output import print_error, silence_stdout
from replicator.errors import PermanentError, ReplicatorError

_FAILED = 1
_REFUSED = 2  # the same as wrong usage: somebody has to change something

app = typer.Typer(
    name="replicator",
    cls=PrivateGroup,
    help="Replicate RethinkDB changefeeds into RabbitMQ: no change gets lost, restarts included.",
    epilog="Example: replicator run --table change_example.mytable",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(is_asked: bool) -> None:  # noqa: FBT001 -- typer calls it so
    if is_asked:
        sys.stdout.write(f"replicator {__version__}\n")
        raise typer.Exit


@app.callback()
def _all(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Take the options that come before a command."""
    del version


run.add_to(app)
check.add_to(app)
listen.add_to(app)
status.add_to(app)
app.add_typer(outbox.app, name="outbox")
app.add_typer(feed.app, name="feed")
migrate.add_to(app)
demo.add_to(app)


def main() -> None:
    """Run the command line and end the process with its exit status."""
    hide_passwords()
    for stream in (sys.stdout, sys.stderr):
        # An argument or a path may hold bytes that are no text: they are shown as escapes.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="replicator")
    except ReplicatorError as err:
        print_error(str(err), err.hint)
        sys.exit(_REFUSED if isinstance(err, PermanentError) else _FAILED)
    except BrokenPipeError:
        silence_stdout()
        sys.exit(_FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
