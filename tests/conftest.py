import os
import sys

import pytest
import torch

from gantune.cli.main import main

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Derived files of the tests stay out of the user's cache, and are shared between the tests of a session."""
    before = os.environ.get("GANTUNE_CACHE")
    os.environ["GANTUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["GANTUNE_CACHE"]
    else:
        os.environ["GANTUNE_CACHE"] = before


@pytest.fixture
def gantune(monkeypatch, capsys, tmp_path):
    """Runs the command in an empty folder and gives its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gantune", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return code, shown.out, shown.err

    return run
