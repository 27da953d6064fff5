import io
import itertools
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gantune.compatibility import check_trial, conflict
from gantune.config import NONE, Asha, Component, Constraint, NoScheduler
from gantune.domains import Choice, Constant, FixedDraw, Uniform, contains
from gantune.errors import SpecError
from gantune.space import SearchSpace, load_space, load_trial
from gantune.writing import dump, moved, trial_document

DCGAN = Path(__file__).parent.parent / "search_spaces" / "dcgan.yaml"
SPACE = """\
version: 1
name: small
space:
  architecture: mlp
  loss: {choose: {hinge: {}, wgan_gp: {gp_weight: log 1..20}}}
  optimizer: adam
  lr_g: log 1e-5..1e-2
"""
RULED_SMALL = (
    SPACE
    + """\
  batch_size: [32, 64]
rules:
  - {forbid: {loss: wgan_gp, batch_size: 32}, why: too dear}
"""
)
TRIAL = """\
version: 1
space:
  architecture: mlp
  loss: hinge
  optimizer: adam
  lr_g: 1e-4
"""


@pytest.fixture
def load(tmp_path):
    def load_text(text, *overrides):
        path = tmp_path / "space.yaml"
        path.write_text(text, encoding="utf-8")
        return load_space(path, overrides)

    return load_text


@pytest.fixture
def refused(load, tmp_path):
    def refused_text(text, *overrides):
        with pytest.raises(SpecError) as caught:
            load(text, *overrides)
        error = str(caught.value).replace(f"{tmp_path}/", "")
        assert error.endswith(f"{len(heads(error))} error{'s' * (len(heads(error)) > 1)}. Nothing was started.")
        return error

    return refused_text


def heads(error):
    """Source, line, column and message of every problem in an error's text."""
    return re.findall(r"^(space\.yaml|--set \S*):(\d+):(\d+)  (.*)$", error, re.MULTILINE)


def underlined(error):
    """What the carets of an error stand under."""
    lines = error.splitlines()
    pointers = [(above, re.fullmatch(r" +\| ( *)(\^+).*", line)) for above, line in itertools.pairwise(lines)]
    return [above[found.start(2) : found.end(2)] for above, found in pointers if found]


