import os

import pytest
import torch

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
