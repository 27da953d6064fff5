"""One HTML page of a run that opens anywhere, offline: everything it shows is inside it."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from gantune.errors import GantuneError
from gantune.export import Exported, export
from gantune.report import parts
from gantune.report.contents import Contents
from gantune.run import Run
from gantune.whole import whole
from gantune.winner import Winner


def write_report(run: Run, path: Path, say: Callable[[str], None] = lambda text: None) -> None:
    """Write the page of a run as it stands. Raises GantuneError where the run or the path cannot be used."""
    text = page(run, say)
    try:
        with whole(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GantuneError(f"{path}: cannot be written: {error.strerror or error}; use --out") from error


def export_with_report(winner: Winner, folder: Path) -> Exported:
    """Write a winner's folder with the page of its search in it. Raises GantuneError."""
    return export(winner.run.weights(winner.checkpoint), folder, winner, page(winner.run))


def page(run: Run, say: Callable[[str], None] = lambda text: None) -> str:
    """The page as text."""
    contents = Contents.of(run)
    drawings: dict[str, str] = {}

    def draw(name: str, figure: go.Figure | None) -> str:
        if figure is not None:
            drawings[name] = figure.to_json()
        return name if figure is not None else ""

    say("drawing the winner's samples")
    values = {
        **parts.head(contents),
        **parts.winner(contents),
        "leaderboard": parts.leaderboard(contents),
        "progress": draw("progress", parts.progress(contents)),
        "curves": draw("curves", parts.curves(contents)),
        "front": draw("front", parts.front(contents)),
    }
    say("weighing the parameters")
    values |= parts.parameters(contents, draw)
    values |= parts.collapse(contents, draw)
    values |= parts.rungs(contents, draw)
    values |= {"configurations": parts.configurations(contents), "failed": parts.failed(contents)}
    values |= {"drawings": {name: _inside_script(text) for name, text in drawings.items()}}
    loader = Environment(
        loader=PackageLoader("gantune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = resources.files("gantune.report") / "templates"
    return loader.get_template("report.html").render(
        values,
        plotly=get_plotlyjs(),
        style=(own / "report.css").read_text(encoding="utf-8"),
        script=(own / "report.js").read_text(encoding="utf-8"),
    )


def _inside_script(text: str) -> str:
    """JSON that cannot end the element it stands in."""
    return text.replace("<", "\\u003c")