class RandomDraw:
    """Draws at random and remembers what it answered."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.given = {}

    def suggest_float(self, name, low, high, *, log=False):
        value = self.random.uniform(low, high)
        if log:
            value = min(high, max(low, math.exp(self.random.uniform(math.log(low), math.log(high)))))
        self.given[name] = value
        return value

    def suggest_int(self, name, low, high, *, log=False):
        self.given[name] = self.random.randint(low, high)
        return self.given[name]

    def suggest_categorical(self, name, choices):
        self.given[name] = self.random.choice(choices)
        return self.given[name]


@pytest.fixture(scope="module")
def dcgan():
    return load_space(DCGAN)


# Reading


def test_sections_that_are_left_out_take_their_defaults(load):
    space = load(TRIAL)

    assert space.name == "space"
    assert (space.budget.trials, space.budget.samples_per_trial, space.budget.hours) == (24, 60_000, None)
    assert (space.data.dataset, space.data.size) == ("digits", None)
    assert space.search.scheduler == Asha()
    assert space.baseline is None


def test_sections_are_read_in_their_own_types(load):
    space = load(
        TRIAL
        + "objective: {samples: {report: 200}, constraints: [recall >= 0.3, diversity<=2e1]}\n"
        + "budget: {samples_per_trial: 60_000, hours: 1, target: 12}\n"
        + "search: {sampler: random, scheduler: {asha: {reduction: 4}}, seed: 7}\n"
        + "collapse: {enabled: false}\n"
    )

    assert (space.objective.samples.report, space.objective.samples.final) == (200, 5000)
    assert space.objective.constraints == (
        Constraint(metric="recall", relation=">=", bound=0.3),
        Constraint(metric="diversity", relation="<=", bound=20.0),
    )
    assert type(space.budget.hours) is float
    assert space.search.scheduler == Asha(reduction=4.0)
    assert space.search.seed == 7
    assert space.collapse.enabled is False


def test_parameters_that_are_left_out_are_constants_at_their_defaults(load):
    parameters = load(TRIAL).parameters

    assert parameters["lr_d_ratio"] == Constant(1.0)
    assert parameters["batch_size"] == Constant(64)
    assert "optimizer_d" not in parameters


def test_data_set_that_is_a_file_is_kept_as_an_absolute_path(load, tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)

    assert load(TRIAL + "data: {dataset: pictures}").data.dataset == str((tmp_path / "pictures").resolve())


# Refusals


def test_six_mistakes_are_six_located_messages_in_one_error(refused):
    error = refused(
        "version: 1\n"
        "buget: {trials: 3}\n"
        "collapse: {patience: 1.5}\n"
        "space:\n"
        "  architecture: mlp\n"
        "  loss: [hinge, wasserstien]\n"
        "  optimizer:\n"
        "    choose:\n"
        "      adam: {beta_1: 0..0.9}\n"
        "      sgd: {momentum: 0.9..0.1}\n"
        "  lr_g: log 1e-5..1e-2\n"
        "baseline: {lr_g: fast}\n"
    )

    assert error == (
        "space.yaml:2:1  unknown section `buget`\n"
        "   2 | buget: {trials: 3}\n"
        "     | ^^^^^ did you mean `budget`?\n"
        "space.yaml:3:22  `collapse.patience`: expected a whole number of at least 1, got `1.5`\n"
        "   3 | collapse: {patience: 1.5}\n"
        "     |                      ^^^\n"
        "space.yaml:6:17  unknown loss `wasserstien`\n"
        "   6 |   loss: [hinge, wasserstien]\n"
        "     |                 ^^^^^^^^^^^ did you mean `wasserstein`?\n"
        "space.yaml:9:14  unknown parameter `beta_1` in optimizer.adam\n"
        "   9 |       adam: {beta_1: 0..0.9}\n"
        "     |              ^^^^^^ did you mean `beta1`?\n"
        "space.yaml:10:23  `momentum`: the range is empty: 0.9 is not below 0.1\n"
        "  10 |       sgd: {momentum: 0.9..0.1}\n"
        "     |                       ^^^^^^^^\n"
        "space.yaml:12:18  `lr_g`: expected a number above 0, got `fast`\n"
        "  12 | baseline: {lr_g: fast}\n"
        "     |                  ^^^^ or a range such as `log 1e-5..1e-2`\n"
        "6 errors. Nothing was started."
    )


@pytest.mark.parametrize(
    ("line", "marked", "message"),
    [
        ("datta: {}", "datta", "did you mean `data`?"),
        ("budget: {trails: 3}", "trails", "did you mean `trials`?"),
        ("budget: {trials: 0}", "0", "`budget.trials`: expected a whole number of at least 1, got 0"),
        ("budget: {trials: 3.5}", "3.5", "expected a whole number of at least 1, got `3.5`"),
        ("budget: {trials: true}", "true", "expected a whole number of at least 1, got `True`"),
        ("budget: {hours: .nan}", ".nan", "expected a number above 0, got `nan`"),
        ("budget: {hours: [1, 2]}", "[1, 2]", "only `space:` has choices and ranges"),
        ("budget: {hours: 1..2}", "1..2", "expected a number above 0, got `1..2`"),
        ("budget: {samples_per_trial: 5}", "5", "5 samples cannot hold 12 reports"),
        ("budget: 7", "7", "`budget` must be a block of settings, got `7`"),
        ("budget: {samples: 0}", "0", "`budget.samples`: expected a whole number of at least 1, got 0"),
        ("budget: {samples: 1e6}", "1e6", "`budget.samples`: expected a whole number of at least 1"),
        ("budget: {gpu_hours: -1}", "-1", "`budget.gpu_hours`: expected a number above 0, got -1"),
        ("budget: {cost: 3}", "3", "`budget.cost` needs a price"),
        ("budget: {cost: 3, price_per_hour: 0}", "0", "`budget.price_per_hour`: expected a number above 0, got 0"),
        ("budget: {gpu_hours: 3}\nresources: {gpus_per_trial: 0}", "3", "would never be used up"),
        ("objective: {metric: fit}", "fit", "expected one of fid, fid_inf, kid, got `fit`; did you mean `fid`?"),
        ("objective: {samples: {reports: 100}}", "reports", "unknown setting `reports` in objective.samples"),
        ("objective: {samples: {final: 1}}", "1", "`objective.samples.final`: expected a whole number of at least 64"),
        ("objective: {constraints: [recal >= 0.3]}", "recal >= 0.3", "did you mean `recall`?"),
        ("objective: {constraints: [recall = 1]}", "recall = 1", "for example `recall >= 0.3`"),
        ("objective: {constraints: [recall >= 1.2.3]}", "recall >= 1.2.3", "`1.2.3` is not a number"),
        ("objective: {constraints: 7}", "7", "expected a constraint"),
        ("search: {scheduler: ashaa}", "ashaa", "did you mean `asha`?"),
        ("search: {scheduler: {}}", "scheduler", "known: asha, hyperband, median, pbt, pb2, none"),
        ("search: {scheduler: {asha: {reducton: 2}}}", "reducton", "did you mean `reduction`?"),
        ("search: {scheduler: {asha: {reduction: 1}}}", "1", "expected a number of at least 1.5, got 1"),
        ("collapse: {enabled: off}", "off", "expected true or false, got `off`"),
        ("data: {size: 7}", "7", "expected a whole number of at least 8 and of at most 128, got 7"),
        ("data: {dataset: digit}", "digit", "did you mean `digits`?"),
        ("data: {dataset: 'no_such_module:f'}", "'no_such_module:f'", "No module named 'no_such_module'"),
        ("name: 7", "7", "`name` must be text without a slash, got `7`"),
        ("name: a/b", "a/b", "`name` must be text without a slash, got `a/b`"),
        ("baseline: 7", "7", "expected a block of parameters"),
    ],
)
def test_bad_section_is_refused_where_it_stands_with_its_remedy(refused, line, marked, message):
    error = refused(SPACE.replace("name: small\n", "") + line)

    assert message in error
    assert len(heads(error)) == 1
    assert heads(error)[0][:2] == ("space.yaml", "7")
    assert underlined(error) == [marked]


@pytest.mark.parametrize("version", ["2", "'1'", "true", "null", "[1]", "1.5"])
def test_any_version_but_the_number_1_is_refused(refused, version):
    error = refused(SPACE.replace("version: 1", f"version: {version}"))

    assert error.startswith("space.yaml:1:10  expected `version: 1`, got ")
    assert "this gantune reads version 1" in error


def test_missing_version_is_asked_for(refused):
    assert "expected `version: 1`, got nothing" in refused(SPACE.replace("version: 1\n", ""))


@pytest.mark.parametrize("text", ["[a]", "{a: 1}", "'..'", "'.'", "''", r'"a\0b"', "null"])
def test_name_that_cannot_be_a_folder_below_runs_is_refused(refused, text):
    error = refused(SPACE.replace("small", text))

    assert error.startswith("space.yaml:2:7  `name` must be text")
    assert "Node(" not in error


@pytest.mark.parametrize("text", ["data: [digits]", "version: [1]\n", "budget: [[1], 2]"])
def test_refusal_speaks_yaml_and_not_python(refused, text):
    error = refused(SPACE.replace("version: 1\n", "" if "version" in text else "version: 1\n") + text)

    assert "Node(" not in error


@pytest.mark.parametrize("dataset", ["x" * 300, "''", "x/" * 3000, r'"a\0b"'])
def test_data_set_that_cannot_be_a_path_is_refused(refused, dataset):
    assert heads(refused(SPACE + f"data: {{dataset: {dataset}}}"))[0][1:3] == ("8", "17")


def test_setting_outside_its_section_is_one_mistake(refused):
    assert len(heads(refused(SPACE + "dataset: nothing_of_the_kind"))) == 1
    assert len(heads(refused(SPACE + "samples_per_trial: 1"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "data: {size: %s}",
        "budget: {trials: %s}",
        "budget: {samples_per_trial: %s}",
        "budget: {hours: %s}",
        "search: {seed: %s}",
        "objective: {constraints: [recall >= %s]}",
    ],
)
def test_number_too_large_for_any_machine_is_refused(refused, line):
    assert heads(refused(SPACE + line % ("9" * 400)))[0][1] == "8"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  architecture: mlp\n", "", "`architecture` is missing"),
        ("  optimizer: adam\n", "", "`optimizer` is missing"),
        ("  lr_g: log 1e-5..1e-2\n", "", "`lr_g` is missing"),
    ],
)
def test_parameter_without_a_default_must_be_given(refused, old, new, message):
    error = refused(SPACE.replace(old, new))

    assert message in error
    assert underlined(error) == ["space"]


@pytest.mark.parametrize("text", ["version: 1\n", "version: 1\nspace: 7\n", "version: 1\nspace: [a]\n"])
def test_space_must_be_a_block_of_parameters(refused, text):
    assert re.search(r"there is no `space:` section|expected a block of parameters", refused(text))


def test_unknown_parameter_offers_the_nearest_name(refused):
    error = refused(SPACE + "  batchsize: 64\n")

    assert underlined(error) == ["batchsize"]
    assert "unknown parameter `batchsize`" in error
    assert "did you mean `batch_size`?" in error


def test_parameter_of_another_branch_is_unknown(refused):
    error = refused(SPACE.replace("hinge: {}", "hinge: {clip: 0.1}"))

    assert "unknown parameter `clip` in loss.hinge" in error


def test_empty_section_is_never_blamed_on_another_line(load, refused):
    text = TRIAL.replace("  architecture: mlp\n", "  architecture:\n")

    assert heads(refused(text))[0][1] == "3"
    assert heads(refused(TRIAL.replace(" 1e-4", "")))[0][1] == "6"


# Baseline


def with_baseline(baseline, text=SPACE):
    return f"{text}baseline: {baseline}\n"


def test_baseline_is_read_by_full_path(load):
    space = load(with_baseline("{loss: {wgan_gp: {gp_weight: 10}}, lr_g: 1e-4}"))

    assert space.baseline == {"loss": "wgan_gp", "loss.wgan_gp.gp_weight": 10.0, "lr_g": 1e-4}


def test_baseline_need_not_repeat_constants(load):
    space = load(with_baseline("{loss: hinge, lr_g: 1e-4}"))

    config = space.draw(FixedDraw(space.baseline), seed=0)
    assert config.architecture.name == "mlp"
    assert config.optimizer.option("beta1") == 0.5


def test_baseline_may_repeat_constants_as_they_are(load):
    space = load(with_baseline("{architecture: {mlp: {depth: 2}}, loss: hinge, lr_g: 1e-4, batch_size: 64}"))

    assert space.draw(FixedDraw(space.baseline), seed=0).batch_size == 64


BAD_BASELINES = [
    ("{loss: [hinge, wgan_gp], lr_g: 1e-4}", "[hinge, wgan_gp]", "baseline must name one loss"),
    ("{loss: minimax, lr_g: 1e-4}", "minimax", "the space has hinge | wgan_gp"),
    ("{loss: hinge, lr_g: 1}", "1", "baseline's `lr_g` is outside the space"),
    ("{loss: hinge, lr_g: 1e-4..1e-3}", "1e-4..1e-3", "baseline must give `lr_g` one value"),
    ("{loss: hinge, lr_g: [1e-4, 1e-3]}", "[1e-4, 1e-3]", "baseline must give `lr_g` one value"),
    ("{loss: {wgan_gp: {gp_weight: 21}}, lr_g: 1e-4}", "21", "`loss.wgan_gp.gp_weight` is outside the space"),
    ("{loss: {hinge: {d_steps: 2}}, lr_g: 1e-4}", "2", "`loss.hinge.d_steps` is outside the space"),
    ("{loss: hinge, lr_g: 1e-4, batch_size: 32}", "32", "`batch_size` is outside the space"),
    ("{loss: hinge, lr_g: 1e-4, optimizer_d: sgd}", "sgd", "which the space does not have"),
    ("{loss: hinge}", "baseline", "baseline leaves `lr_g` open"),
    ("{lr_g: 1e-4}", "baseline", "baseline leaves `loss` open"),
    ("{loss: wgan_gp, lr_g: 1e-4}", "baseline", "baseline leaves `loss.wgan_gp.gp_weight` open"),
    ("{loss: hing, lr_g: 1e-4}", "hing", "did you mean `hinge`?"),
    ("{loss: hinge, lr_g: -1}", "-1", "expected a number above 0, got -1"),
    ("{loss: hinge, lrg: 1e-4}", "lrg", "did you mean `lr_g`?"),
]


@pytest.mark.parametrize(("baseline", "marked", "message"), BAD_BASELINES)
def test_bad_baseline_is_refused_where_it_stands(refused, baseline, marked, message):
    error = refused(with_baseline(baseline))

    assert message in error
    assert underlined(error) == [marked]


def test_everything_outside_the_space_is_told_at_once(refused):
    error = refused(with_baseline("{loss: minimax, lr_g: 1, batch_size: 2}"))

    assert underlined(error) == ["minimax", "1", "2"]


def test_baseline_that_is_no_whole_number_is_outside_a_range_of_whole_numbers(refused):
    error = refused(with_baseline("{lr_d_ratio: 2.5}", TRIAL + "  lr_d_ratio: int 1..4\n"))

    assert "baseline's `lr_d_ratio` is outside the space" in error


def test_baseline_that_cannot_be_trained_is_refused_with_the_reason(refused):
    text = SPACE.replace("mlp", "{dcgan: {norm_d: [batch, none]}}")
    error = refused(
        with_baseline("{architecture: {dcgan: {norm_d: batch}}, loss: {wgan_gp: {gp_weight: 10}}, lr_g: 1e-4}", text)
    )

    assert "the baseline cannot be trained" in error
    assert "use norm_d: layer, instance, spectral or none" in error


# Files that extend others


@pytest.fixture
def over(tmp_path, load):
    """Loads a text that extends another, which lies beside it."""

    def load_over(text, under, *overrides):
        (tmp_path / "under.yaml").write_text(under, encoding="utf-8")
        return load(f"extends: under.yaml\n{text}", *overrides)

    return load_over


@pytest.fixture
def refused_over(over, tmp_path):
    def refused_text(text, under, *overrides):
        with pytest.raises(SpecError) as caught:
            over(text, under, *overrides)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return refused_text


def test_space_laid_over_another_is_the_space_written_out(over, load):
    under = with_first(
        "{loss: hinge, lr_g: 2e-4}", text=with_baseline("{loss: hinge, lr_g: 1e-4, batch_size: 32}", RULED_SMALL)
    )
    space = over(
        "name: mine\n"
        "budget: {trials: 7}\n"
        "space:\n"
        "  loss: {choose: {wgan_gp: {gp_weight: 5}, minimax: {}}}\n"
        "  optimizer: {sgd: {momentum: 0.5}}\n"
        "  batch_size: null\n"
        "rules: null\n"
        "baseline: {lr_g: 3e-4, batch_size: null}\n",
        under,
        "budget.hours=2",
    )

    assert space == load(
        "version: 1\n"
        "name: mine\n"
        "budget: {trials: 7, hours: 2}\n"
        "space:\n"
        "  architecture: mlp\n"
        "  loss: {choose: {hinge: {}, wgan_gp: {gp_weight: 5}, minimax: {}}}\n"
        "  optimizer: {sgd: {momentum: 0.5}}\n"
        "  lr_g: log 1e-5..1e-2\n"
        "baseline: {loss: hinge, lr_g: 3e-4}\n"
        "first: [{loss: hinge, lr_g: 2e-4}]\n"
    )


def test_document_of_a_space_that_extends_another_stands_alone(over, load):
    space = over("budget: {trials: 7}\n", RULED_SMALL)

    assert "extends" not in space.document()
    assert space.rules
    assert load(dump(space.document())) == space


def test_space_without_a_name_is_called_as_its_own_file_and_not_as_the_one_it_extends(over):
    assert over("", SPACE).name == "space"


def test_one_trial_may_extend_a_space(tmp_path):
    (tmp_path / "under.yaml").write_text(with_baseline("{loss: hinge, lr_g: 1e-4}", RULED_SMALL), encoding="utf-8")
    text = "extends: under.yaml\nspace: {loss: hinge, lr_g: 1e-3, batch_size: 32}\n"
    (tmp_path / "space.yaml").write_text(text, encoding="utf-8")

    assert load_trial(tmp_path / "space.yaml").lr_g == 1e-3


@pytest.mark.parametrize(
    ("text", "under", "place", "message"),
    [
        ("", SPACE.replace("mlp", "mpl"), "under.yaml:4:17", "did you mean `mlp`?"),
        ("space: {lr_g: fast}", SPACE, "space.yaml:2:15", "expected a number above 0, got `fast`"),
        ("budget: {trials: 7}", SPACE + "budget: {hours: no}\n", "under.yaml:8:17", "got `no`"),
        ("budgt: {trials: 7}", SPACE, "space.yaml:2:1", "did you mean `budget`?"),
        ("", SPACE + "datta: {}\n", "under.yaml:8:1", "did you mean `data`?"),
        ("space: {loss: {choose: {hinge: {clip: 1}}}}", SPACE, "space.yaml:2:33", "unknown parameter `clip`"),
        ("baseline: {lr_g: 1}", SPACE + "baseline: {loss: hinge}\n", "space.yaml:2:18", "is outside the space"),
        ("space: {loss: minimax}", with_baseline("{loss: hinge, lr_g: 1e-4}"), "under.yaml:8:18", "not in the space"),
        ("space: {optimizer: null}", SPACE, "space.yaml:2:1", "`optimizer` is missing"),
        ("space: null", SPACE, "space.yaml:1:1", "there is no `space:` section"),
        ("", SPACE.replace("version: 1", "version: 2"), "under.yaml:1:10", "expected `version: 1`, got `2`"),
        ("exends: a.yaml", SPACE, "space.yaml:2:1", "did you mean `extends`?"),
    ],
)
def test_mistake_is_told_in_the_file_where_it_stands(refused_over, text, under, place, message):
    error = refused_over(f"{text}\n", under)

    assert error.startswith(f"{place}  ")
    assert message in error
    assert error.endswith("\n1 error. Nothing was started.")


def test_mistakes_of_both_files_and_an_override_are_told_together(refused_over):
    error = refused_over("space: {batch_size: 1}\n", SPACE.replace("adam", "adm"), "lr_g=0")

    assert re.findall(r"^(.+?):\d+:\d+  ", error, re.MULTILINE) == ["--set lr_g", "space.yaml", "under.yaml"]
    assert underlined(error) == ["0", "1", "adm"]


def test_override_cannot_extend(refused):
    assert "`extends` cannot be set" in refused(SPACE, "extends=other.yaml")


@pytest.mark.parametrize("seed", range(2))
def test_damage_to_either_of_two_files_is_a_space_or_a_refusal_located_in_one_of_them(over, tmp_path, seed):
    draw = random.Random(seed)
    upper = "budget: {trials: 7}\nspace:\n  lr_g: log 1e-4..1e-2\n  loss: {choose: {hinge: null}}\nbaseline: null\n"
    under = DCGAN.read_text(encoding="utf-8")
    assert list(over(upper, under).parameters["loss"].options)[-1] == "wgan_gp"
    for number in range(40):
        texts = [damaged(upper, draw), under] if number % 2 else [upper, damaged(under, draw)]
        told = complaint(lambda text, texts=texts: over(*texts), "")
        assert told is None or re.match(rf"{tmp_path}/(space|under)\.yaml:\d+:\d+  ", told), texts


# Further first configurations


def with_first(*given, text=SPACE):
    return f"{text}first:\n" + "".join(f"  - {each}\n" for each in given)


def test_first_configurations_are_read_as_the_baseline_is_and_follow_it(load):
    given = ["{loss: hinge, lr_g: 1e-4}", "{loss: {wgan_gp: {gp_weight: 10}}, lr_g: 2e-4}"]
    space = load(with_first(*given, text=with_baseline("{loss: hinge, lr_g: 3e-4}")))

    assert space.first == tuple(load(with_baseline(each)).baseline for each in given)
    assert space.given() == [space.baseline, *space.first]
    assert [space.draw(FixedDraw(values), seed=0).lr_g for values in space.given()] == [3e-4, 1e-4, 2e-4]


def test_first_configurations_need_no_baseline(load):
    space = load(with_first("{loss: hinge, lr_g: 1e-4}"))

    assert space.baseline is None
    assert space.given() == [{"loss": "hinge", "lr_g": 1e-4}]


@pytest.mark.parametrize("text", ["", "first: []\n", "first: null\n", "first:\n"])
def test_space_may_give_no_configurations(load, text):
    assert load(SPACE + text).given() == []


@pytest.mark.parametrize(("baseline", "marked", "message"), BAD_BASELINES)
def test_bad_first_configuration_is_refused_in_the_words_of_the_baseline(refused, baseline, marked, message):
    error = refused(with_first("{loss: hinge, lr_g: 1e-4}", baseline))

    assert message.replace("baseline", "first") in error
    assert "baseline" not in error
    assert underlined(error) == [baseline if marked == "baseline" else marked]


def test_each_bad_first_configuration_is_told(refused):
    given = ["{loss: minimax, lr_g: 1}", "{loss: hinge}", "{loss: hing, lr_g: 1e-4}", "7", "{loss: hinge, lr_g: 2}"]
    error = refused(with_first(*given, text=with_baseline("{loss: hinge, lr_g: 4}")))

    assert underlined(error) == ["4", "minimax", "1", "{loss: hinge}", "hing", "7", "2"]
    assert "--set baseline=null drops it" in error
    assert "--set first=null drops it" in error


def test_first_must_be_a_list(refused):
    error = refused(SPACE + "first: {loss: hinge, lr_g: 1e-4}\n")

    assert "`first` must be a list of configurations, got a block" in error


def test_first_configuration_that_cannot_be_trained_is_refused_with_the_reason(refused):
    text = SPACE.replace("mlp", "{dcgan: {norm_d: [batch, none]}}")
    conflicting = "{architecture: {dcgan: {norm_d: batch}}, loss: {wgan_gp: {gp_weight: 10}}, lr_g: 1e-4}"
    ruled_out = "{architecture: {dcgan: {norm_d: none}}, loss: hinge, lr_g: 5e-3}"
    error = refused(with_first(conflicting, ruled_out, text=ruled("{lr_g: 1e-3..1e-2}", text=text)))

    assert "the first cannot be trained: loss.wgan_gp does not go with architecture.dcgan.norm_d: batch" in error
    assert "the first cannot be trained: a rule forbids lr_g: 0.005: too dear" in error
    assert underlined(error) == [conflicting, ruled_out]


# Rules


RULED = """\
version: 1
space:
  architecture: {choose: {mlp: {depth: int 1..4}, dcgan: {norm_d: [layer, spectral, none]}}}
  loss: {choose: {hinge: {}, minimax: {}, wgan_gp: {gp_weight: log 1..20}}}
  optimizer: adam
  lr_g: log 1e-5..1e-2
  batch_size: [32, 64, 128]
