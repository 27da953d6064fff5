"""Members of a population: who takes over whom, what travels, and that all of it follows from the rows and the seed."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from gantune.audit import check_in_force
from gantune.checkpoint import read_checkpoint, write_checkpoint
from gantune.collapse import Verdict
from gantune.config import Pb2, Pbt, derive_seed
from gantune.data.data_set import open_data
from gantune.domains import FixedDraw, RandomDraw, contains
from gantune.driver.exploration import Situation, Stretch, explore
from gantune.driver.population import Population
from gantune.driver.study import Study
from gantune.driver.transplant import transplant
from gantune.errors import AuditError, RunError, SpecError
from gantune.metrics.reference_file import load_reference, prepare_reference
from gantune.mutation import mutable
from gantune.progress import Progress
from gantune.records import trial_record
from gantune.replay import replay
from gantune.reports import BEST, LATEST
from gantune.results import ENDED
from gantune.run import Run
from gantune.schedules import linear
from gantune.space import load_space, load_trial
from gantune.trial import _Trial, train_trial
from gantune.writing import trial_document

CPU = torch.device("cpu")
SPACE = """
version: 1
name: tiny
data: {dataset: digits, size: 8}
objective: {samples: {report: 256, final: 256}, reports: 3}
budget: {trials: 4, samples_per_trial: 300}
search: {sampler: random, scheduler: {pbt: {interval: 0.3}}}
space:
  architecture: {choose: {mlp: {hidden: [8, 16], depth: 1, z_dim: 4}, dcgan: {width: 4, norm_d: none}}}
  loss: hinge
  penalty: {choose: {none: {}, r1: {weight: log 0.01..10, every: [1, 4, 16]}}}
  optimizer: {adam: {beta1: 0..0.9}}
  lr_g: log 1e-4..1e-2
  lr_d_ratio: [0.5, 1, 2]
  batch_size: int 4..12
