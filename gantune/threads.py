"""How many threads torch computes on, for a while."""

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def on_threads(count: int) -> Generator[None]:
    """Within, torch computes on `count` threads of this process; after it, on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
