"""Which machines hold a trial, and how many trials there may be."""

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray import tune

from gantune.driver.connection import joined
from gantune.errors import RunError
from gantune.packing import Share, needed_of

SECONDS_BETWEEN = 5.0  # looks at the machines that there are
SECONDS_TO_GROW = 600.0  # a cluster, by a machine that is rented


class Room:
    """How many trials fit on the machines that there are, and more where trials that wait may bring machines.

    Of a cluster that may grow as many again wait, so that it doubles; where it has not for a while, one alone does:
    what waits was proposed before what trains has taught anything. Machines are looked at seldom, as they come and go
    seldom.
    """

    def __init__(self, share: Share) -> None:
        self._share = share
        self._trials = self._fit = 0
        self._looked = -SECONDS_BETWEEN
        self._grew = time.monotonic()

    def trials(self) -> int:
        """All of them, running or not."""
        if time.monotonic() - self._looked >= SECONDS_BETWEEN:
            self._looked = time.monotonic()
            fit = sum(self._on(node["Resources"]) for node in ray.nodes() if node["Alive"])
            if fit > self._fit:
                self._grew = time.monotonic()
            self._fit = fit
            grows = joined() and time.monotonic() - self._grew < SECONDS_TO_GROW
            self._trials = max(1, fit + (max(1, fit) if grows else joined()))
        return self._trials

    def _on(self, resources: Mapping[str, float]) -> int:
        wanted = self._share.wanted.items()
        return min(int(resources.get(name, 0) / count + 1e-6) for name, count in wanted if count)


def placed(share: Share, config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial occupies, on one machine; one that was short of memory has a GPU to itself."""
    return tune.PlacementGroupFactory(share.bundles(alone=config["alone"]), strategy="STRICT_PACK")


def check_room(share: Share) -> None:
    """Raise RunError where no machine could ever hold one trial: Tune would wait for ever."""
    cpus, gpus = share.cpus, share.gpus
    if gpus > 1 and gpus != int(gpus):
        raise RunError(f"resources.gpus_per_trial must be whole or at most 1, got {gpus:g}")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    of_type = [node for node in nodes if all(node.get(name, 0) > 0 for name in needed_of(share.accelerator))]
    if not of_type:
        there = sorted(
            {name.partition(":")[2] for node in nodes for name in node if name.startswith("accelerator_type:")}
        )
        raise RunError(
            f"no machine has a GPU of type {share.accelerator}; resources.accelerator_type may be "
            f"{' or '.join(there) or 'left out, for there is no GPU'}"
        )
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in of_type):
        most = max((node.get("CPU", 0), node.get("GPU", 0)) for node in of_type)
        raise RunError(
            f"a trial wants {cpus:g} CPUs and {gpus:g} GPUs, and the largest machine has {most[0]:g} and {most[1]:g}; "
            "lower resources.cpus_per_trial or resources.gpus_per_trial"
        )