"""


class KilledError(Exception):
    """The driver ends here."""


class Search:
    """A run whose trials are pretended: a score follows from trial, samples seen and learning rate."""

    def __init__(self, folder, *overrides):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiny.yaml").write_text(SPACE)
        self.space = load_space(folder / "tiny.yaml", overrides)
        self.folder = folder / "run"
        self.folder.mkdir(exist_ok=True)
        self.deaths = {}  # samples seen at which a trial's own weights die

    def open(self, rows_to_live=None, *, written=True):
        """The books; they are killed at a row, before or after it is written."""
        self.run = Run(self.folder)
        self.run.begin(self.space)
        append, left = self.run.results.append, [rows_to_live]

        def counted(row):
            if left[0] is not None:
                left[0] -= 1
                if left[0] == 0:
                    if written:
                        append(row)
                    raise KilledError
            append(row)

        self.run.results.append = counted
        return Population(self.run, self.space, Study(self.run.study_path, self.space, 500.0))

    def latest(self, number):
        return read_checkpoint(self.run.trial_folder(number) / LATEST, "trial")

    def train(self, number):
        """What a trial reports next; its checkpoint is written before."""
        folder = self.run.trial_folder(number)
        config = load_trial(folder / "config.yaml")
        samples, best = 0, None
        tensors = {"weights": torch.tensor([number, 0]), "rng.data": torch.tensor([number])}
        if (folder / LATEST).exists():
            tensors, meta = self.latest(number)
            assert meta["config"] == json.loads(json.dumps(trial_document(config)))
            samples, best = meta["progress"]["samples_seen"], meta["progress"]["best_score"]
        samples += 100
        dies = self.deaths.get(number) == samples and tensors["weights"][0] == number
        luck = random.Random(derive_seed(0, number, samples)).random()
        score = 100 * luck + abs(np.log(config.lr_g / 2e-3)) * 1000 / samples
        verdict = Verdict(state="diverged", cause="weights are not finite") if dies else Verdict()
        if not dies:
            best = score if best is None else min(best, score)
            write_checkpoint(folder / BEST, "generator", {"weights": torch.tensor([number])}, {"score": best})
        progress = Progress(
            samples_seen=samples,
            score=None if dies else score,
            best_score=best,
            metrics={} if dies else {"recall": 0.5},
            verdict=verdict,
            state="collapsed" if dies else "finished" if samples == 300 else "running",
            seconds=samples / 100,
        )
        tensors["weights"] = torch.tensor([int(tensors["weights"][0]), samples])
        meta = {"config": trial_document(config), "progress": progress.as_dict()}
        write_checkpoint(folder / LATEST, "trial", tensors, meta)
        return progress

    def carry(self, books):
        """Train whatever is asked for, as Tune does with one worker."""
        while (proposal := books.next()) is not None:
            repeated = None
            if (self.run.trial_folder(proposal.number) / LATEST).exists():
                repeated = Progress.from_dict(self.latest(proposal.number)[1]["progress"])
            while True:
                progress = repeated or self.train(proposal.number)
                repeated = None
                rests = progress.state != "running" or books.rests(progress.samples_seen)
                books.record(proposal.number, progress, stopped=rests)
                if rests:
                    break
        return books

    def told(self):
        """Every row but for its clocks, by trial."""
        rows = [replace(row, run_seconds=0.0) for row in self.run.results.rows()]
        return {number: [row for row in rows if row.trial == number] for number in {row.trial for row in rows}}

    def taken(self):
        return [row for row in self.run.results.rows() if row.donor is not None]


@pytest.fixture
def search(tmp_path):
    return Search(tmp_path / "whole")


def test_every_member_trains_its_budget_in_generations_and_the_worst_take_over_from_the_best(search):
    books = search.carry(search.open())
    assert books.complete()
    assert books.ended == {"finished": 4}
    rows = search.run.results.rows()
    for end in (100, 200):
        scores = {row.trial: row.score for row in rows if row.samples_seen == end and row.score is not None}
        (taken,) = [row for row in search.taken() if row.samples_seen == end]
        assert taken.trial == max(scores, key=scores.get)
        assert taken.donor == min(scores, key=scores.get)
        after = [row.samples_seen for row in rows[rows.index(taken) + 1 :]]
        assert min(after) > end, "nobody goes on before all decisions are carried out"
    for number in range(4):
        assert [row.samples_seen for row in rows if row.trial == number and row.score is not None] == [100, 200, 300]


@pytest.mark.parametrize(("scheduler", "dying"), [("pbt", True), ("pb2", False)])
def test_a_search_that_is_killed_at_any_row_continues_the_same(tmp_path, scheduler, dying):
    def started(name):
        found = Search(tmp_path / name, f"search.scheduler={{{scheduler}: {{interval: 0.3}}}}", "budget.trials=3")
        found.deaths = {1: 200} if dying else {}
        return found

    whole = started("whole")
    whole.carry(whole.open())
    rows = sum(len(own) for own in whole.told().values())
    killed = started("killed")
    for at in range(rows + 1):
        with pytest.raises(KilledError):
            killed.carry(killed.open(1, written=False))
        if at < rows:
            with pytest.raises(KilledError):
                killed.carry(killed.open(1, written=True))
        if len(killed.run.results.rows()) == rows:
            break
    assert killed.carry(killed.open()).complete()
    assert killed.told() == whole.told()
    for number in whole.told():
        (one, _), (other, _) = whole.latest(number), killed.latest(number)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_taken_over_is_the_donors_and_the_donor_stands_still(search):
    books = search.open()
    numbers = []
    while len(numbers) < 4:
        numbers.append(books.next().number)
        books.record(numbers[-1], search.train(numbers[-1]), stopped=True)
    before = {number: (search.run.trial_folder(number) / LATEST).read_bytes() for number in numbers}
    issued = books.next()
    (taken,) = search.taken()
    donor, own = search.run.trial_folder(taken.donor), search.run.trial_folder(taken.trial)
    for number in set(numbers) - {taken.trial}:
        assert (search.run.trial_folder(number) / LATEST).read_bytes() == before[number]
    tensors, meta = read_checkpoint(own / LATEST, "trial")
    assert tensors["weights"].tolist() == [taken.donor, 100]
    assert tensors["rng.data"].tolist() == [taken.trial], "its streams of randomness stay its own"
    assert meta["progress"]["best_score"] == taken.best_score > meta["progress"]["score"]
    assert read_checkpoint(own / BEST, "generator")[1]["score"] == taken.best_score
    given, got = load_trial(donor / "config.yaml"), json.loads(taken.config)
    changing = mutable(search.space.searched())
    assert all(got[path] == value for path, value in given.parameters().items() if path not in changing)
    assert any(got[path] != given.parameters()[path] for path in changing if path in got)
    assert f"takes over #{taken.donor} at 100 samples: " in taken.cause
    while issued.number != taken.trial:
        issued = books.next()
    assert issued.config.parameters() == got
    assert load_trial(own / "config.yaml") == issued.config
    assert issued.config.seed == taken.seed != given.seed


def test_a_collapsed_member_takes_over_a_living_one_and_lives_again(search):
    search.deaths = {2: 200}
    books = search.carry(search.open())
    assert books.ended == {"finished": 4}
    rows = search.told()[2]
    death, revival = next((one, two) for one, two in pairwise(rows) if one.verdict == "diverged")
    assert (death.state, death.cause, death.best_score is None) == ("running", "weights are not finite", False)
    assert revival.donor not in (None, 2)
    assert revival.best_score is None, "what it came to before died with its weights"
    assert not any(row.state in ENDED for row in rows[:-1])
    record = trial_record([row for row in search.run.results.rows() if row.trial == 2])
    assert record.survived
    assert (record.best_score, record.parameters) == (rows[-1].best_score, json.loads(rows[-1].config))
    assert record.best_samples_seen == 300
    assert books.best.score == min(row.best_score for own in search.told().values() for row in own[-1:])


@pytest.mark.parametrize("deaths", [{0: 100, 1: 100, 2: 100, 3: 100}, {1: 300}], ids=["all", "in the last generation"])
def test_a_member_that_nobody_can_replace_has_collapsed(search, deaths):
    search.deaths = deaths
    books = search.carry(search.open())
    assert books.complete()
    assert books.ended["collapsed"] >= len(deaths) - 1 or books.ended["finished"] == 4
    for number in deaths:
        *_, last = search.told()[number]
        taken = any(row.donor is not None for row in search.told()[number])
        assert last.state == ("finished" if taken else "collapsed")
        assert taken or last.cause == "weights are not finite"


def test_a_baseline_is_never_replaced(tmp_path):
    search = Search(tmp_path)
    text = "baseline: {architecture: {mlp: {hidden: 8}}, penalty: none, optimizer: {adam: {beta1: 0.5}}, lr_g: 1e-4, "
    (tmp_path / "tiny.yaml").write_text(SPACE + text + "lr_d_ratio: 1, batch_size: 4}\n")
    search.space = load_space(tmp_path / "tiny.yaml", ["search.scheduler={pbt: {interval: 0.3, quantile: 0.5}}"])
    search.carry(search.open())
    assert all(row.trial != 0 for row in search.taken())
    assert json.loads(search.told()[0][-1].config)["lr_g"] == 1e-4


def test_a_failed_member_stays_failed_and_the_others_go_on(search):
    books = search.open()
    failed = books.next().number
    books.fail(failed, "it cannot be built")
    search.carry(books)
    assert books.ended == {"failed": 1, "finished": 3}
    assert all(failed not in (row.trial, row.donor) for row in search.taken())


def test_a_used_up_budget_pauses_members_and_more_of_it_goes_on_with_them(search):
    search.deaths = {1: 100}
    books = search.open()
    for _ in range(3):
        number = books.next().number
        books.record(number, search.train(number), stopped=True)
    books.close("budget.hours is used up")
    assert not books.complete()
    last = {row.trial: row for row in search.run.results.rows()}
    assert {number: row.state for number, row in last.items()} == {0: "paused", 1: "running", 2: "paused"}  # 1 is dead
    again = search.carry(search.open())
    assert again.complete()
    assert again.ended == {"finished": 4}


def test_samples_of_another_are_not_counted_twice(search):
    search.deaths = {1: 200}
    books = search.carry(search.open())
    assert books._tally.meter.samples == 4 * 300
    assert search.open()._tally.meter.samples == 4 * 300


def test_the_study_hears_the_last_configuration_and_where_the_weights_come_from(search):
    search.carry(search.open())
    trials = Study(search.run.study_path, search.space, 500.0)._study.trials
    last = search.taken()[-1]
    told = trials[last.trial].user_attrs
    assert told["configuration"] == json.loads(search.told()[last.trial][-1].config)
    assert told["lineage"][0] == f"#{last.donor} at 200 samples"


def test_a_population_does_not_grow(search):
    search.carry(search.open())
    search.space = load_space(search.folder.parent / "tiny.yaml", ["budget.trials=5"])
    with pytest.raises(RunError, match=r"budget.trials: 4 became 5"):
        search.open()


def test_a_member_that_took_over_cannot_be_replayed(search):
    search.carry(search.open())
    (taken, *_) = search.taken()
    with pytest.raises(RunError, match=rf"trial {taken.trial} cannot be trained again by itself: it takes over #"):
        next(replay(search.run, taken.trial, 0, search.folder / "again", CPU))


# Exploring


def drawn(space, seed):
    return space.draw(RandomDraw(seed), seed=7)


def situation(space, count=12):
    """Stretches in which a learning rate near 1e-3 gains the most."""
    found = []
    for seed in range(count):
        values = drawn(space, seed).parameters()
        gain = -abs(np.log(values["lr_g"] / 1e-3))
        found.append(Stretch(samples_seen=100 + 10 * seed, score=50.0 - seed, gain=gain, values=values))
    return Situation(samples_seen=250, score=30.0, history=found, others=[found[0].values, found[1].values])


@pytest.mark.parametrize("scheduler", ["{pbt: {resample: 0}}", "{pbt: {resample: 1}}", "pb2"])
def test_exploring_stays_in_the_space_changes_values_alone_and_follows_from_its_seed(search, scheduler):
    space = load_space(search.folder.parent / "tiny.yaml", [f"search.scheduler={scheduler}"])
    at, domains = situation(space), mutable(space.searched())
    assert set(domains) == {
        *("penalty.r1.weight", "penalty.r1.every", "optimizer.adam.beta1", "lr_g", "lr_d_ratio", "batch_size")
    }
    changed = set()
    for seed in range(2 if scheduler == "pb2" else 40):
        given = drawn(space, 100 + seed)
        found = explore(space, given, at, seed)
        assert explore(space, given, at, seed) == found
        before, after = given.parameters(), found.parameters()
        assert before.keys() == after.keys()
        assert all(contains(domains[path], after[path]) for path in domains if path in after)
        changed |= {path for path in after if before[path] != after[path]}
    assert changed == set(domains) or (scheduler == "pb2" and len(changed) >= 4)


def test_a_perturbed_number_moves_by_the_factor_or_a_step_and_not_past_its_bounds(search):
    given = drawn(search.space, 0)
    space = load_space(search.folder.parent / "tiny.yaml", ["search.scheduler={pbt: {resample: 0}}"])
    values = {**given.parameters(), "lr_g": 1e-3, "lr_d_ratio": 1.0, "batch_size": 4}
    given = space.draw(FixedDraw(values), seed=0)
    found = [explore(space, given, situation(space), seed) for seed in range(20)]
    assert {round(one.lr_g, 9) for one in found} == {0.0008, 0.00125}
    assert {one.lr_d_ratio for one in found} == {0.5, 2.0}
    assert {one.batch_size for one in found} == {4, 5}


def test_what_mutate_names_changes_and_nothing_else(search):
    for scheduler in ("pbt", "pb2"):
        override = f"search.scheduler={{{scheduler}: {{mutate: [lr_g]}}}}"
        space = load_space(search.folder.parent / "tiny.yaml", [override])
        given = drawn(space, 3)
        found = explore(space, given, situation(space), 0)
        assert found == replace(given, lr_g=found.lr_g) != given


def test_what_a_rule_forbids_is_never_explored_and_without_a_way_out_nothing_changes(tmp_path):
    rule = "rules: [{{forbid: {{lr_g: {}}}, why: it hurts}}]\n"
    for scheduler in ("pbt", "pb2"):
        for forbidden, free in (("1.1e-3..1e-2", True), ("[1]", False)):
            (tmp_path / "ruled.yaml").write_text(SPACE + (rule.format(forbidden) if free else ""))
            space = load_space(tmp_path / "ruled.yaml", [f"search.scheduler={scheduler}"])
            given = space.draw(FixedDraw({**drawn(space, 1).parameters(), "lr_g": 1e-3}), seed=0)
            if not free:
                space = replace(space, rules=(Everything(),))
            for seed in range(4 if scheduler == "pbt" else 1):
                found = explore(space, given, situation(space), seed)
                assert found.lr_g < 1.1e-3 if free else found == given


class Everything:
    """A rule that forbids whatever it is asked."""

    def reason(self, values):
        return "no"


def test_the_bandit_learns_where_a_score_fell(search):
    space = load_space(search.folder.parent / "tiny.yaml", ["search.scheduler={pb2: {mutate: [lr_g]}}"])
    at = situation(space, count=40)
    found = [explore(space, drawn(space, 50), at, seed).lr_g for seed in range(3)]
    assert all(3e-4 < rate < 3e-3 for rate in found)


def test_the_bandit_leaves_numpys_stream_alone(search):
    space = load_space(search.folder.parent / "tiny.yaml", ["search.scheduler=pb2"])
    np.random.seed(5)
    wanted = np.random.random()
    np.random.seed(5)
    explore(space, drawn(space, 1), situation(space), 0)
    assert np.random.random() == wanted


# What a space says


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["search.scheduler={pbt: {mutate: [lr]}}"], "`mutate` names `lr`, which is no open parameter"),
        (["search.scheduler={pb2: {mutate: architecture.mlp.hidden}}"], "it is structure"),
        (["search.scheduler={pbt: {mutate: [penalty]}}"], "it chooses a component"),
        (["search.scheduler={pbt: {mutate: [1]}}"], "expected the path of a parameter"),
        (["confirm.top=1"], "finalists of pbt and pb2 cannot be confirmed"),
        (["space={architecture: [mlp, dcgan], loss: hinge, optimizer: adam, lr_g: 1e-3}"], "no open parameter may"),
    ],
)
def test_what_a_population_cannot_do_is_told_with_its_place(search, overrides, told):
    with pytest.raises(SpecError) as caught:
        load_space(search.folder.parent / "tiny.yaml", overrides)
    assert told in str(caught.value)
    assert "Nothing was started." in str(caught.value)


@pytest.mark.parametrize("kind", [Pbt, Pb2])
def test_generations_end_with_reports_and_before_the_budget(kind):
    assert kind(interval=0.25).generations(1000, 4) == [250, 500, 750]
    assert kind(interval=0.1).generations(1200, 12) == [200, 300, 400, 500, 600, 800, 900, 1000, 1100]
    assert kind(interval=0.1).generations(100, 2) == [50]
    assert kind(interval=1).generations(100, 2) == []


# What is in force


@pytest.fixture(scope="module")
def images():
    return open_data(load_space_text("").data)


@pytest.fixture(scope="module")
def reference(images):
    return load_reference(prepare_reference(images))


def load_space_text(space, *overrides):
    path = Path(os.environ["GANTUNE_CACHE"]) / "population.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SPACE.partition("space:")[0] + (space or SPACE[SPACE.index("space:") :]))
    return load_space(path, ["collapse.enabled=false", *overrides])


RICH = """
space:
  architecture: {mlp: {hidden: 8, depth: 1, z_dim: 4}}
  loss: {non_saturating: {label_smoothing: 0..0.2, d_steps: [1, 2]}}
  penalty: {r1: {weight: log 0.01..10, every: [1, 4, 16]}}
  regularizer: {lecam: {weight: log 0.01..1, decay: [0.9, 0.99, 0.999]}}
  optimizer: {adam: {beta1: 0.1..0.9, beta2: [0.9, 0.99, 0.999]}}
  optimizer_d: {sgd: {momentum: [0, 0.5, 0.9]}}
  lr_schedule: {linear: {start: 0..0.5, final: 0.1..0.5}}
  penalty_schedule: {cosine: {end: 0.5..1, final: 0.1..0.5}}
  lr_g: log 1e-4..1e-2
  lr_d_ratio: log 0.5..2
  lr_warmup: 0..0.5
  grad_clip: [0.1, 1, 10]
  batch_size: [8, 16, 32]
  ema_halflife_samples: [10, 50, 500]
