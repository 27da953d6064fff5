"""A run's manifest: what every run has in it, and what to do about one that cannot be read."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gantune.errors import RunError

FORMAT = 4
SECTIONS = ("budget", "objective", "search", "space")  # that every space has


def read_manifest(path: Path, where: str) -> dict[str, Any]:
    """A manifest's values. Raises RunError, naming it by `where`, for one missing, damaged or of another format."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{where}: cannot be read: {reason}; {remedy(path, where)}") from error
    if not isinstance(values, dict) or not {"format", "space", "sessions"} <= set(values):
        raise RunError(f"{where}: is not a run's manifest; {remedy(path, where)}")
    if values["format"] != FORMAT:
        raise RunError(f"{where}: has format {values['format']}; this gantune reads {FORMAT}; {_by(values)}")
    if lacking := _lacking(values):
        raise RunError(f"{where}: lacks {', '.join(lacking)}; {remedy(path, where)}")
    return values


def remedy(path: Path, where: str) -> str:
    """Return what to do about a manifest that is lost or damaged: the run's space file and its weights make it anew."""
    run, space = path.parent, path.parent / "space.yaml"
    if where != str(path) or not space.exists():
        return "restore it, or start a new run with --name"
    again = shlex.join(["gantune", "search", str(space), "--runs", str(run.parent), "--name", run.name])
    return f"restore it, or {'delete it and ' if path.exists() else ''}continue the run with `{again}`"


def _lacking(manifest: Mapping[str, Any]) -> list[str]:
    space, sessions = manifest["space"], manifest["sessions"]
    sections = space if isinstance(space, dict) else {}
    found = [f"space.{name}" for name in SECTIONS if not isinstance(sections.get(name), dict)]
    whole = isinstance(sessions, list) and sessions and all(isinstance(session, dict) for session in sessions)
    return found if whole else [*found, "sessions"]


def _by(manifest: Mapping[str, Any]) -> str:
    """Which gantune wrote a manifest of another format, and how to go on."""
    sessions = manifest.get("sessions")
    last = sessions[-1] if isinstance(sessions, list) and sessions and isinstance(sessions[-1], dict) else {}
    commit = f" at commit {last['git'][:12]}" if isinstance(last.get("git"), str) else ""
    who = f"it was written by gantune {last['gantune']}{commit}" if "gantune" in last else "another gantune wrote it"
    newer = isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT
    how = "update gantune" if newer else "read and continue it with that one"
    return f"{who}: {how}, or search again under another --name"
