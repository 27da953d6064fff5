"""A trial trained again gives the numbers that its run recorded, or says which it does not."""

import dataclasses
import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from gantune.cli.replay import command
from gantune.data.data_set import open_data
from gantune.driver.ledger import Ledger
from gantune.driver.study import Study
from gantune.errors import GantuneError
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.run import Run
from gantune.space import load_space
from gantune.threads import on_threads
from gantune.trial import train_trial

SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
objective: {samples: {report: 256, final: 300}, reports: 3}
collapse: {enabled: false}
budget: {trials: 3, samples_per_trial: 300}
space:
  architecture: {mlp: {hidden: 8, depth: 1, z_dim: 4}}
  loss: hinge
  optimizer: {adam: {beta1: 0.5}}
  lr_g: log 1e-3..1e-2
  batch_size: 16
"""
STOPPED = 1  # the trial that a scheduler stopped at its second report
CHUNKED = 2  # the one that memory could not hold otherwise


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three trials, driven without Ray."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "tiny.yaml").write_text(SPACE)
    space = load_space(folder / "tiny.yaml")
    images = open_data(space.data)
    run = Run(folder / "runs" / "tiny")
    run.folder.mkdir(parents=True)
    run.begin(space)
    shutil.copyfile(prepare_reference(images), run.reference_path)
    reference = load_reference(run.reference_path)
    run.settle(reference.named("fid"), reference.key)
    ledger = Ledger(run, space, Study(run.study_path, space, 500.0))
    with on_threads(1):
        while (proposal := ledger.next()) is not None:
            at = ledger.folder(proposal.number)
            chunks = 2 if proposal.number == CHUNKED else 1
            reports = train_trial(proposal.config, images, reference, at, torch.device("cpu"), micro_batches=chunks)
            for count, progress in enumerate(reports, 1):
                stopped = proposal.number == STOPPED and count == 2
                of_machine = {"gpu_utilization": 0.7, "gpu_memory": 0.2}  # as a worker adds; never the same again
                progress = dataclasses.replace(progress, metrics={**progress.metrics, **of_machine})
                ledger.record(proposal.number, progress, stopped=stopped)
                if stopped:
                    break
    return run


@pytest.fixture
def copied(finished, tmp_path):
    """The same run, to be changed."""
    shutil.copytree(finished.folder, tmp_path / "tiny")
    return Run(tmp_path / "tiny")


def replayed(*arguments):
    return CliRunner().invoke(command, [*map(str, arguments), "--device", "cpu"])


@pytest.mark.parametrize(("trial", "reports"), [(0, 3), (STOPPED, 2), (CHUNKED, 3)])
def test_a_trial_trained_again_gives_the_recorded_numbers_to_the_last_bit(finished, trial, reports):
    threads = torch.get_num_threads()
    found = replayed(trial, finished.folder)
    assert found.exit_code == 0, found.output
    assert found.output.count("the same\n") == reports
    assert f"#{trial} is the same: all " in found.output
    assert "fid_classifier" in found.output
    assert torch.get_num_threads() == threads


def test_json_holds_every_report_and_what_differs(finished):
    found = replayed(STOPPED, finished.folder, "--json")
    told = json.loads(found.output)
    assert found.exit_code == told["differing"] == 0
    assert [report["differences"] for report in told["reports"]] == [{}, {}]
    assert told["numbers"] == sum(report["numbers"] for report in told["reports"])


def test_a_number_that_is_not_the_same_is_told_with_both_values(copied):
    rows = copied.results.rows()
    shutil.rmtree(copied.folder / "results")
    for row in rows:
        copied.results.append(dataclasses.replace(row, score=row.score + 1) if row.samples_seen > 250 else row)
    found = replayed(0, copied.folder)
    score = next(row.score for row in rows if row.trial == 0 and row.samples_seen > 250)
    assert found.exit_code == 1
    assert f"score {score} instead of {score + 1}" in found.output
    assert "#0 differs: 1 of " in found.output
    assert "was the machine or the device another?" in found.output


def test_versions_that_have_changed_are_named_where_numbers_differ(copied):
    manifest = copied.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(torch.__version__.split("+")[0], "1.0"))
    config = copied.folder / "trials" / "0000" / "config.yaml"
    config.write_text(config.read_text().replace("beta1: 0.5", "beta1: 0.6"))
    found = replayed(0, copied.folder)
    assert found.exit_code == 1
    assert "torch was 1.0" in found.output


def test_a_replay_leaves_the_run_alone_and_keeps_checkpoints_where_it_is_told(copied, tmp_path):
    before = {path: path.read_bytes() for path in copied.folder.rglob("*") if path.is_file()}
    assert replayed(0, copied.folder, "--out", tmp_path / "again").exit_code == 0
    assert (tmp_path / "again" / "best.safetensors").exists()
    assert {path: path.read_bytes() for path in copied.folder.rglob("*") if path.is_file()} == before
    again = replayed(0, copied.folder, "--out", tmp_path / "again")
    assert again.exit_code == 2
    assert "holds a trial already" in again.output


def test_a_trial_that_is_not_there_is_an_error_that_says_which_are(finished):
    found = replayed(7, finished.folder)
    assert isinstance(found.exception, GantuneError)
    assert "no trial 7 has reported; it has #0 to #2" in str(found.exception)
    found = replayed("0.1", finished.folder)
    assert "no trial 0.1 has reported; it has none" in str(found.exception)


@pytest.mark.parametrize("trial", ["x", "-1", "1.x", "", "1.2.3"])
def test_what_is_not_a_number_is_a_usage_error(finished, trial):
    found = replayed("--", trial, finished.folder) if trial.startswith("-") else replayed(trial, finished.folder)
    assert found.exit_code == 2
