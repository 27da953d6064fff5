"""gantune schema"""

import json
from pathlib import Path

import click


@click.command("schema")
@click.option("--out", type=click.Path(path_type=Path), help="Write it here.  [default: print it]")
def command(out: Path | None) -> None:
    """Print the JSON Schema of space files, for editors: completion, descriptions, mistakes while one types.

    With VS Code's YAML extension a file is checked that begins with: # yaml-language-server: $schema=gantune.json

    \b
    gantune schema --out gantune.json
    """
    from gantune.errors import GantuneError
    from gantune.schema import schema

    text = json.dumps(schema(), indent=1, ensure_ascii=False)
    if out is None:
        click.echo(text)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise GantuneError(f"{out}: cannot be written: {error.strerror or error}") from error
    click.echo(f"begin a space file with: # yaml-language-server: $schema={out}")