"""
RULES = {
    "{loss: wgan_gp, architecture.dcgan.norm_d: layer}": lambda values: (
        values["loss"] == "wgan_gp" and values.get("architecture.dcgan.norm_d") == "layer"
    ),
    "{loss: [hinge, minimax], batch_size: [32, 128]}": lambda values: (
        values["loss"] != "wgan_gp" and values["batch_size"] != 64
    ),
    "{lr_g: 1e-3..1}": lambda values: values["lr_g"] >= 1e-3,
    "{loss.wgan_gp.gp_weight: 5..7, architecture: mlp}": lambda values: (
        5 <= values.get("loss.wgan_gp.gp_weight", 0) <= 7 and values["architecture"] == "mlp"
    ),
    "{architecture.mlp.depth: int 2..3}": lambda values: values.get("architecture.mlp.depth") in (2, 3),
    "{optimizer.adam.beta2: 0.9..0.9999, batch_size: 64}": lambda values: values["batch_size"] == 64,
}


def ruled(forbid, why="too dear", text=RULED):
    return f"{text}rules:\n  - {{forbid: {forbid}, why: {why}}}\n"


@pytest.mark.parametrize("forbid", RULES)
def test_rule_forbids_what_meets_all_its_conditions_and_nothing_else(load, forbid):
    space = load(ruled(forbid))
    seen = set()
    for seed in range(300):
        config = space.draw(RandomDraw(seed), seed=0)
        reason = space.conflict(config)
        seen.add(reason is None)
        assert (reason is not None) == (conflict(config) is not None or RULES[forbid](config.parameters()))

    assert seen == {True, False}


def test_rule_gives_its_reason_and_the_values_that_met_it(load):
    space = load(ruled("{loss: [hinge, wgan_gp], lr_g: 1e-3..1e-2}", "'it oscillates: see the note'"))
    values = {"architecture": "mlp", "architecture.mlp.depth": 1, "loss": "hinge", "lr_g": 0.002, "batch_size": 32}

    assert space.conflict(space.draw(FixedDraw(values), seed=0)) == (
        "a rule forbids loss: hinge and lr_g: 0.002: it oscillates: see the note"
    )
    assert space.conflict(space.draw(FixedDraw({**values, "lr_g": 0.0002}), seed=0)) is None


def test_rules_in_block_notation_are_those_in_flow_notation(load):
    block = "rules:\n  - forbid:\n      loss:\n        - hinge\n        - minimax\n      lr_g: 1e-3..1e-2\n"
    block += "    why: too dear\n"

    assert load(RULED + block) == load(ruled("{loss: [hinge, minimax], lr_g: 1e-3..1e-2}"))


def test_what_components_refuse_is_told_before_what_rules_forbid(mixed, load):
    space = replace(mixed, rules=load(ruled("{loss: wgan_gp}")).rules)
    config = next(config for seed in range(400) if conflict(config := space.draw(RandomDraw(seed), seed=0)) is not None)

    assert space.conflict(config) == conflict(config)


@pytest.mark.parametrize("text", ["", "rules: []\n", "rules: null\n", "rules:\n"])
def test_space_without_rules_forbids_nothing(load, text):
    assert load(RULED + text).rules == ()


def test_override_drops_the_rules(load):
    assert load(ruled("{loss: hinge}"), "rules=null").rules == ()


@pytest.mark.parametrize(
    ("rule", "marked", "message"),
    [
        ("{forbid: {lss: hinge}, why: x}", "lss", "did you mean `loss`?"),
        ("{forbid: {loss.wgan_gp.weight: 5}, why: x}", "loss.wgan_gp.weight", "did you mean `loss.wgan_gp.gp_weight`?"),
        (
            "{forbid: {architecture.norm_d: none}, why: x}",
            "architecture.norm_d",
            "did you mean `architecture.mlp.norm_d`?",
        ),
        ("{forbid: {optimizer_d: sgd}, why: x}", "optimizer_d", "which the space does not have"),
        ("{forbid: {penalty: none}, why: x}", "penalty", "which the space does not have"),
        ("{forbid: {loss: hing}, why: x}", "hing", "did you mean `hinge`?"),
        ("{forbid: {loss: least_squares}, why: x}", "least_squares", "expected one of hinge, minimax, wgan_gp"),
        ("{forbid: {loss: {wgan_gp: {gp_weight: 5}}}, why: x}", "{wgan_gp: {gp_weight: 5}}", "by their full path"),
        ("{forbid: {batch_size: 256}, why: x}", "256", "`batch_size` is never 256"),
        ("{forbid: {batch_size: [32, 256]}, why: x}", "256", "the space has [32, 64, 128]; --set rules=null drops"),
        ("{forbid: {lr_g: 0.1..1}, why: x}", "0.1..1", "`lr_g` is never in 0.1..1"),
        ("{forbid: {lr_g: 1}, why: x}", "1", "`lr_g` is never 1"),
        ("{forbid: {batch_size: 65..100}, why: x}", "65..100", "`batch_size` is never in int 65..100"),
        ("{forbid: {lr_d_ratio: 2..4}, why: x}", "2..4", "the space has 1;"),
        ("{forbid: {lr_g: fast}, why: x}", "fast", "or a range such as `log 1e-5..1e-2`"),
        ("{forbid: {lr_g: []}, why: x}", "[]", "`lr_g` has no choices"),
        ("{forbid: {lr_g: }, why: x}", "lr_g", "`lr_g`: expected a number above 0, got nothing"),
        ("{forbid: {batch_size: 32}}", "{forbid: {batch_size: 32}}", "a rule needs `why`, its reason in words"),
        ("{forbid: {batch_size: 32}, why: ''}", "''", "a rule needs `why`"),
        ("{forbid: {batch_size: 32}, why: 7}", "7", "got `7`"),
        ("{forbid: {batch_size: 32}, why: x, because: y}", "because", "unknown setting `because` in a rule"),
        ("{why: x}", "{why: x}", "a rule needs `forbid`"),
        ("{forbid: {}, why: x}", "{}", "a rule needs `forbid`"),
        ("{forbid: hinge, why: x}", "hinge", "a rule needs `forbid`"),
        ("hinge", "hinge", "a rule must be a block, got `hinge`"),
    ],
)
def test_bad_rule_is_refused_where_it_stands_with_its_remedy(refused, rule, marked, message):
    error = refused(f"{RULED}rules:\n  - {rule}\n")

    assert message in error
    assert underlined(error) == [marked]


def test_rules_must_be_a_list(refused):
    error = refused(RULED + "rules: {forbid: {loss: hinge}, why: x}\n")

    assert "`rules` must be a list, got a block" in error


def test_form_of_a_rule_is_judged_even_where_the_space_is_wrong(refused):
    error = refused(ruled("{batch_size: 32}", "[]", RULED.replace("log 1e-5..1e-2", "fast")))

    assert underlined(error) == ["fast", "[]"]


def test_baseline_that_a_rule_forbids_is_refused_with_the_reason(refused):
    error = refused(with_baseline("{loss: hinge, lr_g: 5e-3}", ruled("{lr_g: 1e-3..1e-2}", text=SPACE)))

    assert "the baseline cannot be trained: a rule forbids lr_g: 0.005: too dear" in error
    assert underlined(error) == ["baseline"]


def test_one_trial_is_not_held_to_the_rules_of_a_search(tmp_path):
    path = tmp_path / "trial.yaml"
    path.write_text(ruled("{batch_size: 32}", text=RULED), encoding="utf-8")

    assert load_trial(path, ["architecture=mlp", "loss=hinge", "lr_g=1e-3", "batch_size=16"]).batch_size == 16


# Overrides


def test_override_of_a_section_makes_it_where_the_file_lacks_it(load):
    space = load(SPACE, "budget.trials=3", "objective.samples.report=100", "search.scheduler=none")

    assert space.budget.trials == 3
    assert space.objective.samples.report == 100
    assert space.search.scheduler == NoScheduler()


def test_override_reaches_a_parameter_of_a_branch_by_its_own_path(load):
    space = load(SPACE, "loss.wgan_gp.gp_weight=5", "loss.hinge.d_steps=log 1..4")

    assert list(space.parameters["loss"].options) == ["hinge", "wgan_gp"]
    assert space.parameters["loss"].options["wgan_gp"]["gp_weight"] == Constant(5.0)
    assert space.parameters["loss"].options["hinge"]["d_steps"] == Uniform(low=1, high=4, log=True, integer=True)


def test_override_of_a_branch_replaces_its_choices(load):
    assert list(load(SPACE, "loss=hinge").parameters["loss"].options) == ["hinge"]
    assert list(load(SPACE, "loss=[minimax, hinge]").parameters["loss"].options) == ["minimax", "hinge"]


def test_override_by_the_path_that_check_prints_fixes_that_parameter_alone(dcgan):
    for path, domain in dcgan.searched().items():
        if "." not in path:
            continue
        kind, name, option = path.split(".")
        anywhere = domain.values[0] if isinstance(domain, Choice) else int(domain.low) if domain.integer else domain.low
        value = dcgan.baseline.get(path, anywhere)
        fixed = load_space(DCGAN, [f"{path}={value}"])

        assert fixed.parameters[kind].options[name][option] == Constant(value)
        assert fixed.searched().keys() == dcgan.searched().keys() - {path}


@pytest.mark.parametrize(
    ("override", "column", "message"),
    [
        ("budget.trials=3.5", 15, "`budget.trials`: expected a whole number of at least 1, got `3.5`"),
        ("budget.trails=3", 1, "did you mean `trials`?"),
        ("lr_g=-1", 6, "`lr_g`: expected a number above 0, got -1"),
        ("lr_g=", 6, "`lr_g`: expected a number above 0, got nothing"),
        ("lr_g=[1, 0]", 10, "`lr_g`: expected a number above 0, got 0"),
        ("lr_g.x=1", 8, "`lr_g` is not a component"),
        ("loss.hinge.clip=1", 1, "unknown parameter `clip` in loss.hinge"),
        ("loss.hing.d_steps=1", 1, "unknown loss `hing`"),
        ("loss=hing", 6, "did you mean `hinge`?"),
        ("space=1", 7, "expected a block of parameters"),
        ("version=2", 9, "expected `version: 1`, got `2`"),
        ("batchsize=64", 1, "did you mean `batch_size`?"),
        ("buget.trials=8", 1, "did you mean `budget`?"),
    ],
)
def test_bad_override_is_refused_at_the_argument(refused, override, column, message):
    error = refused(SPACE, override)

    assert error.startswith(f"--set {override.partition('=')[0]}:1:{column}  ")
    assert f"\n   1 | {override}\n" in error
    assert message in error


def test_mistakes_of_file_and_override_are_told_together(refused):
    error = refused(SPACE + "buget: {}\n", "lr_g=0")

    assert [head[0] for head in heads(error)] == ["--set lr_g", "space.yaml"]


# Drawing


@pytest.mark.parametrize("first", [0, 25])
def test_trial_written_and_read_back_is_equal(dcgan, tmp_path, first):
    for seed in range(first, first + 25):
        config = dcgan.draw(RandomDraw(seed), seed=seed)
        path = tmp_path / f"{seed}.yaml"
        path.write_text(dump(trial_document(config)), encoding="utf-8")

        assert load_trial(path) == config


@pytest.mark.parametrize(
    "text",
    [
        "off",
        "1e-4",
        "60_000",
        "true",
        "null",
        "~",
        "",
        " x ",
        "a: b",
        "# no",
        "[x",
        "*a",
        "!t",
        "é",
        "1..2",
        "'",
        "a\nb",
        "2024-05-01",
        "x " * 200,
        "=",
        "\t",
        "a\\b",
        '"',
        "<<",
        "%x",
        "---",
    ],
)
def test_text_survives_being_written_and_read_back(dcgan, tmp_path, text):
    config = dcgan.draw(RandomDraw(0), seed=0)
    config = replace(config, data=replace(config.data, label_column=text))
    path = tmp_path / "trial.yaml"
    path.write_text(dump(trial_document(config)), encoding="utf-8")

    assert load_trial(path) == config


def test_a_trial_is_read_with_its_data_at_another_place(dcgan, tmp_path):
    config = dcgan.draw(RandomDraw(0), seed=0)
    path = tmp_path / "trial.yaml"
    path.write_text(dump(trial_document(replace(config, data=replace(config.data, dataset="/gone")))), encoding="utf-8")
    place = tmp_path / "a place, ü \U0001f600 #1"
    place.mkdir()
    assert load_trial(path, moved(str(place))) == replace(config, data=replace(config.data, dataset=str(place)))


def test_trial_with_everything_set_survives_being_written_and_read_back(load, tmp_path):
    space = load(
        SPACE
        + "  optimizer_d: {sgd: {momentum: 0.1, nesterov: true}}\n  ema_halflife_samples: 0\n  lr_d_ratio: int 1..4\n"
        + "budget: {target: 0.1, samples_per_trial: 60_001}\n"
        + "objective: {constraints: [recall >= 0.3333333333, diversity <= 1e-07]}\n"
        + "collapse: {enabled: false, warmup: 0, min_diversity: 1e-9}\n"
    )
    config = space.draw(RandomDraw(0), seed=2**62)
    path = tmp_path / "trial.yaml"
    path.write_text(dump(trial_document(config)), encoding="utf-8")

    assert load_trial(path) == config


def test_draw_depends_only_on_the_drawn_values_and_the_seed(dcgan):
    for seed in range(50):
        draw = RandomDraw(seed)
        config = dcgan.draw(draw, seed=7)

        assert dcgan.draw(RandomDraw(seed), seed=7) == config
        assert dcgan.draw(FixedDraw(draw.given), seed=7) == config
        assert dcgan.draw(FixedDraw(draw.given), seed=8) == replace(config, seed=8)


def test_draw_asks_for_the_open_parameters_of_the_branches_it_takes_and_no_others(dcgan):
    for seed in range(50):
        draw = RandomDraw(seed)
        parameters = dcgan.draw(draw, seed=0).parameters()

        assert draw.given.keys() == dcgan.searched().keys() & parameters.keys()
        assert draw.given == {path: parameters[path] for path in draw.given}


def test_every_drawn_value_is_in_its_domain_and_of_its_type(dcgan):
    searched = dcgan.searched()
    for seed in range(50):
        draw = RandomDraw(seed)
        for path, value in dcgan.draw(draw, seed=0).parameters().items():
            if path in searched:
                assert contains(searched[path], value)
            if path.endswith(("batch_size", "depth", "d_steps", "width", "hidden")):
                assert type(value) is int


def test_parameters_exist_only_inside_their_branch(dcgan):
    for seed in range(50):
        parameters = dcgan.draw(RandomDraw(seed), seed=0).parameters()
        for path in parameters:
            if "." in path:
                kind, name, _ = path.split(".")
                assert parameters[kind] == name


def test_branch_is_listed_before_its_parameters(dcgan):
    order = list(dcgan.searched())

    assert order[:3] == ["architecture", "architecture.dcgan.width", "architecture.dcgan.norm_d"]
    for place, path in enumerate(order):
        if "." in path:
            assert order.index(path.split(".")[0]) < place


def test_branch_of_one_is_not_searched_but_its_parameters_are(load):
    space = load(SPACE, "loss={wgan_gp: {gp_weight: 1..20}}")

    assert list(space.searched()) == ["loss.wgan_gp.gp_weight", "lr_g"]
    assert space.draw(RandomDraw(0), seed=0).loss.name == "wgan_gp"


def test_baseline_is_a_draw(dcgan):
    parameters = dcgan.draw(FixedDraw(dcgan.baseline), seed=0).parameters()

    assert dcgan.baseline.items() <= parameters.items()
    assert all(contains(dcgan.searched()[path], value) for path, value in dcgan.baseline.items())


def test_a_grid_names_every_range_that_it_cannot_hold(load):
    text = """
