import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from made_runs import make_run

from gantune import __version__, export, first_space
from gantune.cli.main import VERBS, cli
from gantune.errors import GantuneError, SpecError
from gantune.first_space import FirstSpace
from gantune.manifest import FORMAT, SECTIONS
from gantune.space import load_space

DCGAN = Path(__file__).parent.parent / "search_spaces" / "dcgan.yaml"
BROKEN = "version: 1\nspace:\n  architecture: mlp\n  loss: hing\n  optimizer: adam\n  lr_g: 2..1\n"
CONFLICTING = "version: 1\nspace:\n  architecture: dcgan\n  loss: wgan_gp\n  optimizer: adam\n  lr_g: 1e-4\n"
HEAVY = ("torch", "torchvision", "ray", "optuna", "sklearn", "scipy")


def python(text, folder):
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )


# Help


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example_of_it(verb):
    result = CliRunner().invoke(cli, [verb, "--help"])

    assert result.exit_code == 0
    assert f"\n  gantune {verb}" in result.output


def test_help_lists_every_verb_with_its_summary(gantune):
    code, out, err = gantune("--help")

    assert (code, err) == (0, "")
    assert "\n  gantune search search_spaces/dcgan.yaml" in out
    for verb, summary in VERBS.items():
        assert f"  {verb} " in out
        assert summary in out


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_the_default_of_every_option_that_has_one(verb):
    command = cli.get_command(None, verb)
    context = click.Context(command, parent=click.Context(cli, **cli.context_settings))
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag and option.name not in ("overrides", "folder"):
            assert "[default: " in option.get_help_record(context)[1]


def test_help_needs_neither_torch_nor_ray_nor_optuna(tmp_path):
    result = python(
        "import sys\n"
        "from gantune.cli.main import VERBS, main\n"
        "for arguments in [['--help'], ['--version'], *[[verb, '--help'] for verb in VERBS]]:\n"
        "    sys.argv = ['gantune', *arguments]\n"
        "    main()\n"
        f"print('imported:', [name for name in {HEAVY} if name in sys.modules])\n",
        tmp_path,
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("imported: []\n")
    assert result.stderr == ""


def test_space_that_names_no_component_is_read_without_torch(tmp_path):
    result = python(
        "import sys\n"
        "import gantune.config, gantune.space, gantune.run, gantune.results, gantune.collapse\n"
        f"print('imported:', [name for name in {HEAVY} if name in sys.modules])\n",
        tmp_path,
    )

    assert result.stdout == "imported: []\n", result.stderr


def test_version_is_shown(gantune):
    assert gantune("--version") == (0, f"gantune, version {__version__}\n", "")


def test_module_is_the_command(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "gantune", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )

    assert (result.returncode, result.stdout) == (0, f"gantune, version {__version__}\n")


# Usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], "No such command 'chek'"),
        (["check"], "Missing argument 'SPACE'"),
        (["check", DCGAN, "--jsn"], "No such option"),
        (["check", DCGAN, "more"], "unexpected extra argument"),
        (["sample", "x", "-n", "0"], "0 is not in the range"),
        (["train", "x.yaml", "--device", "tpu"], "'tpu' is not one of"),
    ],
)
def test_wrong_usage_is_told_on_stderr_with_exit_code_2(gantune, arguments, message):
    code, out, err = gantune(*arguments)

    assert (code, out) == (2, "")
    assert message in err


def test_bare_command_shows_the_help(gantune):
    code, out, err = gantune()

    assert code == 2
    assert "Commands:" in out + err


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (GantuneError("it is broken; mend it"), 1, "it is broken; mend it\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted; nothing that was reported is lost\n"),
    ],
)
def test_failure_is_its_text_on_stderr_and_its_exit_code(gantune, monkeypatch, error, code, shown):
    def fail(*_):
        raise error

    monkeypatch.setattr(export, "open_generator", fail)

    assert gantune("sample", "winner") == (code, "", shown)


@pytest.mark.parametrize("kind", [GantuneError, *GantuneError.__subclasses__()])
def test_every_failure_leaves_with_the_code_of_its_kind(gantune, monkeypatch, kind):
    def fail(*_):
        raise kind("text")

    monkeypatch.setattr(export, "open_generator", fail)

    assert gantune("sample", "winner") == (kind.exit_code, "", "text\n")
    assert kind.exit_code in (1, 2, 3)


