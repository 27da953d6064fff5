"""A search that is handed over to a cluster as one of Ray's jobs, and followed from here."""

import asyncio
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.job_submission import JobStatus, JobSubmissionClient

from gantune.errors import RunError
from gantune.space import SearchSpace
from gantune.writing import dump

ADDRESS = "http://127.0.0.1:8265"  # where `ray dashboard` and ssh bring a cluster's jobs
MARK = "gantune_run"  # in a job's metadata: the run that it carries
UNDER_WAY = (JobStatus.PENDING, JobStatus.RUNNING)


def hand_over(
    space: SearchSpace,
    name: str,
    runs: str,
    earlier: Sequence[str],
    address: str | None,
    say: Callable[[str], None],
    write: Callable[[str], None],
    track: Sequence[str] = (),
) -> bool:
    """Have a cluster's head search, and pass on what it says until it ends; False where a person stopped it.

    runs, earlier: as the head sees them. Where a job carries this run already, it is followed. Whoever stops following
    stops nothing. say: hears what happens here; write: the job's log. Raises RunError where there is no such cluster,
    or the job failed.
    """
    place = f"{runs.rstrip('/')}/{name}"
    client = _client(address or ADDRESS)
    job = _carrier(client, place)
    if job is None:
        words = ["gantune", "search", "space.yaml", "--name", name, "--runs", runs, "--address", "auto"]
        words += [word for run in earlier for word in ("--from", run)]
        words += [word for tracker in track for word in ("--track", tracker)]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "space.yaml").write_text(dump(space.document()), encoding="utf-8")
            job = client.submit_job(
                entrypoint=shlex.join(words), runtime_env={"working_dir": folder}, metadata={MARK: place}
            )
        say(f"{place}: handed over as {job}; it goes on without this machine, and the same command follows it")
    else:
        say(f"{place}: following {job}, which searches already")
    asyncio.run(_follow(client, job, write))
    found = client.get_job_info(job)
    if found.status == JobStatus.FAILED and found.driver_exit_code != 130:
        raise RunError(f"{place}: {job} failed: {found.message}; nothing is lost, the same command continues")
    if found.status in UNDER_WAY:
        raise RunError(f"{place}: {job} cannot be followed any more, but goes on; the same command follows it again")
    return bool(found.status == JobStatus.SUCCEEDED)


def _client(address: str) -> Any:
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(
            f"no cluster takes jobs at {address}: {error}; `ray dashboard` brings them here through ssh, and a cluster "
            "with a token needs it in ~/.ray/auth_token, and RAY_AUTH_MODE=token"
        ) from error


def _carrier(client: Any, place: str) -> str | None:
    """The job that carries a run at this moment."""
    jobs = (job for job in client.list_jobs() if job.status in UNDER_WAY)
    return next((job.submission_id for job in jobs if (job.metadata or {}).get(MARK) == place), None)


async def _follow(client: Any, job: str, write: Callable[[str], None]) -> None:
    async for lines in client.tail_job_logs(job):
        write(lines)
