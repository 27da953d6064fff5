"""Hyperparameter search for generative adversarial networks.

    run = gantune.search("space.yaml")       # also: a dict, a SearchSpace; the same call continues
    run.best()                               # the best trial: score, parameters
    run.table().to_pandas()                  # a row a report
    gantune.generator(run).draw(64)          # samples of its generator
    gantune.export_best("winner", run)       # a folder to take away

What is named here is imported when it is first used; `import gantune` brings neither torch nor Ray nor Optuna.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "search": "gantune.api",
    "resume": "gantune.api",
    "open_run": "gantune.api",
    "generator": "gantune.api",
    "export_best": "gantune.api",
    "load_space": "gantune.space",
    "SearchSpace": "gantune.space",
    "Run": "gantune.run",
    "TrialRecord": "gantune.run",
    "GantuneError": "gantune.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module `gantune` has no `{name}`; it has {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
