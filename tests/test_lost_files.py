"""Every file of a run lost, emptied or cut in half: each verb ends with a result or one message that says what to do.

All damages of all files are resumed where GANTUNE_ALL=1 is set; else one damage of each kind of file.
"""

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ends import Peace, differences_from_peace, differences_from_the_weights, shared_ray
from PIL import Image

import gantune as api
from gantune.driver.attempts import Attempts, write_attempts
from gantune.errors import GantuneError
from gantune.export import folder as export_folder
from gantune.export.programs import Program
from gantune.records import ENDED
from gantune.requests import Requests
from gantune.run import Run

SPACE = {
    "version": 1,
    "name": "intact",
    "objective": {
        "metric": "kid",
        "features": "pixels",
        "samples": {"report": 64, "final": 64},
        "reports": 8,
    },
    "budget": {"trials": 3, "samples_per_trial": 2560, "samples": 2800},  # a worker may be some reports ahead
    "collapse": {"enabled": False},
    "search": {"scheduler": "none", "sampler": "random"},
    "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0},
    "space": {
        "architecture": {"mlp": {"hidden": 16, "depth": 1, "z_dim": 4}},
        "loss": ["hinge", "non_saturating"],
        "optimizer": "adam",
        "lr_g": "log 1e-3..1e-2",
        "batch_size": 32,
    },
}
FINISHED, PAUSED, NEVER_BEGUN = 0, 1, 2
MORE = ("budget.samples=null",)
REMEDY = re.compile(r"`gantune |restore|move it away|start |resume|continue|--name|use |put |delete|mend|search again")

DAMAGES = {
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
}
KINDS = {  # of files, with the damage that is resumed always
    "manifest.json": ("manifest.json", "removed"),
    "space.yaml": ("space.yaml", "cut in half"),
    "study.journal": ("study.journal", "emptied"),
    "results": ("results/part-*.parquet", "cut in half"),
    "reference.safetensors": ("reference.safetensors", "removed"),
    "config.yaml of a finished trial": (f"trials/000{FINISHED}/config.yaml", "emptied"),
    "config.yaml of a paused trial": (f"trials/000{PAUSED}/config.yaml", "removed"),
    "best of a finished trial": (f"trials/000{FINISHED}/best.safetensors", "removed"),
    "best of a paused trial": (f"trials/000{PAUSED}/best.safetensors", "cut in half"),
    "latest of a paused trial": (f"trials/000{PAUSED}/latest.safetensors", "removed"),
    "attempts.json": ("trials/*/attempts.json", "cut in half"),
    "requests": ("requests/*.json", "emptied"),
    "pictures": ("trials/*/*.png", "emptied"),
    "tensorboard": ("tensorboard/**/events*", "cut in half"),
}
OTHERS = "all other files"
TOGETHER = {  # kinds of files that are lost at once
    "results": ("results",),
    "study": ("study.journal",),
    "latest": ("latest of a paused trial",),
    "results and study": ("results", "study.journal"),
    "results and latest": ("results", "latest of a paused trial"),
    "study and latest": ("study.journal", "latest of a paused trial"),
    "results, study and latest": ("results", "study.journal", "latest of a paused trial"),
}
VERBS = {
    "status": ("status", "RUN"),
    "ls": ("ls",),
    "best": ("best", "RUN"),
    "compare": ("compare", "INTACT", "RUN"),
    "export": ("best", "RUN", "--export", "OUT"),
    "report": ("report", "RUN", "--out", "OUT.html"),
    "replay": ("replay", str(FINISHED), "RUN"),
}


