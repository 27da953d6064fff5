"""Where derived files live between runs."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """`$GANTUNE_CACHE`, or gantune's own folder in the user's cache. Everything in it can be made again."""
    chosen = os.environ.get("GANTUNE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gantune"
