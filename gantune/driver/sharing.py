"""What each trial of a run occupies: as the space says, or measured before the search where it says `auto`."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gantune.data.data_set import DataSet, open_data
from gantune.driver.connection import joined
from gantune.driver.exposure import OPEN, joined_without_token
from gantune.driver.workplace import reference_of
from gantune.errors import RunError
from gantune.metrics.reference_file import load_reference
from gantune.packing import Memory, Share, measure_memory, measure_threads, needed_of, part
from gantune.run import Run
from gantune.space import SearchSpace
from gantune.survey import look_at_machine

Say = Callable[[str], None]
GB = 1e9
SECONDS_BETWEEN_LOOKS = 1.0


def settle(space: SearchSpace, run: Run, images: DataSet, say: Say, report: Say = lambda text: None) -> Share:
    """The share of a trial, noted in the run's session. A run keeps to a count of threads that it once chose.

    A cluster may have to start a machine first, or grow by one; that is waited for. Raises RunError where a GPU could
    not be measured. say, report: told what stays to be read, and what is being done.
    """
    if joined():
        if joined_without_token():
            say(f"the cluster {OPEN}")
        _await_machine(space, say, report)
    gpus = _gpus(space, run, images, say, report)
    share = Share(
        cpus=_cpus(space, run, images, gpus, say, report), gpus=gpus, accelerator=space.resources.accelerator_type
    )
    run.note_resources({"cpus_per_trial": share.cpus, "gpus_per_trial": share.gpus})
    return share


def shipped(images: DataSet) -> DataSet:
    """Data as Ray's object store holds them, once a machine, for all its workers to map."""
    held: Any = np.asarray(images.examples)  # of a file that is mapped, the plain array
    return replace(images, examples=held)


def _await_machine(space: SearchSpace, say: Say, report: Say) -> None:
    """Wait until some machine of the cluster can hold a trial, and have the cluster start one that is smaller."""
    asked = space.resources
    cpus = 1.0 if asked.cpus_per_trial == "auto" else asked.cpus_per_trial
    gpus = 1.0 if asked.gpus_per_trial == "auto" else asked.gpus_per_trial or 0.0
    wanted = {
        name: count for name, count in {"CPU": cpus, "GPU": gpus, **needed_of(asked.accelerator_type)}.items() if count
    }
    if _holds(wanted):
        return
    kind = f" {asked.accelerator_type}" if asked.accelerator_type else ""
    say(f"no machine of the cluster holds a trial yet ({cpus:g} CPUs, {gpus:g}{kind} GPUs); waiting, Ctrl-C ends it")
    report("waiting for a machine of the cluster")
    request_resources(bundles=[wanted])
    try:
        while not _holds(wanted):
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        request_resources(bundles=[])  # from here on the trials themselves ask


def _holds(wanted: Mapping[str, float]) -> bool:
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(name, 0) >= count for name, count in wanted.items()) for node in there)


def _gpus(space: SearchSpace, run: Run, images: DataSet, say: Say, report: Say) -> float:
    asked, there = space.resources.gpus_per_trial, ray.cluster_resources().get("GPU", 0)
    if asked is None:
        return 1.0 if there >= 1 else 0.0
    if asked != "auto":
        return asked
    if there < 1:
        return 0.0
    report("measuring how much memory of a GPU trials need")
    memory = min(_measured(space, run, images), key=lambda memory: memory.trials)
    trials = memory.trials
    say(
        f"{trials} {'trials' if trials > 1 else 'trial'} a GPU: "
        f"the largest measured needs {memory.needed / GB:.1f} GB of {memory.total / GB:.0f}"
    )
    return part(trials)


def _measured(space: SearchSpace, run: Run, images: DataSet) -> Sequence[Memory]:
    """What a GPU of each machine holds, each measured by a process that ends with it."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    there = ray.put(shipped(images)) if joined() else None
    task = ray.remote(num_gpus=1, num_cpus=1, max_calls=1, max_retries=0)(_measure)
    waited = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            space, str(run.reference_path.resolve()), str(run.place or ""), there
        )
        for node in nodes
    ]
    try:
        found: list[Memory] = ray.get(waited)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RunError(f"the memory of a GPU could not be measured: {reason}; set resources.gpus_per_trial") from error
    return found


def _measure(space: SearchSpace, reference: str, place: str, images: DataSet | None) -> Memory:
    yardstick = load_reference(reference_of(place, reference))
    return measure_memory(space, images or open_data(space.data), yardstick, torch.device("cuda"))


def _cpus(space: SearchSpace, run: Run, images: DataSet, gpus: float, say: Say, report: Say) -> float:
    asked = space.resources.cpus_per_trial
    if asked != "auto":
        return asked
    kept = run.resources().get("cpus_per_trial")
    if kept is not None:
        say(f"{_threads(kept)} a trial, as before: a trial's numbers depend on it")
        return kept
    if gpus:
        return 1.0  # it feeds the GPU
    machine = look_at_machine()
    report("timing how many threads pay")
    threads = measure_threads(space, images, machine.cpus)
    say(f"{_threads(threads)} a trial: so this machine with {machine.cpus} CPUs gets most done")
    return float(threads)


def _threads(count: float) -> str:
    return "1 thread" if count == 1 else f"{count:g} threads"
