"""Hand an exported folder on: to the Hugging Face hub, to MLflow, to Weights & Biases, where these are installed."""

import importlib.util
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gantune.config import Scalar
from gantune.errors import GantuneError, SpecError
from gantune.winner import Winner

LONGEST = 200  # characters of what a library says of its failure
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class PushError(GantuneError):
    """A place that does not take what is handed to it."""


def check_target(target: str) -> None:
    """Raise SpecError for a target that cannot be meant, PushError where what it needs is not installed."""
    place, _, name = target.partition(":")
    if place not in TARGETS:
        raise SpecError(f"--push {target}: is none of hf:OWNER/NAME, mlflow[:EXPERIMENT] and wandb[:PROJECT]")
    if place == "hf" and not REPOSITORY.fullmatch(name):
        raise SpecError(f"--push {target}: names no repository; write --push hf:OWNER/NAME")
    module, _ = TARGETS[place]
    if importlib.util.find_spec(module) is None:
        raise PushError(f"--push {target}: {module} is not installed; pip install 'gantune[{place}]'")


def push(target: str, folder: Path, winner: Winner) -> str:
    """Hand a folder on, and say where it lies now. Raises SpecError or PushError, with what to do."""
    check_target(target)
    place, _, name = target.partition(":")
    _, send = TARGETS[place]
    try:
        return send(name, folder, winner)
    except Exception as error:  # such libraries fail in many ways: no network, no token, no right, a proxy
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = textwrap.shorten(_without_secrets(lines[0] if lines else "no reason given"), LONGEST, placeholder=" ...")
        raise PushError(f"--push {target}: failed ({type(error).__name__}: {told}); {REMEDIES[place]}") from error


def _without_secrets(text: str) -> str:
    """Without what stands before the @ of a URL."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _to_hub(name: str, folder: Path, winner: Winner) -> str:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import huggingface_hub

    made = huggingface_hub.create_repo(name, repo_type="model", private=True, exist_ok=True)
    huggingface_hub.upload_folder(
        repo_id=name,
        repo_type="model",
        folder_path=folder,
        commit_message=f"Trial #{winner.trial.number} of {winner.run.name}",
    )
    return str(made)


def _to_mlflow(name: str, folder: Path, winner: Winner) -> str:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of its own accord it goes on for minutes
    import mlflow

    if name:
        mlflow.set_experiment(name)
    with mlflow.start_run(run_name=f"{winner.run.name}-{winner.trial.number}") as run:
        mlflow.log_params(_parameters(winner))
        mlflow.log_metrics(_metrics(winner), step=winner.trial.best_samples_seen)
        mlflow.set_tags(_tags(winner))
        mlflow.log_artifacts(str(folder), artifact_path="generator")
        return f"{_without_secrets(mlflow.get_tracking_uri())}, run {run.info.run_id}"


def _to_wandb(name: str, folder: Path, winner: Winner) -> str:
    import wandb

    settings = wandb.Settings(silent=True, console="off")
    run = wandb.init(
        project=name or None,
        name=f"{winner.run.name}-{winner.trial.number}",
        job_type="export",
        config={**_parameters(winner), **_tags(winner)},
        settings=settings,
    )
    try:
        artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", winner.run.name), type="model", metadata=_metrics(winner))
        artifact.add_dir(str(folder))
        run.log_artifact(artifact)
        run.summary.update(_metrics(winner))
    finally:
        run.finish()
    return str(run.url or run.dir)


def _parameters(winner: Winner) -> dict[str, Scalar]:
    return {name: value for name, value in winner.source.parameters.items() if value is not None}


def _metrics(winner: Winner) -> dict[str, float]:
    """Under names that every tracker takes; the score is under its own."""
    found = {winner.run.score_name: winner.source.best_score or 0.0, **winner.source.metrics}
    return {re.sub(r"[^\w./ -]", "_", name): float(value) for name, value in found.items()}


def _tags(winner: Winner) -> dict[str, str]:
    protocol: dict[str, Any] = winner.manifest.get("protocol", {})
    return {
        "gantune.run": winner.run.shown,
        "gantune.trial": winner.label,
        "gantune.score": winner.run.score_name,
        "gantune.reference": str(protocol.get("reference", "unknown")),
        "gantune.reproduce": winner.replay or "no",
    }


Send = Callable[[str, Path, Winner], str]
TARGETS: dict[str, tuple[str, Send]] = {
    "hf": ("huggingface_hub", _to_hub),
    "mlflow": ("mlflow", _to_mlflow),
    "wandb": ("wandb", _to_wandb),
}
REMEDIES = {
    "hf": "log in by `hf auth login` or HF_TOKEN, with a token that may write, and look whether the hub is reached",
    "mlflow": "set MLFLOW_TRACKING_URI to a server that is reached, or to a file, as sqlite:///mlflow.db",
    "wandb": "log in by `wandb login` or WANDB_API_KEY, or set WANDB_MODE=offline",
}