def test_what_the_machine_refuses_is_told_with_its_place(gantune):
    name = "long" * 100

    assert gantune("best", name) == (1, "", f"{name}/manifest.json: File name too long\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_under_the_output_is_told_in_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "gantune", "show", "losses"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )

    assert (result.returncode, result.stderr) == (1, "No space left on device\n")


def test_folders_for_what_a_verb_writes_are_made(gantune, tmp_path, monkeypatch):
    runs = [make_run(tmp_path / "runs", name=name, trials=2, running=0, weights=False) for name in ("one", "two")]
    made = FirstSpace(text="version: 1\n", said=())
    monkeypatch.setattr(first_space, "first_space", lambda *_: made)
    for verb, *arguments in (
        ["schema", "--out"],
        ["compare", *(run.folder for run in runs), "--plot"],
        ["init", "digits", "--out"],
    ):
        out = tmp_path / verb / "deeper" / "file"
        assert gantune(verb, *arguments, out)[0] == 0
        assert out.stat().st_size > 0


# check


def test_check_says_what_a_search_would_run_and_starts_nothing(gantune, tmp_path):
    code, out, err = gantune("check", DCGAN)

    assert (code, err) == (0, "")
    assert out.startswith(f"{DCGAN}: 18 parameters are searched, 60 combinations of branches\n")
    for path, domain in load_space(DCGAN).searched().items():
        assert any(line.split(maxsplit=1) == [path, str(domain)] for line in out.splitlines())
    assert "data: digits at 16x16\n" in out
    assert "budget: 24 trials of 90,000 samples, 1 h\n" in out
    assert "24 trials -> about 12 beyond 7,200 samples -> about 6 beyond 14,400 samples -> about 3 beyond 28,800" in out
    assert "baseline: trial 0\n" in out
    assert out.endswith("OK. Nothing was started.\n")
    assert list(tmp_path.iterdir()) == []


def test_check_shows_what_is_forbidden_and_how_many_draws_that_rejects(gantune):
    rules = "rules=[{forbid: {loss: hinge, batch_size: [32, 64]}, why: it hurts}, {forbid: {lr_g: 1e-5..1e-2}, why: x}]"
    code, out, _ = gantune("check", DCGAN, "--set", rules, "--set", "baseline=null")

    assert code == 0
    assert "forbidden: loss: hinge and batch_size: [32, 64]: it hurts\n" in out
    assert "rejected: about 100% of draws at random\n" in out
    assert "rejected: about 10% of draws at random\n" in gantune("check", DCGAN)[1]  # by what parts refuse
    assert "rejected" not in gantune("check", DCGAN, "--set", "space.penalty=none", "--set", "baseline=null")[1]


def test_check_numbers_the_first_configurations(gantune):
    first = "first=[" + ", ".join([json.dumps(load_space(DCGAN).document()["baseline"])] * 2) + "]"

    assert "baseline: trial 0\nfirst: trials 1 to 2\n" in gantune("check", DCGAN, "--set", first)[1]
    assert (
        "baseline: none\nfirst: trials 0 to 1\n" in gantune("check", DCGAN, "--set", first, "--set", "baseline=null")[1]
    )


def test_check_shows_every_budget(gantune):
    budget = "budget={samples: 1_000_000, hours: 2, gpu_hours: 1.5, cost: 12, price_per_hour: 2.5, target: 9}"

    assert (
        "budget: 24 trials of 60,000 samples, 1,000,000 samples in all, 2 h, 1.5 GPU h, a cost of 12 at 2.5 an hour, "
        "until a score of 9\n"
    ) in gantune("check", DCGAN, "--set", budget)[1]


def test_check_prints_one_json_object(gantune):
    code, out, err = gantune("check", DCGAN, "--json")

    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(load_space(DCGAN).document()))


def test_check_shows_what_an_override_changes(gantune):
    code, out, _ = gantune("check", DCGAN, "--set", "budget.trials=3", "--set", "search.scheduler=none")

    assert code == 0
    assert "budget: 3 trials of 90,000 samples" in out
    assert "early stops: collapse only\n" in out


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        ("hyperband", "of 24 trials 15 halved from 9,000 samples on, 6 from 27,000, 3 from 81,000"),
        ("{hyperband: {first_rung: 0.5}}", "of 24 trials 14 halved from 45,000 samples on, 10 never"),
        ("median", "the median of 3 others or more, from 22,500 samples on"),
        ("{median: {grace: 1}}", "the median of 3 others or more, from 90,000 samples on"),
    ],
)
def test_check_says_how_trials_are_stopped(gantune, scheduler, told):
    code, out, _ = gantune("check", DCGAN, "--set", f"search.scheduler={scheduler}")
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("early stops: "))
    assert line.removeprefix("early stops: collapse, and ").removeprefix("Hyperband: ") == told


def test_check_says_which_sampler_auto_stands_for(gantune):
    assert "sampler: tpe\n" in gantune("check", DCGAN)[1]
    assert "sampler: tpe, chosen by auto\n" in gantune("check", DCGAN, "--set", "search.sampler=auto")[1]


