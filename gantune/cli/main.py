"""The `gantune` command."""

import importlib
import os
import sys

import click

from gantune import __version__
from gantune.cli.completing import offer
from gantune.clock import Clock
from gantune.errors import GantuneError

CLOCK = Clock()  # of a search, which begins where its command does
VERBS = {
    "init": "Write a first search space for your own data.",
    "search": "Search a space for the best GAN; the same command continues.",
    "resume": "Carry on a run from its own directory.",
    "stop": "Ask a search that runs elsewhere to stop.",
    "kill": "End one trial of a search.",
    "promote": "Give one trial of a search its whole budget.",
    "status": "Show how a search stands, wherever it runs.",
    "ls": "List runs with their state and best score.",
    "best": "Show a run's best trial, and export its generator.",
    "report": "Write one page of a run, to look at and to pass on.",
    "compare": "Put searches of one protocol side by side.",
    "show": "List components, their options and what does not go together.",
    "schema": "Print the language as JSON Schema, for editors.",
    "check": "Say what a search would run, and start nothing.",
    "doctor": "Say what is amiss on this machine, or an open cluster.",
    "train": "Train one configuration, with no search.",
    "replay": "Train a trial again, and say whether the numbers are the same.",
    "sample": "Draw pictures from a checkpoint or an export.",
    "completion": "Print what makes a shell complete gantune's words.",
}


class LazyGroup(click.Group):
    """Lists the verbs without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order in which people meet them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A verb's command, from the module of its name."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(f"gantune.cli.{cmd_name}"), "command")  # noqa: B009
        return offer(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with their summaries, from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="gantune")
def cli() -> None:
    """Hyperparameter search for generative adversarial networks.

    \b
    gantune search search_spaces/dcgan.yaml     find the best GAN for a data set
    gantune best --export winner                take it away
    """


def main() -> None:
    """Run the command; a GantuneError becomes its text and its exit code, and what the machine refuses its reason."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a component `package.module:function` may lie where the user works
    try:
        cli.main(prog_name="gantune", standalone_mode=False)
    except GantuneError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:  # a folder that may not be read, a full disk, a name too long: wherever it is met
        where = "" if error.filename is None else f"{error.filename}: "
        click.echo(f"{where}{error.strerror or error}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; nothing that was reported is lost", err=True)
        sys.exit(130)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
