"""gantune completion"""

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes SHELL complete verbs, options, runs, trials and topics.

    \b
    echo 'eval "$(gantune completion bash)"' >> ~/.bashrc
    echo 'eval "$(gantune completion zsh)"' >> ~/.zshrc
    gantune completion fish > ~/.config/fish/completions/gantune.fish
    """
    from gantune.cli.main import cli

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(cli, {}, "gantune", "_GANTUNE_COMPLETE").source())