def test_check_of_a_broken_file_tells_everything_and_leaves_with_2(gantune):
    Path("broken.yaml").write_text(BROKEN, encoding="utf-8")
    code, out, err = gantune("check", "broken.yaml", "--set", "batch_size=1")

    assert (code, out) == (2, "")
    assert err == (
        "--set batch_size:1:12  `batch_size`: expected a whole number of at least 2, got 1\n"
        "   1 | batch_size=1\n"
        "     |            ^\n"
        "broken.yaml:4:9  unknown loss `hing`\n"
        "   4 |   loss: hing\n"
        "     |         ^^^^ did you mean `hinge`?\n"
        "broken.yaml:6:9  `lr_g`: the range is empty: 2 is not below 1\n"
        "   6 |   lr_g: 2..1\n"
        "     |         ^^^^\n"
        "3 errors. Nothing was started.\n"
    )


@pytest.mark.parametrize("verb", ["check", "search", "train"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "space.yaml: cannot be read: No such file"),
        (b"\x80\x81", "space.yaml: cannot be read: not UTF-8 text"),
        (b"", "space.yaml:1:1  the file is empty"),
        (b"version: [", "space.yaml:1:11  not valid YAML"),
        (BROKEN.encode(), "space.yaml:4:9  unknown loss `hing`"),
    ],
)
def test_every_verb_refuses_an_unusable_file_alike(gantune, tmp_path, verb, content, message):
    if content is not None:
        Path("space.yaml").write_bytes(content)
    code, out, err = gantune(verb, "space.yaml")

    assert (code, out) == (2, "")
    assert err.removeprefix("loading PyTorch and Ray\n" if verb == "search" else "").startswith(message)
    assert err.endswith("Nothing was started.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"] * (content is not None)


def test_check_of_a_folder_is_refused(gantune):
    code, _, err = gantune("check", ".")

    assert code == 2
    assert ".: cannot be read: Is a directory. Nothing was started." in err