version: 1
data: {dataset: digits, size: 8}
search: {sampler: grid}
space:
  architecture: {choose: {mlp: {depth: int 2..4}, dcgan: {width: log int 4..8}}}
  loss: {wgan_gp: {gp_weight: log 1..20}}
  optimizer: adam
  lr_g: [1e-3, 1e-4]
  lr_d_ratio: 1..2
"""
    with pytest.raises(SpecError) as caught:
        load(text)
    told = str(caught.value)
    assert ":6:66  `width`: a grid cannot hold the range log int 4..8" in told
    assert ":7:31  `gp_weight`: a grid" in told
    assert ":10:15  `lr_d_ratio`: a grid" in told
    assert "3 errors" in told
    assert told.count("list its values, or use another search.sampler") == 3
    assert load(text.replace("grid", "qmc")).search.sampler == "qmc"


def test_rungs_are_fractions_of_the_budget(load, dcgan):
    assert dcgan.rungs() == [7200, 14_400, 28_800, 57_600]
    assert load(SPACE, "search.scheduler=none").rungs() == []
    assert load(SPACE, "search.scheduler.asha.first_rung=1").rungs() == []
    assert load(
        SPACE, "budget.samples_per_trial=1000", "search.scheduler.asha={first_rung: 0.1, reduction: 2}"
    ).rungs() == [
        100,
        200,
        400,
        800,
    ]


@pytest.mark.parametrize("first_rung", ["1e-9", "0.001", "0.05", "0.3", "0.999", "0.9999"])
@pytest.mark.parametrize("reduction", ["1.5", "3"])
def test_rungs_rise_strictly_within_the_budget(load, first_rung, reduction):
    asha = f"search.scheduler.asha={{first_rung: {first_rung}, reduction: {reduction}}}"
    rungs = load(SPACE, "budget.samples_per_trial=12", asha).rungs()

    assert all(0 < rung < 12 for rung in rungs)
    assert rungs == sorted(set(rungs))


# One trial


def test_trial_takes_its_seed_and_budget_from_the_file(tmp_path):
    path = tmp_path / "trial.yaml"
    path.write_text(TRIAL + "search: {seed: 5}\nbudget: {samples_per_trial: 7_000, target: 3}\n", encoding="utf-8")
    config = load_trial(path, ["lr_d_ratio=4"])

    assert (config.seed, config.samples, config.target) == (5, 7000, 3.0)
    assert config.lr_d == pytest.approx(4e-4)


def test_trial_with_open_parameters_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "trial.yaml"
    path.write_text(SPACE, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_trial(path)

    assert str(caught.value).startswith(f"{path}: 3 parameters are open (loss ...)")
    assert "--set loss=VALUE" in str(caught.value)
    assert "`gantune search`" in str(caught.value)
    assert str(caught.value).endswith("Nothing was started.")


def test_open_parameters_are_fixed_as_the_remedy_says():
    components = ["architecture=mlp", "loss=hinge", "penalty=none", "optimizer=sgd"]
    config = load_trial(DCGAN, [*components, "lr_g=1e-3", "lr_d_ratio=2", "batch_size=32"])

    assert (config.architecture.name, config.lr_g, config.batch_size) == ("mlp", 1e-3, 32)


# Conflicts


@pytest.fixture
def mixed(load):
    return load(
        SPACE.replace("mlp", "{choose: {mlp: {}, dcgan: {norm_d: [batch, layer, spectral, none]}}}").replace(
            "hinge: {}", "hinge: {}, wasserstein: {clip: [0, 0.01]}"
        )
        + "  penalty: [none, gradient_penalty]\n"
    )


def test_penalty_goes_with_no_batch_norm_no_clip_and_no_other_and_a_critic_is_always_bounded(mixed):
    seen = set()
    for seed in range(400):
        config = mixed.draw(RandomDraw(seed), seed=0)
        penalised = config.penalty.name != "none" or config.loss.name == "wgan_gp"
        mixing = config.architecture.option("norm_d") == "batch"
        spectral = config.architecture.option("norm_d") == "spectral"
        clipped = bool(config.loss.option("clip"))
        twice = config.penalty.name != "none" and config.loss.name == "wgan_gp"
        unbounded = config.loss.name == "wasserstein" and not (clipped or penalised or spectral)
        seen.add((penalised, mixing, clipped))

        refused = (penalised and (mixing or clipped)) or (clipped and spectral) or twice or unbounded
        assert (conflict(config) is not None) == refused

    assert len(seen) == 8


def test_conflict_names_both_parts_and_the_way_out(mixed):
    config = replace(
        mixed.draw(RandomDraw(0), seed=0),
        architecture=Component(name="dcgan", options=(("norm_d", "batch"),)),
        loss=Component(name="wgan_gp", options=(("gp_weight", 10.0),)),
        penalty=NONE,
    )
    with pytest.raises(SpecError) as caught:
        check_trial(config)

    assert str(caught.value).startswith("loss.wgan_gp does not go with architecture.dcgan.norm_d: batch: the gradient")
    assert str(caught.value).endswith("; use norm_d: layer, instance, spectral or none. Nothing was started.")


def test_trial_whose_parts_go_together_is_not_refused(dcgan):
    check_trial(dcgan.draw(FixedDraw(dcgan.baseline), seed=0))


# Documents


SPACES = [
    "lr_g=[0.1, 0.12345671]",
    "lr_g=log 1e-5..0.0123456789",
    "ema_halflife_samples=0..10_000_001",
    "lr_d_ratio=log int 1..1_000_000",
    "lr_d_ratio=1e-300..1e300",
    "loss=hinge",
    "loss=[hinge, minimax]",
    "architecture={choose: {mlp: {norm_d: [layer, none]}, dcgan: {width: 16..64}}}",
    "optimizer_d={sgd: {nesterov: [true, false]}}",
    "search.scheduler=none",
    "search.scheduler.asha.reduction=1.61803398875",
    "objective.constraints=[recall >= 0.3, diversity <= 0.123456789]",
    "budget={target: 1e-9, hours: 0.1}",
    "budget={samples: 1_000_000, gpu_hours: 0.5, cost: 12.34, price_per_hour: 2}",
    "budget={price_per_hour: 2}",
    "resources={gpus_per_trial: 0}",
    "name='7'",
    "name=off",
    "data.label_column='a: b'",
]


@pytest.mark.parametrize("forbid", RULES)
def test_document_of_a_space_with_rules_reads_back_to_an_equal_space(load, forbid):
    more = "  - forbid: {batch_size: 64}\n    why: |\n      two\n      lines\n"
    space = load(ruled(forbid, "'it, the: #reason'") + more)

    assert len(space.rules) == 2
    assert load(dump(json.loads(json.dumps(space.document())))) == space


@pytest.mark.parametrize("override", SPACES)
def test_document_of_a_space_reads_back_to_an_equal_space(load, override):
    space = load(SPACE, override)

    assert load(dump(json.loads(json.dumps(space.document())))) == space


@pytest.mark.parametrize(
    "baseline",
    [
        "{loss: hinge, lr_g: 1e-4}",
        "{loss: {wgan_gp: {gp_weight: 1.23456789}}, lr_g: 0.000123456789}",
        "{architecture: mlp, loss: {hinge: {d_steps: 1}}, optimizer: adam, lr_g: 1e-4, batch_size: 64}",
    ],
)
def test_document_of_a_space_with_a_baseline_reads_back_to_an_equal_space(load, baseline):
    space = load(with_first(baseline, "{loss: hinge, lr_g: 1e-3}", text=with_baseline(baseline)))

    assert len(space.given()) == 3
    assert load(dump(space.document())) == space


def test_document_fills_in_the_defaults(dcgan):
    document = dcgan.document()

    assert document["objective"]["reports"] == 12
    assert document["search"]["scheduler"] == {"asha": {"first_rung": 0.08, "reduction": 2.0, "spared": 0.05}}
    assert document["space"]["loss"]["choose"]["wgan_gp"] == {"gp_weight": "log 1.0..20.0", "d_steps": "int 1..3"}
    assert document["space"]["ema_halflife_samples"] == 2000
    assert document["baseline"]["optimizer"] == {"adam": {"beta1": 0.5, "beta2": 0.999}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("rules=[{forbid: {lr_g: 0.001..1}, why: a}]", "rules=[{forbid: {lr_g: 0.001..1}, why: b}]"),
        ("rules=[{forbid: {lr_g: 0.001..1}, why: a}]", "rules=[{forbid: {lr_g: 0.0010001..1}, why: a}]"),
        ("lr_g=0.12345671..1", "lr_g=0.12345672..1"),
        ("lr_g=1..2", "lr_g=log 1..2"),
        ("lr_d_ratio=1..2", "lr_d_ratio=int 1..2"),
        ("ema_halflife_samples=0..10_000_000", "ema_halflife_samples=0..10_000_001"),
        ("lr_g=[0.1, 0.12345671]", "lr_g=[0.1, 0.12345672]"),
        ("loss=hinge", "loss=minimax"),
        ("objective.constraints=recall >= 0.12345671", "objective.constraints=recall >= 0.12345672"),
    ],
)
def test_spaces_that_differ_have_documents_that_differ(load, one, other):
    first, second = load(SPACE, one), load(SPACE, other)

    assert first != second
    assert first.document() != second.document()


# Damage


def damaged(text, draw):
    at = draw.randrange(len(text))
    character = draw.choice([*map(chr, range(32, 127)), "\t", "\n", "é", "\0", "\x1b"])
    return draw.choice(
        [
            text[:at] + character + text[at + 1 :],
            text[:at] + character + text[at:],
            text[:at] + text[at + 1 :],
        ]
    )


WHOLE = with_first(
    "{architecture: {mlp: {depth: 1}}, loss: {wgan_gp: {gp_weight: 10}}, lr_g: 1e-4, batch_size: 32}",
    "{architecture: {dcgan: {norm_d: none}}, loss: {wgan_gp: {gp_weight: 10}}, lr_g: 1e-4, batch_size: 128}",
    text="".join([ruled(next(iter(RULES))), *(f"  - {{forbid: {forbid}, why: it hurts}}\n" for forbid in RULES)]),
)
WHOLE += "budget: {samples: 1_000_000, hours: 2, gpu_hours: 1.5, cost: 12, price_per_hour: 2.5}\n"
TEXTS = {"dcgan": DCGAN.read_text(encoding="utf-8"), "rules and first": WHOLE}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("seed", range(4))
def test_damaged_file_is_a_space_or_a_located_refusal(load, seed, text):
    draw = random.Random(seed)
    assert complaint(load, text) is None
    for _ in range(50):
        harmed = damaged(text, draw)
        told = complaint(load, harmed)
        assert told is None or located(told, harmed), harmed
        if told is None:
            space = load(harmed)
            assert load(dump(space.document())) == space, harmed


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("seed", range(2))
def test_file_that_is_cut_off_is_a_space_or_a_located_refusal(load, seed, text):
    draw = random.Random(seed)
    for _ in range(30):
        harmed = text[: draw.randrange(len(text))]
        told = complaint(load, harmed)
        assert told is None or located(told, harmed), harmed


def complaint(load, text):
    try:
        assert isinstance(load(text), SearchSpace)
    except SpecError as error:
        return str(error)
    return None


def located(error, text):
    places = re.findall(r"space\.yaml:(\d+):(\d+)  ", error)
    return places and all(1 <= int(line) <= text.count("\n") + 1 for line, _ in places)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "- version: 1\n",
        "---\n---\n",
        SPACE + "---\n" + SPACE,
        SPACE + "x: *nowhere\n",
        SPACE + "x: &a [*a]\n",
        SPACE + "x: &a {<<: *a}\n",
        SPACE + "<<: {version: 1}\n",
        SPACE + "x: !!python/object/apply:os.system [echo]\n",
        SPACE.replace("mlp", "!!python/name:os.system"),
        SPACE.replace("mlp", "!!python/object:os.system {mlp: {}}"),
        SPACE + "x: " + "[" * 2000,
        SPACE + "x: " + "[" * 25 + "]" * 25,
        SPACE.replace("adam", "{choose: {choose: {choose: adam}}}"),
    ],
)
def test_hostile_file_is_a_located_refusal(load, text):
    told = complaint(load, text)

    assert told is not None
    assert located(told, text)
    assert told.endswith("Nothing was started.")


@pytest.mark.parametrize("inner", ["{choose: {hinge: {}}}", "{wgan_gp: {gp_weight: log 1..20}}", "{choose: [1, 2]}"])
def test_a_branch_within_a_branch_is_refused_where_it_stands(refused, inner):
    text = SPACE + f"  penalty: {{choose: {{none: {{}}, r1: {{weight: {inner}}}}}}}\n"
    assert "`weight` is not a component" in refused(text)


AWKWARD = [
    "null",
    "~",
    "true",
    "yes",
    "1e-4",
    "0x1",
    ".5",
    "1_0",
    "",
    " ",
    "a: b",
    "- a",
    "# a",
    "?",
    "&a",
    "*b",
    "{",
    "[",
]
AWKWARD += [
    "@",
    "%",
    "it's",
    'say "x"',
    "\\",
    "a\nb",
    "\t",
    "\x07",
    "\u2028",
    "ü",
    "\U0001f600",
    "x y " * 60,
    "2026-01-01",
]


def by_library(document):
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = 200
    yaml.dump(document, stream)
    return stream.getvalue()


@pytest.mark.parametrize("text", AWKWARD)
def test_text_is_written_as_the_yaml_library_writes_it(text):
    document = {"outer": {"key": text, "list": ["a", text, 1e-05], text: {"inner": 1}, "more": text}}
    assert dump(document) == by_library(document)


def test_document_is_written_as_the_yaml_library_writes_it(dcgan):
    values = {
        "n": None,
        "t": True,
        "i": 10**400,
        "f": 1e22,
        "m": -0.0,
        "inf": math.inf,
        "e": {},
        "l": [],
        "ll": [[1], {}],
    }
    for document in ({}, values, {"e": {}, "n": None}, {"f": [1.5, True, None]}, dcgan.document()):
        assert dump(document) == by_library(json.loads(json.dumps(document)))
