"""cluster/onprem.yaml brought up for real: four hosts, a search, power cuts, and what listens.

Replaced in the shipped file, and nothing else: addresses, user and key; the virtual environment, which is that of these
tests, so that nothing is installed; and Ray's start, which gets little memory, and pretends two GPUs on each worker.
"""

import collections
import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from gantune.results import ENDED
from gantune.run import Run

from .hosts import Lab, missing

ROOT = Path(__file__).parents[2]
HEAD, WORKERS, LAPTOP = "10.77.0.10", ("10.77.0.11", "10.77.0.12"), "10.77.0.20"
TRIALS = 12
SPACE = {
    "version": 1,
    "name": "lab",
    "data": {"dataset": "digits", "size": 8},
    "objective": {"metric": "fid", "samples": {"report": 500, "final": 500}, "reports": 24},
    "budget": {"trials": TRIALS, "samples_per_trial": int(os.environ.get("GANTUNE_LAB_SAMPLES", "60000"))},
    "search": {"sampler": "random", "scheduler": "none", "seed": 0},
    "space": {
        "architecture": {"mlp": {"hidden": 32, "depth": 2, "z_dim": 8}},
        "loss": "non_saturating",
        "optimizer": "adam",
        "lr_g": "log 1e-4..1e-3",
        "batch_size": 32,
    },
}
SEARCH = "cd /mnt/gantune && gantune search space.yaml --address auto"
# What may listen where others reach it: sshd, and what the machines of a Ray cluster say to each other.
BETWEEN_MACHINES = {22, *range(6379, 6388), *range(10001, 11000)}

# Asks for a command without a token, and prints the answer's status.
POST = """python -c '
import urllib.error, urllib.request
body = b"{{\\"entrypoint\\": \\"touch /tmp/owned\\"}}"
asked = urllib.request.Request("http://{at}/{path}", body, {{"Content-Type": "application/json"}}, method="POST")
try:
    print(urllib.request.urlopen(asked, timeout=60).status)
except urllib.error.HTTPError as refused:
    print(refused.code)
'"""

pytestmark = [
    pytest.mark.skipif("GANTUNE_LAB" not in os.environ, reason="takes minutes: make lab"),
    pytest.mark.skipif(bool(missing()), reason=f"a lab of hosts {missing()}"),
    pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="needs pip install '.[cluster]'"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    (folder / "nfs").mkdir()
    code = {str(Path(path)): Path(path) for path in (sys.prefix, sys.base_prefix, ROOT, *_packages())}
    lab = Lab(folder, {"/mnt/gantune": folder / "nfs", **code})
    try:
        for name, address in {"head": HEAD, "one": WORKERS[0], "two": WORKERS[1], "laptop": LAPTOP}.items():
            lab.host(name, address)
            # the code that `ray up` copies goes before the checkout that the tests' environment was installed from
            (lab.hosts[name].disk / "root/.bashrc").write_text("export PYTHONPATH=~/gantune OMP_NUM_THREADS=1\n")
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def note(request):
    """Tells the minutes as they pass."""
    began, capture = time.monotonic(), request.config.pluginmanager.getplugin("capturemanager")

    def tell(what: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"{time.monotonic() - began:6.0f} s  {what}", flush=True)

    return tell


@pytest.fixture(scope="module")
def cluster(lab, note):
    """The lab after `ray up` of the shipped file, both workers there."""
    laptop = lab.hosts["laptop"]
    (laptop.disk / "root/lab.yaml").write_text(yaml.safe_dump(shipped("--object-store-memory=200000000")))
    laptop.run("ray get-auth-token --generate")
    laptop.run(f"cd {ROOT} && ray up --yes /root/lab.yaml")
    note("`ray up` is back")
    for name in ("one", "two"):
        wait(lambda host=lab.hosts[name]: 6380 in open_ports(host), f"Ray on {name}")
    note("both workers are there")
    return lab


def _packages():
    return [path for path in sys.path if path.endswith("site-packages")]


def shipped(start: str) -> dict:
    """The shipped file with what is replaced; `start`: what is added to Ray's start everywhere."""
    config = yaml.safe_load((ROOT / "cluster/onprem.yaml").read_text())
    config["provider"] |= {"head_ip": HEAD, "worker_ips": list(WORKERS)}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    commands = [line for line in config["setup_commands"] if "pip install" not in line]
    assert len(commands) == len(config["setup_commands"]) - 1
    config["setup_commands"] = [line.replace("~/gantune-venv", sys.prefix) for line in commands]
    for kind, more in {"head": start, "worker": f"{start} --num-gpus=2"}.items():
        config[f"{kind}_start_ray_commands"][-1] += f" {more}"
    return config


class Search:
    """`gantune search`, started on the head from the laptop."""

    def __init__(self, laptop, log: Path) -> None:
        self._log = log
        with log.open("ab") as stream:
            line = f"cd {ROOT} && ray exec /root/lab.yaml '{SEARCH}'"
            self.process = subprocess.Popen(laptop.command(line), stdout=stream, stderr=subprocess.STDOUT)

    def text(self) -> str:
        return self._log.read_text()

    def end(self) -> int:
        return self.process.wait(timeout=1200)


def wait(until, what: str, seconds: float = 600):
    end = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.5)
    return found


def reports(run: Run) -> collections.Counter:
    """How many reports each trial has in the results."""
    with contextlib.suppress(OSError):
        return collections.Counter(row.trial for row in run.results.rows())
    return collections.Counter()


def on(host, line: str, **options):
    return host.run(f"bash -ic {json.dumps(line)}", **options)


