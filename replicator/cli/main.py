"""The ``replicator`` command: registers all commands, and turns errors into exit statuses."""

import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from replicator import __version__
from replicator.cli import feed, outbox, streams
from replicator.cli.check import check
from replicator.cli.demo import demo
from replicator.cli.listen import listen
from replicator.cli.migrate import migrate
from replicator.cli.output import print_error
from replicator.cli.run import run
from replicator.cli.status import status
from replicator.errors import ReplicatorError
from replicator.log import HIDDEN

# typer has a copy of click of its own in some versions: this is the class that it raises.
_UsageError: Final[type[Any]] = typer.BadParameter.__mro__[1]
_AFTER_SCHEME: Final = re.compile(r"://.*", re.DOTALL)


class PrivateGroup(TyperGroup):
    """Commands whose messages about wrong usage repeat no address: it may have a password."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except _UsageError as err:
            err.message = _AFTER_SCHEME.sub(f"://{HIDDEN}", err.message)
            raise


app = typer.Typer(
    name="replicator",
    cls=PrivateGroup,
    help="Replicate RethinkDB changefeeds into RabbitMQ, at least once and in order per document.",
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
    """Accept the options that come before a command."""
    del version


def _add(command: Callable[..., None], example: str) -> None:
    name = command.__name__
    app.command(name, epilog=f"Example: replicator {name} {example}")(command)


_add(run, "--table change_example.mytable")
_add(check, "--config replicator.toml")
_add(listen, "--binding 'mytable.*' --count 10")
_add(status, "--watch")
app.add_typer(outbox.app, name="outbox")
app.add_typer(feed.app, name="feed")
_add(migrate, "--outbox sqlite:///replicator.db")
_add(demo, "--seconds 30 --rate 500")


def main() -> None:
    """Run the command line and end the process with its exit status."""
    streams.open_closed()
    try:
        _run_command()
    except ReplicatorError as err:
        print_error(str(err), err.hint)
        sys.exit(err.exit_status)
    except BrokenPipeError:
        sys.exit(ReplicatorError.exit_status)
    except OSError as err:
        if not streams.is_unwritable(err):
            raise
        print_error(f"the output cannot be written: {err.strerror}")
        sys.exit(ReplicatorError.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        streams.drop_unwritten()


def _run_command() -> None:
    try:
        app(prog_name="replicator")
    except SystemExit:
        sys.stdout.flush()  # here, where it is an error of the command if it fails
        raise
