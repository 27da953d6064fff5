"""gantune best: who is handed over, who comes behind, by what, at what cost, and how to have it again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import SPACE, make_run

from gantune.errors import SpecError
from gantune.objectives import BETTER
from gantune.run import Run
from gantune.winner import better, differences, find_winner, metric_named, pareto

COUNT = 12


def measured(number):
    return {
        "fid_classifier": 5.0,
        "kid_classifier": 1.0 / (1 + number),
        "rank": float(number),
        "generator_parameters": 1000.0 - number,
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that is looked at and never changed."""
    return make_run(tmp_path_factory.mktemp("made"), trials=COUNT, running=1, metrics=measured, repeats=2)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One without finalists, baseline or any cost that was measured."""
    return make_run(tmp_path_factory.mktemp("plain"), trials=COUNT, running=0, space={**SPACE, "baseline": None})


def alive(run):
    return [trial for trial in run.trials() if trial.survived]


# Who is the winner


def test_the_winner_is_the_runs_best_with_the_weights_of_its_best_run(made):
    winner = find_winner(made)
    assert winner.trial == made.best()
    assert winner.checkpoint == made.checkpoint(made.best(), made.repeats())
    assert winner.ranked[0] == winner.trial
    assert [trial.number for trial in winner.ranked[:3]] == [standing.number for standing in winner.standings]
    assert {trial.number for trial in winner.ranked} == {trial.number for trial in alive(made)}


@pytest.mark.parametrize(
    ("name", "full", "value"),
    [
        ("rank", "rank", lambda trial: -trial.metrics["rank"]),
        ("kid", "kid_classifier", lambda trial: trial.metrics["kid_classifier"]),
        ("kid_classifier", "kid_classifier", lambda trial: trial.metrics["kid_classifier"]),
        ("generator_parameters", "generator_parameters", lambda trial: trial.metrics["generator_parameters"]),
        ("final_recall", "final_recall", lambda trial: -trial.metrics.get("final_recall", -1)),
    ],
)
def test_the_best_by_a_metric_is_the_survivor_that_has_most_of_it(made, name, full, value):
    winner = find_winner(made, by=name)
    assert winner.by == full
    assert value(winner.trial) == min(map(value, alive(made)))
    assert [value(trial) for trial in winner.ranked] == sorted(map(value, winner.ranked))
    assert winner.checkpoint == made.trial_folder(winner.trial.number) / "best.safetensors"


def test_a_collapsed_trial_is_the_best_by_no_metric(made):
    collapsed = [trial.number for trial in made.trials() if trial.state == "collapsed"]
    assert collapsed
    for name in ("rank", "kid", "generator_parameters", "recall"):
        assert not {trial.number for trial in find_winner(made, by=name).ranked} & set(collapsed)


def test_an_unknown_metric_is_told_with_those_that_were_measured(plain):
    with pytest.raises(SpecError, match=r"no trial has `recal`; measured are score, recall, coverage, .*final_"):
        find_winner(plain, by="recal")
    with pytest.raises(SpecError, match="no trial has `loss_d`"):
        metric_named("loss_d", plain.trials(), plain)


def test_every_metric_has_a_direction_under_every_name_it_goes_by():
    for name, way in BETTER.items():
        assert better(name) == better(f"final_{name}") == way
    assert better("fid_inf_rotation") == better("final_kid_classifier") == "lower"
    assert better("loss_d") is better("in_force.lr_g") is better("micro_batches") is None


# The front


def test_a_front_against_costs_holds_whom_no_other_beats(made):
    names, front = pareto(find_winner(made))
    assert names == ["generator_parameters"]

    def point(trial):
        return trial.best_score, trial.metrics["generator_parameters"]

    def beats(one, other):
        return all(a <= b for a, b in zip(one, other, strict=True)) and one != other

    for trial in alive(made):
        beaten = any(beats(point(other), point(trial)) for other in alive(made))
        assert beaten == (trial not in front)


def test_a_front_takes_in_the_metric_that_is_asked_for(plain):
    names, front = pareto(find_winner(plain, by="recall"))
    assert names == ["recall"]
    assert min(trial.best_score for trial in alive(plain)) == front[0].best_score


def test_a_front_of_the_score_alone_is_an_error_that_says_what_to_do(plain):
    with pytest.raises(SpecError, match=r"nothing to weigh the score against; name .* by --metric \(recall, "):
        pareto(find_winner(plain))


def test_a_searchs_own_objectives_make_the_same_front_as_ever(tmp_path):
    space = {**SPACE, "objective": {**SPACE["objective"], "metric": ["fid", "generator_parameters"]}}
    run = make_run(tmp_path, trials=8, running=0, space=space, metrics=measured)
    assert pareto(find_winner(run)) == (["generator_parameters"], run.front(run.trials()))


# The command


def shown(gantune, run, *arguments):
    code, out, err = gantune("best", run.folder, *arguments)
    assert (code, err) == (0, "")
    return out


def test_what_is_shown_by_default_fits_a_screen(gantune, made):
    lines = shown(gantune, made).splitlines()
    winner = find_winner(made)
    assert lines[0].startswith(f"{made.shown}: {COUNT} trials (")
    assert lines[1].startswith(f"best: #{winner.trial.number} fid_classifier {winner.trial.best_score:.4g}, ")
    assert lines[-3].startswith(f"cost: {winner.cost}")
    assert lines[-1] == f"reproduce: gantune replay {winner.label} {made.shown} --out FOLDER"
    assert len(lines) < 55
    assert not [line for line in lines if line.startswith(("behind it", "importances", "front"))]


def test_those_behind_come_in_order_with_what_differs(gantune, plain):
    out = shown(gantune, plain, "--top", 2)
    first, second, third = find_winner(plain).ranked[:3]
    lines = out[out.index("behind it: 2 trials\n") :].splitlines()[1:3]
    for line, trial in zip(lines, (second, third), strict=True):
        assert line.startswith(f"  #{trial.number} {trial.best_score:.4g} at {trial.best_samples_seen:,} samples, ")
        changed = differences(first.parameters, trial.parameters)
        assert next(iter(changed)) in line
        assert (f" and {len(changed) - 4} more" in line) == (len(changed) > 4)


def test_the_best_by_a_metric_is_shown_with_it(gantune, made):
    number = find_winner(made, by="rank").trial.number
    out = shown(gantune, made, "--metric", "rank", "--top", 1, "--pareto")
    assert f"\nbest by rank: #{number} fid_classifier " in out
    assert f"\n  rank {number} at its lowest score\n" in out
    assert "  trial  fid_classifier  generator_parameters  rank\n" in out
    code, _, err = gantune("best", made.folder, "--metric", "nothing")
    assert (code, "no trial has `nothing`; measured are " in err) == (2, True)


def test_a_trial_may_be_chosen_by_its_number(gantune, made):
    assert "\nchosen: #0 fid_classifier " in shown(gantune, made, "--trial", 0)
    assert "\nit is the baseline\n" in shown(gantune, made, "--trial", 0)
    code, _, err = gantune("best", made.folder, "--trial", 99)
    assert (code, err) == (3, f"{made.shown}: trial #99 has not reported; it has #0 to #{COUNT - 1}\n")
    assert gantune("best", made.folder, "--trial", 0, "--metric", "rank")[0] == 2


def test_a_trial_without_a_score_cannot_be_chosen_and_its_cause_is_told(gantune, tmp_path):
    run = make_run(tmp_path, trials=2, running=0, weights=False)
    last = run.results.rows()[-1]
    failed = replace(last, trial=2, state="failed", score=None, best_score=None, cause="out of memory\nat line 3")
    run.results.append(failed)
    code, _, err = gantune("best", run.folder, "--trial", 2)
    assert (code, err) == (3, f"{run.shown}: trial #2 has no score: out of memory\n")


def test_importances_are_computed_where_they_are_asked_for(gantune, plain):
    out = shown(gantune, plain, "--importances")
    line = next(line for line in out.splitlines() if line.startswith("  everywhere: "))
    shares = [float(part.split()[-1]) for part in line.removeprefix("  everywhere: ").split(", ")]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=0.05)


def test_the_same_stands_in_json(gantune, made):
    told = json.loads(shown(gantune, made, "--json", "--top", 3, "--pareto", "--metric", "rank"))
    winner = find_winner(made, by="rank")
    assert told["trial"] == winner.trial.number
    assert told["by"] == "rank"
    assert [one["trial"] for one in told["top"]] == [trial.number for trial in winner.ranked[1:4]]
    assert told["top"][0]["changed"].keys() == differences(winner.trial.parameters, winner.ranked[1].parameters).keys()
    assert {"fid_classifier", "rank", "generator_parameters"} == told["front"][0]["objectives"].keys()
    assert told["cost"]["trials"] == winner.cost.trials
    assert told["reproduce"] == winner.replay
    assert (told["importances"], told["export"], told["files"], told["pushed"]) == (None, None, [], [])


def test_json_tells_how_to_have_weights_back(gantune, tmp_path):
    run = make_run(tmp_path, trials=4, running=0, weights=False)
    told = json.loads(shown(gantune, run, "--json"))
    assert "trains them again, into FOLDER/best.safetensors" in told["let_go"]
    assert f"gantune replay {told['trial']} {run.shown} --out FOLDER" == told["reproduce"]
    code, _, err = gantune("best", run.folder, "--export", "winner")
    assert (code, "trains them again" in err) == (1, True)
    assert not Path("winner").exists()


def test_what_took_over_another_trials_weights_is_not_said_to_repeat(gantune, tmp_path):
    run = make_run(tmp_path, trials=4, running=0)
    number = run.best().number
    rows = [row for row in run.results.rows() if row.trial == number]
    heir = replace(rows[0], cause="takes over #0 at 1,000 samples", run_seconds=rows[0].run_seconds + 0.1)
    run.results.append(replace(heir, best_score=rows[0].best_score))
    assert find_winner(Run(run.folder)).replay is None
    out = shown(gantune, run)
    assert out.endswith("reproduce: not by itself: it took over the weights of another trial\n")


def test_nothing_heavy_is_imported_to_show_the_best(made):
    import subprocess
    import sys

    script = (
        "import sys\nfrom gantune.cli.main import cli\n"
        f"cli(['best', {str(made.folder)!r}, '--top', '3', '--pareto', '--json'], standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'optuna', 'sklearn', 'onnx', 'PIL'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
