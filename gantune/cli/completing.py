"""What the shell offers for the arguments of every verb, without importing what the verbs import."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


class _Offering(click.ParamType[Any]):
    """A type of values, of which some are offered; where none begins so, the shell offers paths."""

    def __init__(self, inner: click.ParamType[Any], known: Callable[[click.Context], Iterable[str]]) -> None:
        self._inner = inner
        self._known = known
        self.name = inner.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self._inner.get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._inner.convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name) for name in self._known(ctx) if name.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]


def offer(command: click.Command) -> click.Command:
    """The command, whose arguments that name runs, trials or data offer those that there are."""
    for param in command.params:
        if param.name in KNOWN and not isinstance(param.type, _Offering):
            param.type = _Offering(param.type, KNOWN[param.name])
    return command


def _manifests(ctx: click.Context) -> list[Path]:
    """Those of the runs below --runs, the one last used first; none of runs at a URI."""
    runs = ctx.params.get("runs") or Path("runs")
    if not isinstance(runs, Path):
        return []
    return sorted(runs.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)


def _runs(ctx: click.Context) -> list[str]:
    return [path.parent.name for path in _manifests(ctx)]


def _trials(ctx: click.Context) -> list[str]:
    """Those of the run last used: the run's name stands behind the trial's number."""
    for manifest in _manifests(ctx)[:1]:
        folders = (path.name.partition(".") for path in sorted((manifest.parent / "trials").glob("[0-9]*")))
        return [f"{int(number)}{dot}{repeat}" for number, dot, repeat in folders]
    return []


def _data(ctx: click.Context) -> list[str]:
    from gantune.plugins import names

    return names("dataset")


KNOWN: dict[str, Callable[[click.Context], Iterable[str]]] = {
    "run": _runs,
    "sources": _runs,
    "trial": _trials,
    "data": _data,
}
