"""The processes in which trials train, each of an actor, and their certain end.

Tune asks an actor to stop, and Ray notes it as dead before its process is; until then it may write a checkpoint.
"""

import contextlib
from collections import defaultdict
from typing import Any

import ray
from ray._private import state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gantune.driver.connection import kill, psutil

SECONDS_TO_DIE = 5.0
SECONDS_TO_HEAR = 15.0  # of a machine of a cluster, which may be lost
TITLE = "ray::"  # of the process of an actor; an idle worker has it, too


class Workers:
    """The processes that trials have trained in, of one call of Tune."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._processes: dict[str, set[int]] = defaultdict(set)  # by node

    def note(self, actor: Any) -> None:
        """Note the process of an actor that has been started."""
        name = actor._actor_id.hex()
        if name in self._known:
            return
        self._known.add(name)
        if found := state.actors(actor_id=name):
            self._processes[found["Address"]["NodeID"]].add(found["Pid"])

    def end(self) -> None:
        """Kill what is left, and return when no process is: none writes any more."""
        here = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
        asked = []
        for node, processes in self._processes.items():
            if here is None or node == here:
                _end_here(processes)
            else:
                with contextlib.suppress(ray.exceptions.RayError, ValueError):  # a machine that is lost
                    where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
                    asked.append(_end_there.options(scheduling_strategy=where).remote(processes))
        for answer in asked:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(answer, timeout=SECONDS_TO_HEAR)
        self._processes.clear()


def _end_here(numbers: set[int]) -> None:
    """Kill those workers of this machine that live, and wait for their end."""
    found = set()
    for number in numbers:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(number)
            if process.status() != psutil.STATUS_ZOMBIE and "".join(process.cmdline()).startswith(TITLE):
                found.add(process)
    kill(found, SECONDS_TO_DIE)


_end_there = ray.remote(num_cpus=0, max_retries=0)(_end_here)
