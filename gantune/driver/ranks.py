"""The further processes of a trial that trains on several GPUs: an actor each, within the trial's own placement group.

Ray Train would reserve workers of its own beside the trial's, so that Tune could start trials whose workers never come,
and it trains on while the scheduler thinks about a report. Here Tune reserves all of a trial's GPUs at once, on one
machine; the trainable itself is the first process, and the others go as far as the exchange of gradients lets them.
"""

import contextlib
import datetime
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import distributed

from gantune.data.data_set import open_data
from gantune.errors import GantuneError
from gantune.metrics.reference_file import load_reference
from gantune.trainer import choose_device
from gantune.trial import train_trial
from gantune.world import ALONE, World

PATIENCE = datetime.timedelta(minutes=10)  # for a process to come, and for an exchange


@contextlib.contextmanager
def ranks(count: int, device: torch.device, wish: dict[str, Any]) -> Iterator[World]:
    """The world of this process, the first of `count` that train one trial; `wish` is what the others are told.

    Where one of them fails, the exchange fails here, and what is raised is its error.
    """
    if count == 1:
        yield ALONE
        return
    group, address = ray.util.get_current_placement_group(), f"tcp://{ray.util.get_node_ip_address()}:{_free_port()}"
    actors = [
        ray.remote(_Rank)
        .options(
            num_cpus=group.bundle_specs[rank].get("CPU", 0),
            num_gpus=group.bundle_specs[rank].get("GPU", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        )
        .remote()
        for rank in range(1, count)
    ]
    trained = [actor.train.remote(rank, count, address, wish) for rank, actor in enumerate(actors, start=1)]
    try:
        _meet(0, count, address, device)
        yield World(0, count)
    except RuntimeError as error:
        raise _cause(trained) or error from error
    finally:
        for actor in actors:
            ray.kill(actor)
        _part()


class _Rank:
    """A process that trains a trial with others, and neither measures nor writes."""

    def train(self, rank: int, count: int, address: str, wish: dict[str, Any]) -> None:
        """To the end of the trial, or until the first process ends this one."""
        torch.set_num_threads(wish["threads"])
        config, folder = pickle.loads(wish["pickled"]), Path(wish["folder"])
        device = choose_device(wish["device"])
        images = wish["images"] or open_data(config.data)
        reference = load_reference(Path(wish["reference"]))
        _meet(rank, count, address, device)
        try:
            for _ in train_trial(config, images, reference, folder, device, World(rank, count), wish["micro_batches"]):
                pass
        finally:
            _part()  # or the others would wait for one that failed


def _meet(rank: int, count: int, address: str, device: torch.device) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=address, rank=rank, world_size=count, timeout=PATIENCE)


def _part() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port


def _cause(trained: list[Any]) -> GantuneError | None:
    """What made one of the others fail, if that is for people."""
    failed, _ = ray.wait(trained, num_returns=len(trained), timeout=1)
    for one in failed:
        try:
            ray.get(one)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, GantuneError):
                return error.cause
        except ray.exceptions.RayError:
            continue
    return None
