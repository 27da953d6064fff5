"""cluster/slurm.sh on three hosts. Stand-ins for srun and scontrol reach them by ssh; Slurm itself is not here."""

import os
import signal
import subprocess
import sys

import yaml

from gantune.results import ENDED
from gantune.run import Run

from .hosts import children
from .test_onprem import HEAD, ROOT, SPACE, WORKERS, lab, note, pytestmark, reports, wait  # noqa: F401

NODES = (HEAD, *WORKERS)
SRUN = """#!/bin/bash
nodes=${SLURM_JOB_NODELIST//,/ }
while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && nodes=${1#*=}; shift; done
for node in $nodes; do
    ssh -o StrictHostKeyChecking=no "$node" "cd '$PWD'; export $(printf '%q ' PATH="$PATH" PYTHONPATH="$PYTHONPATH" \\
        RAY_AUTH_MODE="$RAY_AUTH_MODE" RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=200000000); $(printf '%q ' "$@")" &
done
failed=0
for job in $(jobs -p); do wait "$job" || failed=1; done
exit $failed
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then tr , '\\n' <<< "$3"; else echo "asked for another turn: $*"; fi
"""


def test_a_job_that_is_preempted_comes_back_and_continues(lab, note):  # noqa: F811
    shared, first = lab.shown["/mnt/gantune"], lab.hosts["head"]
    (shared / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (shared / "bin" / name).write_text(text)
        (shared / "bin" / name).chmod(0o755)
    (shared / "venv").symlink_to(sys.prefix)
    (shared / "home").mkdir()  # Slurm's nodes share their homes
    for name in ("head", "one", "two"):
        (lab.hosts[name].disk / "root/.ray").symlink_to("/mnt/gantune/home")
        (lab.hosts[name].disk / "root/.bashrc").write_text("")  # nothing was copied there
    (shared / "space.yaml").write_text(yaml.safe_dump({**SPACE, "budget": {**SPACE["budget"], "trials": 8}}))
    run = Run(shared / "runs/lab")
    logs = [lab.folder / f"slurm-{turn}.log" for turn in (1, 2)]

    def begin(log):
        job = {"SLURM_JOB_NODELIST": ",".join(NODES), "SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_ID": "7"}
        line = f"cd /mnt/gantune && PATH=/mnt/gantune/bin:$PATH exec bash {ROOT}/cluster/slurm.sh space.yaml"
        with log.open("wb") as stream:
            command = first.command(line, GANTUNE_HOME="/mnt/gantune", PYTHONPATH=str(ROOT), **job)
            return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)

    process = begin(logs[0])
    wait(lambda: len(reports(run)) >= 4 or process.poll() is not None, "four trials train")
    assert process.poll() is None, logs[0].read_text()
    (script,) = children(process.pid)
    os.kill(script, signal.SIGUSR1)
    wait(lambda: "asked for another turn: requeue 7" in logs[0].read_text(), "its time is up")
    for name in ("head", "one", "two"):
        lab.hosts[name].cut_power()
    process.wait()
    note("the job was taken its nodes")
    for name in ("head", "one", "two"):
        lab.hosts[name].boot()
    assert begin(logs[1]).wait(timeout=1200) == 0, logs[1].read_text()
    note("the job has ended")
    assert "continuing" in logs[1].read_text()
    assert [trial.state in ENDED for trial in run.trials()] == [True] * 8
    ends = [row.trial for row in run.results.rows() if row.state in ENDED]
    assert sorted(ends) == list(range(8))
