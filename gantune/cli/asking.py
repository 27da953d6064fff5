"""What the verbs that ask something of one running trial have in common."""

import shlex
import time

import click

from gantune.errors import RunError
from gantune.requests import Requests, Verb, check_open
from gantune.run import Run

SECONDS_BETWEEN_LOOKS = 0.2


def ask_of_trial(run: Run, verb: Verb, trial: int, *, wait: bool) -> None:
    """Ask the driver of a run, and say what becomes of it. Raises RunError where it is refused."""
    check_open(run, trial)
    requests = Requests(run)
    request = requests.ask(verb, trial)
    accepted = False
    while run.driven():
        answer = requests.answer(request)
        if answer is not None and answer.state == "accepted" and not accepted:
            accepted = True
            click.echo(answer.text, err=True)
            if not wait:
                return
        elif answer is not None and answer.state != "accepted":
            break
        time.sleep(SECONDS_BETWEEN_LOOKS)
    answer = requests.answer(request)
    if answer is None or answer.state == "accepted":
        try:
            check_open(run, trial)
        except RunError:
            requests.forget(request)
            raise
        click.echo(
            f"no search drives {run.shown}; noted for when it continues: gantune resume {shlex.quote(run.shown)}",
            err=True,
        )
        return
    requests.forget(request)
    if answer.state == "refused":
        raise RunError(f"{run.shown}: {answer.text}")
    click.echo(answer.text, err=True)
