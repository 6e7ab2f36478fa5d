"""The command line. Results go to standard output, everything else to standard error.

What a command needs loads when it runs, so that help and completion answer at once.
"""

import atexit
import gc
import signal
import sys
import traceback
from typing import NoReturn

import click

from flows.commands.ablate import ablate
from flows.commands.browse import browse
from flows.commands.ledger import ledger
from flows.commands.notify import notify
from flows.commands.open_report import open_report
from flows.commands.recipe_commands import RECIPE_COMMANDS
from flows.commands.recipe_info import RECIPE_INFO
from flows.commands.store_commands import store as store_group
from flows.commands.student_commands import STUDENT_COMMANDS
from flows.commands.table_command import table
from flows.environment import log_to_stderr
from flows.openmp import bound_spinning
from storage.store import StoreUnavailable


class _InOrder(click.Group):
    """Lists its commands in the order in which a person needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return them as they were added."""
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="lightgen")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Distil a text-to-image teacher into a small student.

    \b
    lightgen run demo       all stages, on any machine in minutes
    lightgen COMMAND -h     what a command does, and its options
    """


_COMMANDS = (
    *RECIPE_COMMANDS,
    ledger,
    ablate,
    *RECIPE_INFO,
    *STUDENT_COMMANDS,
    table,
    open_report,
    browse,
    notify,
    store_group,
)
for command in _COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line and turn errors into exit codes.

    2: the caller's input is wrong; 1: a stage failed, or the store does not answer; 130: stopped by Ctrl-C or SIGTERM,
    or cancelled in the Prefect UI.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends a command as Ctrl-C does: with a word
    atexit.register(gc.freeze)  # else Python looks through torch's million objects again, seconds after the last word
    log_to_stderr()
    bound_spinning()
    arguments = [word for word in sys.argv[1:] if word != "--debug"]  # it may stand anywhere
    debug = len(arguments) < len(sys.argv) - 1
    try:
        cli(arguments, prog_name="lightgen", standalone_mode=False)
    except click.ClickException as error:
        error.show(sys.stderr)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _stop()
    except Exception as error:
        from flows.errors import USER_ERRORS, RunCancelled

        if isinstance(error, RunCancelled):  # the log has said by whom
            _stop()
        _explain(error, debug)
        if isinstance(error, USER_ERRORS):  # its message says all; a traceback would tell of the program
            sys.exit(1 if isinstance(error, StoreUnavailable) else 2)
        if not debug:
            click.echo("`lightgen --debug ...` shows the traceback.", err=True)
        sys.exit(1)


def _stop() -> NoReturn:
    click.echo("stopped; what is finished is kept, and the same command goes on from there", err=True)
    sys.exit(128 + signal.SIGINT)


def _explain(error: Exception, debug: bool) -> None:
    click.echo(f"lightgen: {error or type(error).__name__}", err=True)
    if debug:
        traceback.print_exception(error)
