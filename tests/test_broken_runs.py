"""Every verb that reads a run: what is missing, damaged or of another format is one message that says what to do."""

import json
import re
import shutil

import pytest
from made_runs import make_run

from gantune.api import open_run, prepare_again

READING = {
    "best": ["best", "RUN"],
    "status": ["status", "RUN"],
    "compare": ["compare", "whole", "RUN"],
    "resume": ["resume", "RUN"],
    "stop": ["stop", "RUN"],
    "kill": ["kill", "5", "RUN"],
    "promote": ["promote", "5", "RUN"],
    "replay": ["replay", "1", "RUN"],
    "report": ["report", "RUN"],
    "sample": ["sample", "RUN"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"), trials=6, weights=False, name="whole")


@pytest.fixture
def runs(made, tmp_path):
    """Two runs, one of them to be broken."""
    for name in ("whole", "broken"):
        shutil.copytree(made.folder, tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.fixture
def gantune(gantune, runs):
    return lambda *arguments: gantune(*arguments, "--runs", runs)


def asked(verb, name):
    return [name if word == "RUN" else word for word in READING[verb]]


def change(folder, **values):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


OLDER = {"sessions": [{"gantune": "0.0.7", "git": "f" * 40}]}
BROKEN = {
    "a folder that is no run": (empty, "`broken` is not a run; runs in RUNS/: whole"),
    "no folder": (shutil.rmtree, "`broken` is not a run; runs in RUNS/: whole"),
    "no manifest": (
        lambda folder: (folder / "manifest.json").unlink(),
        "RUNS/broken: is a run without its manifest.json; restore it",
    ),
    "a manifest cut short": (
        lambda folder: cut(folder / "manifest.json"),
        "RUNS/broken/manifest.json: cannot be read: .*; restore it",
    ),
    "a manifest of something else": (
        lambda folder: (folder / "manifest.json").write_text("[1]"),
        "RUNS/broken/manifest.json: is not a run's manifest; restore it",
    ),
    "a manifest without its space": (
        lambda folder: change(folder, space={"budget": {}}),
        "RUNS/broken/manifest.json: lacks space.objective, space.search, space.space; restore it",
    ),
    "a manifest without sessions": (
        lambda folder: change(folder, sessions=[]),
        "RUNS/broken/manifest.json: lacks sessions; restore it",
    ),
    "format 1": (
        lambda folder: change(folder, format=1, **OLDER),
        "RUNS/broken/manifest.json: has format 1; this gantune reads 4; it was written by "
        "gantune 0.0.7 at commit f{12}: read and continue it with that one",
    ),
    "format 2": (lambda folder: change(folder, format=2, sessions=None), "another gantune wrote it: read and continue"),
    "a newer format": (lambda folder: change(folder, format=5), "has format 5; .*: update gantune"),
}


@pytest.mark.parametrize("verb", READING)
@pytest.mark.parametrize("damage", BROKEN)
def test_a_run_that_cannot_be_read_is_one_message_with_a_remedy(runs, gantune, verb, damage):
    break_it, words = BROKEN[damage]
    break_it(runs / "broken")
    code, out, err = gantune(*asked(verb, "broken"))
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert re.search(words.replace("RUNS", re.escape(str(runs))), err)


def test_a_listing_tells_of_each_and_goes_on(runs, gantune):
    told = []
    for damage, (break_it, _) in BROKEN.items():
        shutil.rmtree(runs / "broken", ignore_errors=True)
        shutil.copytree(runs / "whole", runs / "broken")
        break_it(runs / "broken")
        code, out, err = gantune("ls")
        assert (code, err) == (0, "")
        assert re.search("^whole +stopped", out, re.MULTILINE)
        told += [damage] * ("unreadable" in out)
    assert told == list(BROKEN)[2:]  # where there is a run at all


@pytest.mark.parametrize("verb", ["best", "status", "compare", "kill", "promote", "replay"])
def test_a_part_of_the_results_that_is_cut_short_is_named_with_a_remedy(runs, gantune, verb):
    (part,) = (runs / "broken" / "results").glob("*.parquet")
    cut(part)
    code, _, err = gantune(*asked(verb, "broken"))
    assert code == 1
    assert err.startswith(f"{part}: cannot be read: ")
    assert "restore it, or move it away" in err


@pytest.mark.parametrize(
    ("verb", "code", "words"),
    [
        ("best", 3, "no trial has reported yet"),
        ("status", 0, ""),
        ("compare", 0, ""),
        ("replay", 1, "no trial 1 has reported; it has none"),
        ("stop", 1, "no search drives this run"),
    ],
)
def test_a_run_without_results_is_told_as_what_it_is(runs, gantune, verb, code, words):
    shutil.rmtree(runs / "broken" / "results")
    found, _, err = gantune(*asked(verb, "broken"))
    assert found == code
    assert words in err


def test_a_run_that_has_measured_nothing_is_read_but_does_not_compare(runs, gantune):
    values = json.loads((runs / "broken" / "manifest.json").read_text())
    del values["protocol"]
    (runs / "broken" / "manifest.json").write_text(json.dumps(values))
    assert gantune("status", "broken")[0] == gantune("best", "broken")[0] == 0
    code, _, err = gantune("compare", "whole", "broken")
    assert code == 1
    assert "has not measured anything yet" in err


def test_a_space_file_that_is_gone_is_made_again_from_the_manifest(runs):
    (runs / "broken" / "space.yaml").unlink()
    again = prepare_again(open_run("broken", runs=runs))
    assert again.space.document() == prepare_again(open_run("whole", runs=runs)).space.document()


@pytest.mark.parametrize("name", ["trials/0001/config.yaml", "reference.safetensors"])
def test_what_a_replay_needs_is_named_where_it_is_gone(runs, gantune, name):
    (runs / "broken" / "reference.safetensors").write_bytes(b"")
    (runs / "broken" / name).unlink()
    code, _, err = gantune("replay", "1", "broken")
    assert code == 1
    assert err == f"{runs}/broken/{name}: is gone, and no trial can be trained again without it; restore it\n"


def test_no_runs_at_all_say_how_to_begin(runs, gantune):
    for name in ("whole", "broken"):
        shutil.rmtree(runs / name)
    for verb in ("best", "status", "resume", "stop"):
        code, _, err = gantune(verb)
        assert code == 1
        assert err == f"there are no runs in {runs}/; start one with: gantune search SPACE.yaml\n"
