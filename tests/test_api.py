"""A search from Python: what `import gantune` offers."""

import json
import subprocess
import sys

import numpy as np
import pytest
from made_runs import make_run

import gantune
from gantune.errors import SpecError
from gantune.export import folder
from gantune.export.programs import Program
from gantune.run import Run
from gantune.space import load_space

SPACE = {
    "version": 1,
    "name": "tiny",
    "data": {"dataset": "digits", "size": 8},
    "objective": {"metric": "kid", "samples": {"report": 64, "final": 64}, "reports": 2},
    "collapse": {"enabled": False},
    "budget": {"trials": 2, "samples_per_trial": 600},
    "search": {"scheduler": "none"},
    "space": {
        "architecture": {"mlp": {"hidden": 8, "depth": 1, "z_dim": 4}},
        "loss": ["hinge", "minimax"],
        "optimizer": "adam",
        "lr_g": "log 1e-4..1e-2",
        "batch_size": 32,
    },
}


def changed(**parameters):
    return {**SPACE, "space": {**SPACE["space"], **parameters}}


def python(text, folder, timeout=240):
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=timeout, check=False, cwd=folder
    )


def test_import_brings_nothing_heavy_and_offers_its_names(tmp_path):
    text = (
        "import sys, gantune\n"
        "print([name for name in ('torch', 'ray', 'optuna', 'pyarrow', 'numpy', 'click') if name in sys.modules])\n"
        "gantune.load_space, gantune.Run\n"
        "print([name for name in ('torch', 'ray', 'optuna') if name in sys.modules])\n"
    )
    assert python(text, tmp_path).stdout == "[]\n[]\n"
    for name in ("search", "resume", "open_run", "generator", "load_space"):
        assert name in dir(gantune)
        assert getattr(gantune, name).__doc__
    with pytest.raises(AttributeError, match="has no `serch`"):
        gantune.serch  # noqa: B018


def test_a_dict_is_read_as_the_file_that_holds_the_same(tmp_path):
    (tmp_path / "tiny.yaml").write_text(json.dumps(SPACE))
    assert gantune.load_space(SPACE) == load_space(tmp_path / "tiny.yaml")
    assert gantune.load_space(SPACE, ["loss=hinge"]) == load_space(tmp_path / "tiny.yaml", ["loss=hinge"])
    numbers = changed(batch_size=np.int64(32), lr_g=np.float64(1e-3), loss=("hinge", "minimax"))
    assert gantune.load_space(numbers) == gantune.load_space(changed(lr_g=1e-3))


def test_mistakes_of_a_dict_are_told_with_their_paths_all_at_once_in_reading_order():
    wrong = {**changed(lr_g="2..1", loss=["hinge", "minimx"], batch_size=object), "bugdet": {}}
    with pytest.raises(SpecError) as caught:
        gantune.load_space(wrong)
    assert str(caught.value).startswith("space.batch_size  expected a plain value, got a type")
    wrong = {**changed(lr_g="2..1", loss=["hinge", "minimx"]), "bugdet": {}}
    with pytest.raises(SpecError) as caught:
        gantune.load_space(wrong, ["batch_size=0"])
    told = str(caught.value).splitlines()
    assert told[-1] == "4 errors. Nothing was started."
    places = [line.split("  ")[0] for line in told if not line.startswith(" ")][:-1]
    assert places == ["--set batch_size:1:12", "space.loss[1]", "space.lr_g", "bugdet"]
    assert "did you mean `minimax`?" in str(caught.value)


def test_a_dict_that_holds_itself_is_a_mistake_and_no_endless_loop():
    wrong = changed()
    wrong["space"]["loss"] = wrong
    with pytest.raises(SpecError, match="nested too deeply"):
        gantune.load_space(wrong)


@pytest.mark.parametrize("name", ["a/b", "..", ""])
def test_a_runs_name_is_that_of_a_folder(tmp_path, name):
    with pytest.raises(SpecError, match="without a slash"):
        gantune.search(SPACE, name=name, runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_does_not_learn_from_itself(tmp_path):
    run = Run(tmp_path / "tiny")
    run.folder.mkdir()
    run.begin(gantune.load_space(SPACE))
    with pytest.raises(SpecError, match="cannot learn from itself"):
        gantune.search(SPACE, runs=tmp_path, earlier=["tiny"])


SEARCHES = """
import json, os, signal, sys, threading
import gantune

space = json.loads(sys.argv[1]) if len(sys.argv) > 1 else json.load(open("space.json"))
handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
found = {}

def searching():
    found["run"] = gantune.search(space, progress=False)

thread = threading.Thread(target=searching)
thread.start()
thread.join()
print("printed while a thread searched")
run = found["run"]
assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers

import ray
assert not ray.is_initialized()
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
again = gantune.search(gantune.load_space(space), overrides=["budget.trials=3"])
assert ray.is_initialized()
assert again.folder == run.folder
ray.shutdown()

best = run.best()
table = run.table()
assert table.num_rows == len(run.results.rows())
assert {"trial", "score", "metrics"} <= set(table.column_names)
samples = gantune.generator(run).draw(5, seed=3)
assert (samples == gantune.generator("tiny", best.number).draw(5, seed=3)).all()
print(json.dumps({"trials": [trial.number for trial in run.trials()], "best": best.number, "shape": samples.shape}))
"""


def test_a_search_runs_in_a_thread_and_in_a_ray_of_ones_own(tmp_path):
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    done = python(SEARCHES, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "printed while a thread searched"
    told = json.loads(lines[-1])
    assert told["trials"] == [0, 1, 2]
    assert told["shape"] == [5, 1, 8, 8]
    assert "3/3" in done.stderr  # of the second call; the first was asked to be quiet
    assert "2/2" not in done.stderr


def test_the_best_is_exported_as_the_command_does(tmp_path, monkeypatch):
    for name in ("torch_program", "onnx_program"):
        monkeypatch.setattr(folder, name, lambda generator: Program(b"a program", 0.0))
    run = make_run(tmp_path, trials=4, running=0)
    exported = gantune.export_best(tmp_path / "winner", run)
    assert "report.html" in exported.files
    assert (exported.left_out, {path.name for path in (tmp_path / "winner").iterdir()}) == ({}, set(exported.files))
    assert "`gantune train` takes" in (tmp_path / "winner" / "README.md").read_text()
    drawn = gantune.generator(tmp_path / "winner").draw(5)
    assert (drawn == gantune.generator(run).draw(5)).all()
    with pytest.raises(SpecError, match="no trial has `nothing`"):
        gantune.export_best(tmp_path / "other", run, metric="nothing")
    assert not (tmp_path / "other").exists()