@pytest.mark.parametrize("name", ["'\\ud800'", '"\\ud800"', '"\\u0007\\e[31m"', "日本"])
def test_output_survives_any_character(tmp_path, name):
    path = tmp_path / "space.yaml"
    path.write_text(f"version: 1\n{name}: 1\nspace: 7\n", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-c", "from gantune.cli.main import main; main()", "check", str(path)],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )

    assert result.returncode == 2
    assert b"Traceback" not in result.stderr
    assert b"2 errors. Nothing was started." in result.stderr


# train


def test_train_refuses_a_space_with_open_parameters_and_says_how_to_fix_them(gantune, tmp_path):
    code, out, err = gantune("train", DCGAN)

    assert (code, out) == (2, "")
    assert "18 parameters are open (architecture ...)" in err
    assert "--set architecture=VALUE" in err
    assert "`gantune search`" in err
    assert list(tmp_path.iterdir()) == []


def test_train_refuses_parts_that_do_not_go_together(gantune, tmp_path):
    Path("trial.yaml").write_text(CONFLICTING, encoding="utf-8")
    code, out, err = gantune("train", "trial.yaml")

    assert (code, out) == (2, "")
    assert err.startswith("loss.wgan_gp does not go with architecture.dcgan.norm_d: batch: ")
    assert err.endswith("use norm_d: layer, instance, spectral or none. Nothing was started.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["trial.yaml"]


# best and sample


def test_a_search_learns_from_runs_there_are_and_not_from_itself(gantune):
    code, _, err = gantune("search", DCGAN, "--from", "nowhere")
    assert code == 1
    assert "`nowhere` is not a run" in err
    Path("runs/dcgan").mkdir(parents=True)
    manifest = {"format": FORMAT, "space": {key: {} for key in SECTIONS}, "sessions": [{}]}
    Path("runs/dcgan/manifest.json").write_text(json.dumps(manifest))
    code, _, err = gantune("search", DCGAN, "--from", "runs/dcgan")
    assert code == 2
    assert "is the run itself" in err


def test_best_without_any_run_says_how_to_start_one(gantune):
    code, out, err = gantune("best")

    assert (code, out) == (1, "")
    assert err == "there are no runs in runs/; start one with: gantune search SPACE.yaml\n"


def test_best_of_an_unknown_run_lists_the_runs_there_are(gantune):
    assert gantune("best", "first") == (1, "", "`first` is not a run; there are no runs in runs/\n")

    for name in ("second", "third"):
        folder = Path("elsewhere") / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}", encoding="utf-8")

    assert gantune("best", "first", "--runs", "elsewhere") == (
        1,
        "",
        "`first` is not a run; runs in elsewhere/: second, third\n",
    )


def test_best_of_a_run_without_a_report_leaves_with_3(gantune):
    folder = Path("runs") / "mine"
    folder.mkdir(parents=True)
    manifest = {"format": FORMAT, "space": {key: {} for key in SECTIONS}, "sessions": [{}]}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    assert gantune("best") == (3, "", "runs/mine: no trial has reported yet\n")


@pytest.mark.parametrize("target", ["nothing", ".", "space.yaml"])
def test_sample_of_what_is_no_checkpoint_is_a_clear_failure(gantune, target):
    Path("space.yaml").write_text(BROKEN, encoding="utf-8")
    code, out, err = gantune("sample", target)

    assert (code, out) == (1, "")
    assert err.strip()
    assert not Path("samples.png").exists()


# Training one configuration


ONE = """
version: 1
data: {dataset: digits, size: 8}
objective: {samples: {report: 256, final: 256}, reports: 2}
budget: {samples_per_trial: 1000}
space: {architecture: {mlp: {hidden: 32}}, loss: least_squares, optimizer: adam, lr_g: 1e-3, batch_size: 32}
"""


def test_a_trained_configuration_draws_and_another_may_not_share_its_folder(gantune, tmp_path):
    (tmp_path / "one.yaml").write_text(ONE)

    code, out, err = gantune("train", "one.yaml", "--out", "trained")
    assert (code, "samples.png" in out) == (0, True)
    assert (tmp_path / "trained" / "samples.png").is_file()
    code, out, err = gantune("train", "one.yaml", "--out", "trained", "--json")  # it has ended, and is told again
    assert (code, json.loads(out)["state"], json.loads(out)["score_name"]) == (0, "finished", "fid_classifier")
    assert gantune("sample", "trained/best.safetensors", "-n", 2, "--out", "two")[0] == 0
    assert len(list((tmp_path / "two").iterdir())) == 2

    code, out, err = gantune("train", "one.yaml", "--out", "trained", "--set", "lr_g=1e-2")
    assert (code, "--out" in err) == (1, True)
    code, out, err = gantune("train", "one.yaml", "--out", "one.yaml/below")
    assert (code, "cannot be written" in err) == (1, True)


def test_a_run_that_diverges_is_told_with_its_cause_and_exits_with_3(gantune, tmp_path):
    (tmp_path / "one.yaml").write_text(ONE)
    code, out, err = gantune("train", "one.yaml", "--set", "optimizer=sgd", "--set", "lr_g=1e30")

    assert (code, out) == (3, "")
    assert "diverged" in err
    assert "not finite" in err


# Names and values on the command line


@pytest.mark.parametrize("name", [".", "..", "a/b", ""])
def test_a_run_lives_right_below_the_runs(gantune, tmp_path, name):
    code, _, err = gantune("search", DCGAN, "--name", name)

    assert code == 2
    assert "--name" in err
    assert list(tmp_path.iterdir()) == []


def test_a_seed_beyond_what_a_generator_takes_is_a_usage_error(gantune):
    assert gantune("sample", "x", "--seed", 2**63)[0] == 2


def test_a_baseline_can_be_dropped(tmp_path):
    with pytest.raises(SpecError, match="--set baseline=null drops it"):
        load_space(DCGAN, ["loss=hinge"])
    assert load_space(DCGAN, ["loss=hinge", "baseline=null"]).baseline is None


def test_a_component_in_the_users_own_folder_is_found(tmp_path):
    (tmp_path / "mine.py").write_text("from gantune.models.mlp import mlp\n")
    (tmp_path / "one.yaml").write_text(ONE.replace("mlp:", "'mine:mlp':"))
    called = "import sys; sys.argv = ['gantune', 'check', 'one.yaml']; sys.path.remove(''); "
    done = python(called + "from gantune.cli.main import main; main()", tmp_path)

    assert done.returncode == 0, done.stderr


def test_check_times_some_configurations_where_it_is_asked_to(gantune):
    code, out, err = gantune("check", DCGAN, "--time", "--set", "data.size=8", "--set", "budget.trials=10")
    assert code == 0, err
    assert re.search(r"^time: about \w+ on .*, \w+ of it preparation; \d+ trials at once, measured on 8 ", out, re.M)
    assert re.search(r"^disk: up to [\d.e-]+ GB, and [\d.e+]+ GB are free$", out, re.M)
    assert "timing a few configurations" in err
    nothing = "rules=[{forbid: {lr_g: 1e-5..1e-2}, why: x}]"
    code, _, err = gantune("check", DCGAN, "--time", "--set", "baseline=null", "--set", nothing)
    assert code == 2
    assert "not one can be trained" in err
