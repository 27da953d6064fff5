"""What people bring themselves: the documentation's examples as they stand, and metrics of one's own."""

import math
import re
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from click.testing import CliRunner
from made_runs import make_run

from gantune.catalogue import catalogue
from gantune.cli.main import cli
from gantune.config import DataConfig
from gantune.data.data_set import open_data
from gantune.driver.study import Study
from gantune.errors import DataError, PluginError, SpecError
from gantune.metrics.own import Seen, measure_own
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.objectives import better, direction_of, own_metrics, point
from gantune.schema import schema
from gantune.space import load_space, load_trial
from gantune.trial import train_trial

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
CPU = torch.device("cpu")
SPACE = {
    "version": 1,
    "name": "mine",
    "data": {"dataset": "data:discs", "size": 16},
    "objective": {
        "metric": ["kid", "metric:ink"],
        "features": "pixels",
        "samples": {"report": 64, "final": 64},
        "reports": 2,
        "constraints": ["metric:ink <= 0.9", "recall >= 0"],
    },
    "collapse": {"enabled": False},
    "budget": {"trials": 2, "samples_per_trial": 640},
    "space": {
        "architecture": {"architecture:plain": {"width": [16, 32]}},
        "loss": {"loss:margin": {"width": "0.5..2"}},
        "optimizer": "adam",
        "lr_g": 1e-3,
    },
}


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def changed(**sections):
    return {**SPACE, **sections}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_is_about_twenty_lines(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 22


def test_examples_are_searched_and_train_together(examples, tmp_path):
    space = load_space(SPACE)
    assert {*space.searched()} == {"architecture.architecture:plain.width", "loss.loss:margin.width"}
    constants = {"architecture": {"architecture:plain": {"width": 16}}, "loss": {"loss:margin": {"width": 0.7}}}
    config = load_trial(changed(space=SPACE["space"] | constants))
    images = open_data(config.data)
    reference = load_reference(prepare_reference(images, config.objective.features))
    reports = list(train_trial(config, images, reference, tmp_path, CPU))
    assert [report.state for report in reports] == ["running", "finished"]
    for report in reports:
        assert report.metrics["metric:ink"] >= 0
    assert "final_metric:ink" in reports[-1].metrics
    again = list(train_trial(config, images, reference, tmp_path / "again", CPU))
    assert [each.metrics["metric:ink"] for each in again] == [each.metrics["metric:ink"] for each in reports]


def test_metric_is_what_its_formula_says(examples):
    dark, bright = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.full((4, 1, 8, 8), 255, dtype=torch.uint8)
    seen = Seen(torch.cat([dark, dark, dark, bright]), bright, torch.zeros(4, 2), torch.zeros(4, 2))
    assert measure_own("metric:ink", seen) == 0.75


def test_constraint_on_a_metric_of_ones_own_keeps_weights_from_winning(examples, tmp_path):
    constants = {"architecture": "architecture:plain", "loss": "loss:margin"}
    strict = SPACE["objective"] | {"constraints": ["metric:ink <= -1"]}
    config = load_trial(changed(space=SPACE["space"] | constants, objective=strict))
    images = open_data(config.data)
    reference = load_reference(prepare_reference(images, config.objective.features))
    reports = list(train_trial(config, images, reference, tmp_path, CPU))
    assert all(report.score is not None and report.best_score is None for report in reports)


def test_check_names_the_metric_with_its_direction(examples, tmp_path):
    from gantune.writing import dump

    (tmp_path / "mine.yaml").write_text(dump(load_space(SPACE).document()), encoding="utf-8")
    done = CliRunner().invoke(cli, ["check", str(tmp_path / "mine.yaml")])
    assert done.exit_code == 0, done.output
    assert "metric:ink (lower is better)" in done.output


def test_space_is_written_and_read_back_and_fits_the_schema(examples):
    space = load_space(SPACE)
    assert load_space(space.document()) == space
    jsonschema.validate(SPACE, schema())
    for wrong in (["kid", "metric-ink"], ["metric:ink", "kid"]):
        objective = SPACE["objective"] | {"metric": wrong}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed(objective=objective), schema())
        with pytest.raises(SpecError):
            load_space(changed(objective=objective))


def test_study_is_told_which_way_it_is_better(examples, tmp_path):
    study = Study(tmp_path / "study.journal", load_space(SPACE), 1.0)
    assert study._lower == [True, True]
    assert point(1.0, ["metric:ink", "recall"], {"metric:ink": 0.3, "recall": 0.4}) == (1.0, 0.3, -0.4)
    assert point(1.0, ["metric:ink"], {}) == (1.0, math.inf)


