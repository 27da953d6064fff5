import pytest

from gantune.checkpoint import read_checkpoint
from gantune.data.data_set import open_data
from gantune.driver.parallel import train_parallel
from gantune.errors import RunError
from gantune.metrics.reference_file import prepare_reference
from gantune.space import load_trial

CONFIG = """
version: 1
data: {dataset: digits, size: 8}
objective: {samples: {report: 256, final: 256}, reports: 2}
budget: {samples_per_trial: 640}
collapse: {enabled: false}
space: {architecture: {mlp: {hidden: 16}}, loss: hinge, optimizer: adam, lr_g: 1e-3, batch_size: 32}
"""


@pytest.fixture
def trial(tmp_path):
    path = tmp_path / "trial.yaml"
    path.write_text(CONFIG)
    config = load_trial(path)
    return config, prepare_reference(open_data(config.data))


def test_two_processes_train_one_trial_and_the_same_call_goes_on(trial, tmp_path):
    config, reference = trial
    heard = []
    last = train_parallel(config, reference, tmp_path / "out", 2, "cpu", heard.append)
    assert [progress.samples_seen for progress in heard] == [320, 640]
    assert last is heard[-1]
    assert last.state == "finished"
    assert last.best_score == min(progress.score for progress in heard)
    assert load_trial(tmp_path / "out" / "config.yaml") == config
    tensors, meta = read_checkpoint(tmp_path / "out" / "latest.safetensors", "trial")
    assert meta["processes"] == 2
    assert "rank1.rng.data" in tensors

    again = train_parallel(config, reference, tmp_path / "out", 2, "cpu", lambda progress: None)
    assert again == last


def test_more_processes_than_cpus_are_refused_with_the_remedy(trial, tmp_path):
    config, reference = trial
    with pytest.raises(RunError, match=r"1000 processes want 1000 CPUs and there are \d+; use a smaller --processes"):
        train_parallel(config, reference, tmp_path / "out", 1000, "cpu", lambda progress: None)