"""


def take(trial, count):
    return [next(trial) for _ in range(count)]


def test_after_taking_over_every_number_in_force_is_the_configurations(images, reference, tmp_path):
    space = load_space_text(RICH, "search.scheduler={pbt: {resample: 1}}")
    given = space.draw(RandomDraw(0), seed=1)
    take(train_trial(given, images, reference, tmp_path / "donor", CPU), 1)
    take(train_trial(space.draw(RandomDraw(9), seed=2), images, reference, tmp_path / "own", CPU), 1)
    got = replace(explore(space, given, Situation(samples_seen=0, score=0, history=[], others=[]), 4), seed=2)
    changed = {path for path, value in got.parameters().items() if given.parameters()[path] != value}
    assert len(changed) > 12
    transplant(tmp_path / "donor", tmp_path / "own", got, 5.0, 1.0)
    donor, _ = read_checkpoint(tmp_path / "donor" / LATEST, "trial")

    from gantune.world import ALONE

    trial = _Trial(got, images, reference, tmp_path / "own", CPU, ALONE, 1)
    trial.restore()
    check_in_force(trial.trainer)
    for name, value in trial.trainer.state().items():
        if not name.startswith("rng."):
            assert torch.equal(value, donor[name]), f"{name} is the donor's"
    assert any(name.startswith("opt_g.") and "exp_avg" in name for name in donor)
    fresh = _Trial(got, images, reference, tmp_path / "fresh", CPU, ALONE, 1).trainer
    for one, other in ((trial.trainer.rates_g, fresh.rates_g), (trial.trainer.rates_d, fresh.rates_d)):
        assert one._built == other._built
    one, (again, after) = trial.trainer, take(train_trial(got, images, reference, tmp_path / "own", CPU), 2)
    assert again.samples_seen < after.samples_seen
    told = {name: after.metrics[f"in_force.{name}"] for name in one.rates_in_force()}
    assert told["lr_g"] == pytest.approx(got.lr_g * told["lr_factor_g"], rel=1e-12)
    assert told["lr_d"] == pytest.approx(got.lr_d * told["lr_factor_d"], rel=1e-12)
    assert told["lr_factor_g"] < 1

    trial.trainer.schedules["lr"] = linear(start=0.0, final=0.9)
    with pytest.raises(AuditError, match="lr_schedule is not"):
        check_in_force(trial.trainer)


def test_a_member_whose_best_has_another_architecture_finishes_with_it(images, reference, tmp_path):
    space = load_space_text("")
    small = {"architecture": "mlp", "architecture.mlp.hidden": 8, "penalty": "none", "lr_g": 1e-3, "lr_d_ratio": 1.0}
    small |= {"optimizer.adam.beta1": 0.5, "batch_size": 8}
    own = space.draw(FixedDraw(small), seed=1)
    given = space.draw(FixedDraw({**small, "architecture": "dcgan"}), seed=2)
    (report,) = take(train_trial(own, images, reference, tmp_path / "own", CPU), 1)
    take(train_trial(given, images, reference, tmp_path / "donor", CPU), 1)
    best, _ = read_checkpoint(tmp_path / "own" / BEST, "generator")
    got = replace(given, seed=1)
    transplant(tmp_path / "donor", tmp_path / "own", got, -1.0, report.seconds)
    write_checkpoint(tmp_path / "own" / BEST, "generator", best, {**best_meta(tmp_path / "own"), "score": -1.0})
    *_, last = train_trial(got, images, reference, tmp_path / "own", CPU)
    assert (last.state, last.best_score) == ("finished", -1.0)
    assert last.metrics["final_score"] > 0


def best_meta(folder):
    return read_checkpoint(folder / BEST, "generator")[1]


def test_a_search_through_ray_puts_every_rate_that_it_explores_in_force(tmp_path):
    text = SPACE.replace("interval: 0.3", "interval: 0.3, quantile: 0.5").replace(": 300}", ": 1200}")
    (tmp_path / "tiny.yaml").write_text(text)
    arguments = ["search", "tiny.yaml", "--set", "space.architecture={mlp: {hidden: [8, 16]}}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "gantune", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = Run(tmp_path / "runs" / "tiny").results.rows()
    taken = [row for row in rows if row.donor is not None]
    assert len(taken) >= 4
    for row in taken:
        config = json.loads(row.config)
        after = next(other for other in rows[rows.index(row) :] if other.trial == row.trial and other.score)
        told = after.metrics
        assert json.loads(after.config) == config
        assert told["in_force.lr_g"] == config["lr_g"]
        assert told["in_force.lr_d"] == pytest.approx(
            config["lr_g"] * config["lr_d_ratio"] * told["in_force.lr_factor_d"], rel=1e-12
        )
    assert {row.state for row in rows if row.samples_seen >= 1200} == {"finished"}
