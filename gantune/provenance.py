"""With what a run's numbers were made."""

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

from gantune import __version__


def versions() -> dict[str, str]:
    """The packages that a run's numbers depend on, as they are installed."""
    found = {}
    for name in ("torch", "torchvision", "ray", "optuna", "numpy", "pyarrow", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def session() -> dict[str, Any]:
    """The versions, commit, machine and beginning of this process, for the manifest."""
    machine = {"system": platform.platform(), "cpus": os.cpu_count(), "python": sys.version.split()[0]}
    who = {"host": platform.node(), "pid": os.getpid(), "began": time.time()}
    return {"gantune": __version__, "git": _git_commit(), "packages": versions(), "machine": machine, **who}


def _git_commit() -> str | None:
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
