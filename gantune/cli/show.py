"""gantune show"""

import json
import textwrap

import click

from gantune import plugins
from gantune.plugins import shown

TOPICS = (*plugins.TOPICS, "metrics", "parameters")
WIDTH = 110


@click.command("show")
@click.argument("topic", type=click.Choice(TOPICS))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def command(topic: str, as_json: bool) -> None:
    """List what a space can choose from: options, ranges known to work, what does not go together, sources.

    \b
    gantune show losses
    gantune show parameters
    """
    from gantune.catalogue import Entry, catalogue

    entries = catalogue(topic)
    if as_json:
        click.echo(json.dumps([entry.as_dict() for entry in entries], indent=1))
        return

    def lines(entry: Entry) -> list[str]:
        found = [click.style(entry.name, bold=True)] if topic != "parameters" else []
        for paragraph in entry.about.split("\n\n"):
            found += textwrap.wrap(" ".join(paragraph.split()), WIDTH, initial_indent="  ", subsequent_indent="  ")
        width = max((len(option.name) for option in entry.options), default=0)
        for option in entry.options:
            if option.required:
                default = "no default"
            else:
                default = "may be left out" if option.default is None else f"default {shown(option.default)}"
            works = f"; works in {option.works}" if option.works else ""
            found.append(f"    {option.name:<{width}}  {option.expected()}; {default}{works}")
        for rule in entry.refuses:
            found += textwrap.wrap(rule, WIDTH, initial_indent="    ! ", subsequent_indent="      ")
        return found

    gap = "\n" if topic == "parameters" else "\n\n"
    click.echo(gap.join("\n".join(lines(entry)) for entry in entries))
