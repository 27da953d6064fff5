"""What gantune relies on in Tune's own loop."""

from types import SimpleNamespace

from ray.tune.execution.tune_controller import _get_max_pending_trials
from ray.tune.search import SearchGenerator

from gantune.driver.tune import _Asking
from gantune.packing import Share


def test_tune_holds_one_proposal_drawn_ahead():
    asking = _Asking(SimpleNamespace(), SimpleNamespace(), Share(cpus=1, gpus=0), SimpleNamespace())
    assert _get_max_pending_trials(SearchGenerator(asking)) == 1
