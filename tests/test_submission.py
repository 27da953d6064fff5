"""A search that a cluster carries: handed over once, followed by whoever asks again, and never stopped by it."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from ray.job_submission import JobStatus

from gantune.cli.search import command
from gantune.driver import submission
from gantune.errors import RunError
from gantune.space import load_space

SPACE = Path(__file__).parent.parent / "search_spaces/mlp_toy.yaml"


class Jobs:
    """What answers in the cluster's place. `ends`: how jobs end, once they have been followed."""

    def __init__(self, ends=JobStatus.SUCCEEDED, exit_code=0):
        self.ends, self.exit_code = ends, exit_code
        self.submitted = []

    def list_jobs(self):
        return self.submitted

    def submit_job(self, *, entrypoint, runtime_env, metadata):
        self.space = load_space(Path(runtime_env["working_dir"]) / "space.yaml")
        job = SimpleNamespace(
            submission_id=f"job-{len(self.submitted)}",
            entrypoint=entrypoint,
            metadata=metadata,
            status=JobStatus.RUNNING,
            message="a reason",
            driver_exit_code=None,
        )
        self.submitted.append(job)
        return job.submission_id

    async def tail_job_logs(self, name):
        yield f"the log of {name}\n"
        job = self.get_job_info(name)
        job.status, job.driver_exit_code = self.ends, self.exit_code

    def get_job_info(self, name):
        return next(job for job in self.submitted if job.submission_id == name)


@pytest.fixture
def jobs(monkeypatch):
    jobs = Jobs()
    monkeypatch.setattr(submission, "JobSubmissionClient", lambda address: jobs)
    monkeypatch.delenv("GANTUNE_STORAGE", raising=False)
    return jobs


def search(*words):
    return CliRunner().invoke(command, [str(SPACE), "--submit", "--runs", "/mnt/runs", *words])


def test_the_head_searches_the_space_as_it_is_read_here(jobs):
    done = search("--set", "budget.trials=7", "--name", "mine", "--from", "other run", "--track", "wandb")
    assert done.exit_code == 0, done.output
    (job,) = jobs.submitted
    assert jobs.space.budget.trials == 7
    assert shlex.split(job.entrypoint)[:3] == ["gantune", "search", "space.yaml"]
    assert shlex.split(job.entrypoint)[3:] == [
        *("--name", "mine", "--runs", "/mnt/runs", "--address", "auto", "--from", "other run", "--track", "wandb")
    ]
    assert "handed over as job-0" in done.output
    assert "the log of job-0" in done.output


def test_the_same_command_follows_what_is_under_way_and_begins_again_what_has_ended(jobs):
    jobs.ends = JobStatus.RUNNING  # the connection is lost
    first = search()
    assert isinstance(first.exception, RunError)
    assert "goes on" in str(first.exception)
    jobs.ends = JobStatus.SUCCEEDED
    assert "following job-0" in search().output
    assert len(jobs.submitted) == 1
    assert "handed over as job-1" in search().output
    assert "handed over as job-2" in search("--name", "another").output


def test_a_job_that_failed_is_told_and_one_that_was_stopped_exits_with_130(jobs):
    jobs.ends, jobs.exit_code = JobStatus.FAILED, 1
    assert "failed: a reason" in str(search().exception)
    jobs.exit_code = 130
    assert search().exit_code == 130
    jobs.ends = JobStatus.STOPPED
    assert search().exit_code == 130


def test_where_no_cluster_answers_the_way_to_one_is_told(monkeypatch):
    def refuse(address):
        raise ConnectionError(f"nobody at {address}")

    monkeypatch.setattr(submission, "JobSubmissionClient", refuse)
    error = search("--address", "http://127.0.0.1:1").exception
    assert isinstance(error, RunError)
    assert "http://127.0.0.1:1" in str(error)
    assert "ray dashboard" in str(error)


@pytest.mark.parametrize(
    ("words", "why"), [(["--runs", "runs"], "from its root"), (["--storage", "postgresql://x"], "password")]
)
def test_what_would_mean_another_place_or_show_a_password_is_refused(jobs, words, why):
    done = search(*words)
    assert done.exit_code == 2
    assert why in done.output
    assert jobs.submitted == []