@dataclass(frozen=True)
class Made:
    """A run that its budget has ended, and the same run finished."""

    run: Run
    peace: Peace

    def files(self):
        """Every file of the run, as a path within it."""
        found = (path.relative_to(self.run.folder) for path in self.run.folder.rglob("*") if path.is_file())
        return sorted(path for path in found if path.name != ".lock")

    def of_kind(self, kind):
        """The files of a kind."""
        if kind == OTHERS:
            known = {path for other in KINDS for path in self.of_kind(other)}
            return [path for path in self.files() if path not in known]
        return [path for path in self.files() if self.run.folder / path in {*self.run.folder.glob(KINDS[kind][0])}]

    def copy(self, folder, name="damaged"):
        """The run once more, below a folder."""
        shutil.copytree(self.run.folder, folder / name)
        return Run(folder / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lost")
    noise = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for index in range(72):
        pixels = noise.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")
    space = {**SPACE, "data": {"dataset": str(folder / "pictures"), "size": 8}}
    with shared_ray(cpus=1):  # one trial after another
        run = api.search(space, runs=folder / "runs", progress=False)
        states = {trial.number: trial.state for trial in run.trials()}
        assert states == {FINISHED: "finished", PAUSED: "paused"}
        write_attempts(run.trial_folder(PAUSED), Attempts(crashes=1))
        requests = Requests(run)
        requests.promote(PAUSED, 0)
        requests.ask("promote", PAUSED)
        whole = Made(run, None).copy(folder / "runs", "whole")
        api.resume(whole, overrides=MORE, progress=False)
        yield Made(run, Peace(whole, whole.rows()))


@pytest.fixture(autouse=True)
def _quick_export(monkeypatch):
    for name in ("torch_program", "onnx_program"):
        monkeypatch.setattr(export_folder, name, lambda generator: Program(b"a program", 0.0))


def asked(words, made, folder):
    places = {"RUN": "damaged", "INTACT": made.run.folder, "OUT": folder / "out", "OUT.html": folder / "out.html"}
    return [str(places.get(word, word)) for word in words]


def untold(code, told):
    """What is wrong with how a verb ended, or nothing: a message is one line with a remedy."""
    if code == 0:
        return ""
    if code not in (1, 3):
        return f"exit code {code}: {told}"
    if code == 1 and len(told.strip().splitlines()) != 1:
        return f"not one message: {told}"
    return "" if code == 3 or REMEDY.search(told) else f"no remedy: {told}"


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_verb_that_reads_ends_with_a_result_or_one_message_whatever_file_is_damaged(
    made, tmp_path, gantune, damage
):
    wrong = []
    for at, path in enumerate(made.files()):
        runs = tmp_path / str(at)
        DAMAGES[damage](made.copy(runs).folder / path)
        for verb, words in VERBS.items():
            code, out, err = gantune(*asked(words, made, runs), "--runs", runs)
            if problem := untold(code, err) or (code and verb == "ls" and err) or ("differs" in out and out):
                wrong.append(f"{path} {damage}: gantune {verb}: {problem}")
        shutil.rmtree(runs)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("lost", TOGETHER)
def test_every_verb_that_reads_ends_with_a_result_or_one_message_whatever_is_lost_together(
    made, tmp_path, gantune, lost
):
    run = made.copy(tmp_path)
    remove(made, run, TOGETHER[lost])
    wrong = []
    for verb, words in VERBS.items():
        code, out, err = gantune(*asked(words, made, tmp_path), "--runs", tmp_path)
        if problem := untold(code, err) or ("differs" in out and out):
            wrong.append(f"without {lost}: gantune {verb}: {problem}")
    assert not wrong, "\n".join(wrong)


def remove(made, run, kinds):
    for kind in kinds:
        for path in made.of_kind(kind):
            (run.folder / path).unlink()


def resumed(run, gantune):
    """Finish a damaged run; where a message names a command, follow it and try again. What is wrong, a line each."""
    for _ in range(3):
        try:
            api.resume(run.name, runs=run.folder.parent, overrides=MORE, progress=False)
        except GantuneError as error:
            told = str(error)
            if problem := untold(error.exit_code, told):
                return [problem]
            if "move it away" in told:
                (moved := Path(told.partition(": ")[0])).rename(moved.with_suffix(".away"))
                continue
            if "delete it" in told:
                Path(run.folder.parent, told.partition(": ")[0]).unlink()
            commands = [shlex.split(command) for command in re.findall(r"`gantune ([^`]+)`", told)]
            if not commands:
                return [f"it cannot be resumed, and no command is named: {told}"]
            code, _, err = gantune(*commands[0])
            if code != 0:
                return [f"its remedy `gantune {shlex.join(commands[0])}` ends with {code}: {err}"]
        else:
            return []
    return [f"it cannot be resumed though its remedy was followed: {told}"]


def assert_finished(made, run, gantune, *, rows_lost=False, best_lost=None):
    """Finish a run, and compare it with its own weights and with the run that was never damaged.

    best_lost: the trial whose best weights are lost. Where it has ended, nothing brings them back; where it goes on,
    only its later scores compete.
    """
    wrong = resumed(run, gantune)
    damaged = run.trial_folder(FINISHED) / "best.safetensors"
    if best_lost == FINISHED and damaged.exists():
        code, _, err = gantune("sample", damaged)
        assert code == 1
        assert "restore it, or delete it" in err
        damaged.unlink()
    if not wrong:
        states = {trial.number: trial.state for trial in run.trials()}
        if sorted(states) != [FINISHED, PAUSED, NEVER_BEGUN] or not {*states.values()} <= {*ENDED}:
            wrong.append(f"its trials are {states}")
        wrong += differences_from_the_weights(run, finished=True)
        from_peace = differences_from_peace(made.peace, run)
        wrong += [text for text in from_peace if not (rows_lost and "has no row" in text)]
        if best_lost == FINISHED:
            wrong = [text for text in wrong if not re.match("trial 0: .*best.safetensors has None", text)]
        if best_lost == PAUSED:
            wrong = [text for text in wrong if not re.match("trial 1 at .*: (best_score|final_[a-z_]+) is ", text)]
    assert not wrong, "\n".join([str(run.folder), *wrong])


def cases():
    everything = os.environ.get("GANTUNE_ALL") == "1"
    rest = pytest.mark.skipif(not everything, reason="one damage of each kind of file; GANTUNE_ALL=1 resumes them all")
    for kind, (_, always) in {**KINDS, OTHERS: ("", "removed")}.items():
        for damage in DAMAGES:
            yield pytest.param(kind, damage, id=f"{kind} {damage}", marks=() if damage == always else rest)


@pytest.mark.parametrize(("kind", "damage"), list(cases()))
def test_a_run_of_which_a_file_is_damaged_is_resumed_to_its_end(made, tmp_path, gantune, kind, damage):
    run = made.copy(tmp_path)
    paths = made.of_kind(kind)
    assert paths or kind == OTHERS, f"the run has no {kind}"
    for path in paths:
        DAMAGES[damage](run.folder / path)
    lost = {"best of a finished trial": FINISHED, "best of a paused trial": PAUSED}.get(kind)
    assert_finished(made, run, gantune, rows_lost=kind == "results", best_lost=lost)


@pytest.mark.parametrize("lost", [name for name, kinds in TOGETHER.items() if len(kinds) > 1])
def test_a_run_that_has_lost_several_of_its_files_is_resumed_to_its_end(made, tmp_path, gantune, lost):
    run = made.copy(tmp_path)
    remove(made, run, TOGETHER[lost])
    assert_finished(made, run, gantune, rows_lost="results" in TOGETHER[lost])
