import pytest
import torch

from gantune.config import Component
from gantune.data.data_set import BatchSource, open_data
from gantune.domains import FixedDraw
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.packing import measure_memory
from gantune.space import load_space
from gantune.trial import train_trial

ARCHITECTURES = [
    "dcgan: {norm_d: layer}",
    "mlp: {hidden: 64}",
    "resnet: {width_g: 16, width_d: 16, conditional: true}",
    "r3gan: {width: 16}",
]
SPACE = """
version: 1
data: {dataset: digits, size: 8}
objective: {samples: {report: 300, final: 300}, reports: 3}
budget: {samples_per_trial: 3000}
space:
  architecture: {ARCHITECTURE}
  regularizer: lecam
  augmentation: ada
  loss: {wgan_gp: {d_steps: 2}}
  optimizer: adam
  lr_g: 1e-3
  batch_size: 32
"""

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


@needs_gpu
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_trial_trains_and_continues_on_a_gpu(tmp_path, architecture):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE.replace("ARCHITECTURE", architecture))
    space = load_space(path)
    config = space.draw(FixedDraw({}), seed=1)
    assert config.loss == Component(name="wgan_gp", options=(("d_steps", 2), ("gp_weight", 10.0)))
    images = open_data(space.data)
    reference = load_reference(prepare_reference(images))
    device = torch.device("cuda")
    assert BatchSource(images, device, 0).draw(4).samples.device.type == "cuda"

    first = next(train_trial(config, images, reference, tmp_path, device))
    rest = list(train_trial(config, images, reference, tmp_path, device))
    assert rest[0].samples_seen == first.samples_seen
    assert rest[-1].state == "finished"
    assert rest[-1].best_score is not None


@needs_gpu
def test_as_many_trials_as_their_measured_memory_says_train_side_by_side_on_a_gpu(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE.replace("ARCHITECTURE", ARCHITECTURES[0]))
    space = load_space(path)
    images = open_data(space.data)
    reference = load_reference(prepare_reference(images))
    memory = measure_memory(space, images, reference, torch.device("cuda"))
    assert 0 < memory.needed <= memory.total
    assert memory.room <= memory.total
    assert torch.cuda.max_memory_reserved() < memory.needed  # the context counts, too
    assert memory.trials > 1  # a net for 8x8 digits is small
