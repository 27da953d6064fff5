"""An exported folder handed on. Nothing leaves this machine: local stores, offline modes, and a hub that is made up."""

import importlib.util
import json
import shutil
import time
from pathlib import Path

import pytest
from made_runs import make_run

from gantune.cli import best
from gantune.errors import GantuneError, SpecError
from gantune.export import Exported
from gantune.export import push as module
from gantune.export.push import PushError, check_target, push
from gantune.winner import find_winner


@pytest.fixture(scope="module")
def winner(tmp_path_factory):
    return find_winner(make_run(tmp_path_factory.mktemp("made"), trials=4, running=0))


@pytest.fixture
def folder(tmp_path):
    """What is handed on, as far as it matters here."""
    found = tmp_path / "winner"
    found.mkdir()
    (found / "README.md").write_text("a card")
    (found / "generator.pt2").write_bytes(b"a program")
    return found


@pytest.mark.parametrize("target", ["s3", "hub:me/x", "", "HF:me/x"])
def test_a_target_that_cannot_be_meant_is_told_with_those_there_are(target):
    with pytest.raises(SpecError, match=r"is none of hf:OWNER/NAME, mlflow\[:EXPERIMENT\] and wandb\[:PROJECT\]"):
        check_target(target)


@pytest.mark.parametrize("target", ["hf", "hf:", "hf:digits", "hf:me/a/b", "hf:/x"])
def test_the_hub_wants_a_repositorys_name(target):
    with pytest.raises(SpecError, match="names no repository; write --push hf:OWNER/NAME"):
        check_target(target)


@pytest.mark.parametrize("target", ["hf:me/digits", "mlflow", "wandb"])
def test_a_package_that_is_missing_is_named_with_its_extra_before_anything_is_done(
    gantune,
    monkeypatch,
    winner,
    target,
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, out, err = gantune("best", winner.run.folder, "--push", target, "--export", "out")
    place = target.partition(":")[0]
    assert (code, out) == (1, "")
    assert err.endswith(f"is not installed; pip install 'gantune[{place}]'\n")
    assert not Path("out").exists()


class Hub:
    """A Hugging Face hub of its two functions, that keeps what it is given."""

    def __init__(self):
        self.repositories, self.files = {}, {}

    def create_repo(self, name, *, repo_type, private, exist_ok):
        assert exist_ok
        assert repo_type == "model"
        self.repositories.setdefault(name, private)
        return f"https://hub/{name}"

    def upload_folder(self, *, repo_id, repo_type, folder_path, commit_message):
        assert repo_id in self.repositories
        assert repo_type == "model"
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        self.message = commit_message


def test_the_hub_gets_the_whole_folder_in_a_private_repository(monkeypatch, folder, winner):
    hub, library = Hub(), pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(library, "create_repo", hub.create_repo)
    monkeypatch.setattr(library, "upload_folder", hub.upload_folder)
    assert push("hf:me/digits", folder, winner) == "https://hub/me/digits"
    assert hub.repositories == {"me/digits": True}
    assert hub.files == {"README.md": b"a card", "generator.pt2": b"a program"}
    assert hub.message == f"Trial #{winner.trial.number} of made"


@pytest.mark.parametrize("target", ["hf:me/digits", "mlflow", "wandb"])
def test_whatever_a_library_raises_is_one_message_with_what_to_do(monkeypatch, folder, winner, target):
    place = target.partition(":")[0]

    def fail(*_):
        raise RuntimeError(f"401 at https://me:secret@server/x\nmore {'of it ' * 90}")

    monkeypatch.setitem(module.TARGETS, place, ("json", fail))
    with pytest.raises(PushError) as caught:
        push(target, folder, winner)
    assert str(caught.value) == (
        f"--push {target}: failed (RuntimeError: 401 at https://server/x); {module.REMEDIES[place]}"
    )


def test_mlflow_keeps_parameters_metrics_tags_and_files(monkeypatch, tmp_path, folder, winner):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    try:
        told = push("mlflow:gans", folder, winner)
        assert told.startswith("sqlite:///mlflow.db, run ")
        run = mlflow.get_run(told.rpartition(" ")[2])
        assert run.data.params == {name: str(value) for name, value in winner.source.parameters.items()}
        assert run.data.metrics["fid_classifier"] == winner.trial.best_score
        assert run.data.metrics["recall"] == winner.trial.metrics["recall"]
        assert run.data.tags["gantune.reproduce"] == winner.replay
        kept = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="generator"))
        assert {path.name for path in kept.iterdir()} == {"README.md", "generator.pt2"}
    finally:
        mlflow.set_tracking_uri(None)


def test_wandb_keeps_an_artifact_offline(monkeypatch, tmp_path, folder, winner):
    pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    kept = Path(push("wandb:gans", folder, winner))
    assert kept.is_relative_to(tmp_path)
    (log,) = kept.parent.glob("*.wandb")
    content = b""
    deadline = time.monotonic() + 60
    while not (b"generator.pt2" in content and b"gantune.reproduce" in content) and time.monotonic() < deadline:
        content = log.read_bytes()  # wandb's own process may still be writing it
        time.sleep(0.1)
    assert b"generator.pt2" in content
    assert b"gantune.reproduce" in content
    shutil.rmtree(kept.parent)


def test_the_command_hands_on_what_it_exported_and_leaves_nothing_else(gantune, monkeypatch, winner):
    seen = []

    def send(name, folder, of):
        seen.append((name, folder.name, sorted(path.name for path in folder.iterdir()), of.trial.number, folder))
        return f"there/{name}"

    def export(of, folder):
        folder.mkdir(parents=True)
        (folder / "README.md").write_text("a card")
        return Exported(folder=folder, files=("README.md",), differences={}, left_out={})

    monkeypatch.setitem(module.TARGETS, "wandb", ("json", send))
    monkeypatch.setattr(best, "_export", export)
    code, out, err = gantune("best", winner.run.folder, "--push", "wandb:gans")
    assert (code, err) == (0, "")
    assert out.endswith("\npushed to there/gans\n")
    assert seen[0][:4] == ("gans", "made", ["README.md"], winner.trial.number)
    assert not seen[0][4].exists()
    told = json.loads(gantune("best", winner.run.folder, "--push", "wandb:a", "--export", "out", "--json")[1])
    assert (told["pushed"], told["export"], told["files"]) == (["there/a"], "out", ["README.md"])
    assert issubclass(PushError, GantuneError)