@pytest.fixture
def metric(tmp_path, monkeypatch):
    """The name of a metric made of a body."""
    made = []

    def make(body, head='@better("higher")\n'):
        name = f"own_metric_{len(made)}"
        made.append(name)
        text = f"from gantune.objectives import better\n{head}def value(seen):\n    {body}\n"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return f"{name}:value"

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    for name in made:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("use", ["objective", "constraint"])
def test_metric_that_does_not_load_or_say_its_direction_is_told_of_with_its_place(metric, use):
    silent = metric("return 1.0", head="")

    def load(name):
        objective = {"metric": ["fid", name]} if use == "objective" else {"constraints": [f"{name} >= 1"]}
        return load_space(changed(data={"dataset": "digits"}, objective=objective, space=PLAIN))

    with pytest.raises(SpecError, match=r"does not say which way is better(.|\n)*@better"):
        load(silent)
    with pytest.raises(SpecError, match="metric `own_metrc:value` cannot be loaded"):
        load("own_metrc:value")
    with pytest.raises(SpecError, match="cannot be loaded"):
        load(silent.replace(":value", ":valu"))


PLAIN = {"architecture": "mlp", "loss": "hinge", "optimizer": "adam", "lr_g": "log 1e-4..1e-3"}


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("raise KeyError('x')", "fails: KeyError"),
        ("return 'much'", "fails: ValueError"),
        ("return float('nan')", "expected a finite number for real examples, got nan"),
    ],
)
def test_metric_that_fails_is_told_of_before_anything_is_trained(metric, body, complaint):
    name = metric(body)
    reference = load_reference(prepare_reference(open_data(DataConfig(size=8))))
    with pytest.raises(PluginError, match=re.escape(f"metric `{name}`")) as caught:
        reference.try_own([name])
    assert complaint in str(caught.value)


def test_metric_that_draws_gives_the_same_samples_the_same_value_and_disturbs_nobody(metric):
    name = metric("import torch; return torch.rand(()) + seen.fake.float().mean()")
    reference = load_reference(prepare_reference(open_data(DataConfig(size=8))))
    seen = Seen(reference.held, reference.held, reference.train, reference.train)
    before = torch.get_rng_state()
    assert measure_own(name, seen) == measure_own(name, seen)
    assert torch.equal(torch.get_rng_state(), before)


def test_metric_of_an_installed_package_has_a_name_and_is_listed(metric, tmp_path):
    name = metric("'How bright.'; return float(seen.fake.float().mean())")
    folder = tmp_path / "own_plugin-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-plugin\nVersion: 1.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text(f"[gantune.metric]\nbright = {name}\n", encoding="utf-8")
    objective = {"metric": ["fid", "bright"], "constraints": ["bright <= 200"]}
    document = changed(data={"dataset": "digits"}, objective=objective, space=PLAIN)
    space = load_space(document)
    assert own_metrics(space.objective) == ("bright",)
    assert point(1.0, ["bright"], {"bright": 3.0}) == (1.0, -3.0)
    jsonschema.validate(document, schema())
    (entry,) = [entry for entry in catalogue("metrics") if entry.name == "bright"]
    assert "Better: higher." in entry.about
    with pytest.raises(SpecError, match=r"(?s)brigt.*did you mean `bright`"):
        load_space(changed(data={"dataset": "digits"}, objective={"constraints": ["brigt <= 200"]}, space=PLAIN))


def test_direction_is_lower_or_higher(metric):
    assert direction_of(metric("return 1.0")) == "higher"
    with pytest.raises(PluginError, match="expected `lower` or `higher`, got `up`"):
        better("up")


def test_run_shows_its_front_by_a_metric_of_ones_own(examples, tmp_path):
    space = load_space(SPACE | {"data": {"dataset": "digits", "size": 16}, "space": PLAIN})
    run = make_run(tmp_path, trials=4, space=space.document(), name="mine")
    done = CliRunner().invoke(cli, ["best", str(run.folder)])
    assert done.exit_code == 0, done.output
    assert "metric:ink" in done.output


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("raise OSError('no camera')", "fails: OSError: no camera"),
        ("return 7", "expected a Source or a DataSet, got a int"),
        ("return Source(identity='x', count=80, class_names=(), examples=iter([1]))", "fails: TypeError"),
        ("return Source(identity='y', count=80, class_names=(), examples=(1 / 0 for _ in 'a'))", "ZeroDivisionError"),
    ],
)
def test_data_set_of_ones_own_that_fails_says_which(tmp_path, monkeypatch, body, complaint):
    name = f"own_data_{len(body)}"
    text = f"from gantune.data.source import Source\n\ndef given(config):\n    {body}\n"
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=f"{name}:given") as caught:
        open_data(DataConfig(dataset=f"{name}:given", size=16))
    assert complaint in str(caught.value)