def open_ports(host) -> set[int]:
    """The ports on which a host listens, but for those of its loopback."""
    listening = (line.split()[3].rpartition(":") for line in host.run("ss -ltnH").stdout.splitlines())
    return {
        int(port)
        for address, _, port in listening
        if not address.strip("[]").startswith(("127.", "::1", "::ffff:127."))
    }


def test_nothing_listens_where_others_reach_it_but_what_machines_say_to_each_other(cluster):
    for name in ("head", "one"):
        assert open_ports(cluster.hosts[name]) <= BETWEEN_MACHINES, name
    assert {22, 6379, 10001} <= open_ports(cluster.hosts["head"])
    assert "127.0.0.1:8265" in cluster.hosts["head"].run("ss -ltnH").stdout


def test_who_has_no_token_runs_nothing(cluster):
    head, other = cluster.hosts["head"], cluster.hosts["two"]
    for name, at, path in (("head", "127.0.0.1:8265", "api/jobs/"), ("two", f"{HEAD}:6383", "api/job_agent/jobs/")):
        asked = cluster.hosts[name].run(POST.format(at=at, path=path), check=False)
        assert asked.stdout.strip() in ("401", "403"), asked
    assert not head.run("ls /tmp").stdout.count("owned")
    assert "wants a token" in on(other, f"gantune doctor --address {HEAD}:6379").stdout
    wrong = ("RAY_AUTH_MODE=disabled", f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'0' * 64}")
    for address, tokens in ((f"{HEAD}:6379", wrong), (f"ray://{HEAD}:10001", wrong[:1])):
        join = f"""python -c 'import ray; ray.init("{address}"); print("joined", len(ray.nodes()))'"""
        assert "joined" in on(other, join).stdout  # with the token that `ray up` left there
        for settings in tokens:
            refused = on(other, f"{settings} timeout 200 {join}", check=False)
            assert refused.returncode == 1, (address, refused)
            # Ray's client only says that nobody answered
            assert re.search("(?i)authenticat|token|ray client connection timeout", refused.stderr), refused


def test_a_search_that_is_handed_over_goes_on_without_the_one_that_asked(cluster, note):
    laptop, shared = cluster.hosts["laptop"], cluster.shown["/mnt/gantune"]
    (laptop.disk / "root/space.yaml").write_text(yaml.safe_dump(SPACE))
    forward = "-o StrictHostKeyChecking=no -o ExitOnForwardFailure=yes -f -N -L 8265:127.0.0.1:8265"
    search = "gantune search space.yaml --submit --name handed --runs /mnt/gantune/runs --set budget.trials=5"
    log = cluster.folder / "submitted.log"
    with log.open("wb") as stream:
        line = f"ssh {forward} {HEAD} && cd && {search}"
        asking = laptop.command(line, PYTHONPATH=str(ROOT), RAY_AUTH_MODE="token")
        process = subprocess.Popen(asking, stdout=stream, stderr=subprocess.STDOUT)
    wait(lambda: "lower is better" in log.read_text() or process.poll() is not None, "its log is followed", 120)
    assert "handed over" in log.read_text(), log.read_text()
    laptop.cut_power()
    laptop.boot()
    run = Run(shared / "runs/handed")
    wait(lambda: [trial.state in ENDED for trial in run.trials()] == [True] * 5, "all trials have ended")
    note("the search that was handed over has ended")
    laptop.run(f"cd {ROOT} && ray up --yes /root/lab.yaml")  # it has forgotten the cluster, so Ray begins again


def test_search_survives_power_cuts_of_a_worker_and_of_the_head(cluster, note):
    lab, laptop, head = cluster, cluster.hosts["laptop"], cluster.hosts["head"]
    shared = lab.shown["/mnt/gantune"]
    (shared / "space.yaml").write_text(yaml.safe_dump(SPACE))
    run = Run(shared / "runs/lab")
    search = Search(laptop, lab.folder / "search-1.log")
    wait(lambda: len(reports(run)) >= 4 or search.process.poll() is not None, "four trials train")
    assert search.process.poll() is None, search.text()
    note("four trials train on two workers")
    assert "torch sees none, so its trials train on the CPU" in search.text()

    lab.hosts["one"].cut_power()
    before = reports(run)
    note(f"worker one is cut off at {sum(before.values())} reports")
    wait(lambda: sum(reports(run).values()) > sum(before.values()) + 3 * SPACE["objective"]["reports"], "it goes on")
    note("the search has gone on")

    head.cut_power()
    assert search.end() != 0
    note(f"the head is cut off, {len(reports(run))} trials known")
    lab.hosts["one"].boot()
    head.boot()
    laptop.run(f"cd {ROOT} && ray up --yes --no-config-cache /root/lab.yaml")
    note("`ray up` is back again")

    search = Search(laptop, lab.folder / "search-2.log")
    assert search.end() == 0, search.text()
    assert "continuing" in search.text()
    note("the search has ended")

    rows = list(run.results.rows())
    ends = collections.Counter(row.trial for row in rows if row.state in ENDED)
    assert ends == dict.fromkeys(range(TRIALS), 1)  # none lost, none doubled
    assert len({(row.trial, row.samples_seen) for row in rows}) == len(rows)
    assert {row.state for row in rows} <= {"running", "finished", "collapsed"}
    gantune = [sys.executable, "-m", "gantune", "best", str(run.folder)]
    best = subprocess.run(gantune, capture_output=True, text=True, check=True, cwd=ROOT)
    assert f"{TRIALS} trials" in best.stdout

    laptop.run(f"cd {ROOT} && ray down --yes /root/lab.yaml")
    wait(lambda: head.run("pgrep -f gcs_server", check=False).returncode == 1, "Ray is down")
    note("`ray down` has ended it")
