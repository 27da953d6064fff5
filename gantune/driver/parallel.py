"""One trial on several processes, a GPU each where there are any, through Ray Train."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray import train
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from gantune.config import TrialConfig
from gantune.data.data_set import open_data
from gantune.driver.connection import connected
from gantune.errors import GantuneError, RunError
from gantune.metrics.reference_file import load_reference
from gantune.progress import Progress
from gantune.space import load_trial
from gantune.trial import train_trial
from gantune.world import World
from gantune.writing import dump, trial_document

PROGRESS = "progress.jsonl"  # a line a report, from the leader to whoever waits
SECONDS_BETWEEN_LOOKS = 0.2


def train_parallel(
    config: TrialConfig,
    reference: Path,
    folder: Path,
    processes: int,
    device: str,
    report: Callable[[Progress], None],
) -> Progress:
    """Train a trial in `folder` on several processes; `report` hears of each report. Returns the last one.

    device: cuda gives each process a GPU of its own. Raises RunError where Ray or a process fails; what was reported is
    kept, and the same call goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told, written = folder / PROGRESS, folder / "config.yaml"
    told.unlink(missing_ok=True)
    written.write_text(dump(trial_document(config)), encoding="utf-8")
    wish = {"config": str(written.resolve()), "reference": str(reference.resolve()), "folder": str(folder.resolve())}
    ended = threading.Event()
    heard: list[Progress] = []
    listener = threading.Thread(target=_listen, args=(told, ended, heard, report), daemon=True)
    with connected(folder / "ray.log", None):
        share = {"CPU": 1, "GPU": 1} if device == "cuda" else {"CPU": 1}
        _check_room(share, processes)
        trainer = TorchTrainer(
            _train,
            train_loop_config=wish,
            scaling_config=train.ScalingConfig(
                num_workers=processes, use_gpu=device == "cuda", resources_per_worker=share
            ),
            torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo"),
            run_config=train.RunConfig(name="train", storage_path=str((folder / "ray").resolve())),
        )
        listener.start()
        try:
            trainer.fit()
        except (RuntimeError, OSError, ray.exceptions.RayError, train.TrainingFailedError) as error:
            raise RunError(f"{folder}: a process failed: {_reason(error)}; see {folder / 'ray.log'}") from error
        finally:
            ended.set()
            listener.join()
            shutil.rmtree(folder / "ray", ignore_errors=True)
    if not heard:
        raise RunError(f"{folder}: no report came; see {folder / 'ray.log'}")
    return heard[-1]


def _train(wish: dict[str, Any]) -> None:
    """What each process runs."""
    context = train.get_context()
    world = World(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(1)
    config = load_trial(Path(wish["config"]))
    reference = load_reference(Path(wish["reference"]))
    folder = Path(wish["folder"])
    for progress in train_trial(config, open_data(config.data), reference, folder, get_device(), world):
        if world.leads:
            with (folder / PROGRESS).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(progress.as_dict()) + "\n")


def _listen(told: Path, ended: threading.Event, heard: list[Progress], report: Callable[[Progress], None]) -> None:
    """Pass on the lines of the leader as they come, until the end."""
    last = False
    while not last:
        last = ended.wait(SECONDS_BETWEEN_LOOKS)
        whole = told.read_text(encoding="utf-8").rpartition("\n")[0] if told.exists() else ""
        for line in whole.splitlines()[len(heard) :]:
            heard.append(Progress.from_dict(json.loads(line)))
            report(heard[-1])


def _check_room(share: dict[str, int], processes: int) -> None:
    """Raise RunError where there are too few CPUs or GPUs: Ray would wait for ever."""
    there = ray.cluster_resources()
    for name, each in share.items():
        if there.get(name, 0) < each * processes:
            raise RunError(
                f"{processes} processes want {each * processes} {name}s and there are {there.get(name, 0):g}; "
                "use a smaller --processes"
            )


def _reason(error: BaseException) -> str:
    """The innermost message that is for people."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, GantuneError):
            return str(inner)
        inner = getattr(inner, "cause", None) or inner.__cause__
    return str(error).strip().splitlines()[-1]
