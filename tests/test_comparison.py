import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from made_runs import SPACE, make_run

from gantune.cli.compare import command
from gantune.comparison import compare
from gantune.errors import RunError

OTHER = {**SPACE, "space": {**SPACE["space"], "lr_g": "log 1e-4..1e-3"}, "search": {"sampler": "random"}}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        make_run(folder, trials=10, weights=False, name="one"),
        make_run(folder, trials=10, weights=False, name="two", seed=1, space=OTHER),
    ]


def test_each_side_has_its_runs_own_numbers(pair):
    comparison = compare(pair, top=3)
    for run, side in zip(pair, comparison.sides, strict=True):
        best, trials = run.best(), run.trials()
        assert (side.best.trial, side.best.score) == (best.number, best.best_score)
        lowest = sorted(trial.best_score for trial in trials if trial.survived)[:3]
        assert side.top == pytest.approx(sum(lowest) / 3)
        assert side.baseline == run.baseline(trials).best_score
        ended = [trial.state for trial in trials if trial.state != "running"]
        assert side.collapsed == ended.count("collapsed") / len(ended)


def test_the_curve_ends_at_the_best_and_what_reached_a_score_had_been_spent_by_then(pair):
    comparison = compare(pair, top=1)
    one, two = comparison.sides
    better, worse = (one, two) if one.best.score < two.best.score else (two, one)
    assert worse.reached[better.run] is None
    reached = better.reached[worse.run]
    assert 0 < reached.samples <= better.spending.samples
    assert 0 < reached.hours <= better.spending.hours
    for side in comparison.sides:
        assert side.curve[-1].score == side.best.score
        scores = [step.score for step in side.curve]
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == len(scores)


def test_what_differs_in_the_spaces_is_told_by_path(pair):
    differences = compare(pair, top=1).differences
    assert set(differences) == {"space.lr_g", "search.sampler"}
    assert differences["search.sampler"] == ("tpe", "random")


def test_finalists_under_fresh_seeds_are_told(tmp_path, pair):
    run = make_run(tmp_path, trials=5, running=0, weights=False)
    last = run.results.rows()[-1]
    for repeat, score in ((1, 9.0), (2, 11.0)):
        clock = last.run_seconds + repeat
        row = replace(last, trial=3, repeat=repeat, run_seconds=clock, state="finished", metrics={"final_score": score})
        run.results.append(row)
    confirmed = compare([pair[0], run], top=1).sides[1].confirmed
    assert (confirmed.number, confirmed.mean) == (3, 10.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": "kid_classifier"}, "score is fid_classifier and kid_classifier"),
        ({"space": {**SPACE, "objective": {"samples": {"report": 400}}}}, "samples.report is 500 and 400"),
    ],
)
def test_scores_that_were_measured_otherwise_do_not_compare(tmp_path, pair, changes, words):
    other = make_run(tmp_path, trials=3, weights=False, **changes)
    with pytest.raises(RunError) as caught:
        compare([pair[0], other], top=1)
    assert words in str(caught.value)
    assert "search again with the same data" in str(caught.value)


def test_runs_are_shown_side_by_side_as_text_json_and_page(pair, tmp_path):
    names = [str(run.folder) for run in pair]
    done = CliRunner().invoke(command, [*names, "--plot", str(tmp_path / "curves.html")])
    assert done.exit_code == 0, done.output
    assert "best fid_classifier" in done.output
    assert "never" in done.output
    assert "search.sampler" in done.output
    page = (tmp_path / "curves.html").read_text()
    assert names[0].replace("/", "\\u002f") in page
    assert 'src="http' not in page
    told = json.loads(CliRunner().invoke(command, [*names, "--json"]).output)
    assert [side["run"] for side in told["sides"]] == names


def test_one_run_is_nothing_to_compare(pair):
    name = str(pair[0].folder)
    assert CliRunner().invoke(command, [name]).exit_code == 2
    assert CliRunner().invoke(command, [name, name]).exit_code == 2
