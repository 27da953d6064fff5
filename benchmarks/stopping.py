"""How soon a search ends, and what it leaves, when it is stopped in each of its stages.

    python benchmarks/stopping.py [--stages learning,Ray] [--ways SIGINT,stop]

Prints a table: seconds until the process has ended, seconds until none of its processes is left, its exit code, and
what is left behind. A stage is reached when the run's stage.json tells of it.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from gantune.stage import read_stage

MARK = "GANTUNE_STOPPING"
WAYS = ("SIGINT", "SIGTERM", "stop", "SIGINT twice")
BETWEEN = 0.3  # seconds between two signals
LIMIT = 5.0
SPACE = """
version: 1
name: tiny
data: {dataset: "slow:data"}
objective: {features: "slow:features", samples: {report: 300, final: 300}, reports: 2}
budget: {trials: 4, samples_per_trial: 1000000}
search: {scheduler: none}
resources: {cpus_per_trial: auto}
space:
  architecture: {mlp: {hidden: [32, 64]}}
  loss: hinge
  optimizer: adam
  lr_g: log 1e-4..1e-2
  batch_size: [32, 64]
"""
SLOW = """
import os, time
from gantune.data.digits import digits
from gantune.metrics.features import FeatureNet

def wait(what, report=lambda text: None):
    for step in range(100 * (os.environ.get("SLOW") == what)):
        report(f"{what}: step {step + 1} of 100 ({step + 1}%)")
        time.sleep(0.6)

def data(config):
    wait("data")
    return digits(config)

class Features(FeatureNet):
    def learn(self, images, report=lambda text: None):
        wait("features", report)
        return super().learn(images, report)

def features(shape):
    return Features(shape, shape.classes, "slow")
"""
# A stage's name in stage.json, what is slow to reach it, and whether it is the training, which has none.
STAGES = {
    "loading": ("loading PyTorch and Ray", ""),
    "data": ("opening the data", "data"),
    "features": ("features", "features"),
    "learning": ("learning features (slow)", ""),
    "Ray": ("starting Ray", ""),
    "cost": ("timing how many threads pay", ""),
    "training": ("", ""),
}


@dataclass
class Search:
    """A `gantune search` in a folder, with all its processes marked by an environment variable."""

    folder: Path
    slow: str = ""
    arguments: tuple[str, ...] = ()
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self) -> None:
        """Write the space and its slow parts, and start the search."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tiny.yaml").write_text(SPACE)
        (self.folder / "slow.py").write_text(SLOW)
        self.process = self.call("search", "tiny.yaml", *self.arguments)

    def call(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command of gantune in the folder."""
        environment = {**os.environ, MARK: self.mark, "SLOW": self.slow, "OMP_WAIT_POLICY": "PASSIVE"}
        environment["GANTUNE_CACHE"] = str(self.folder / "cache")
        path = [str(self.folder), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        return subprocess.Popen(
            [sys.executable, "-m", "gantune", *arguments],
            cwd=self.folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def run(self) -> Path:
        """The run's directory."""
        return self.folder / "runs" / "tiny"

    def reach(self, stage: str, seconds: float = 300.0) -> None:
        """Wait for a stage by its name; without one, until a trial trains."""
        until = time.monotonic() + seconds
        while not self._reached(stage):
            if self.process.poll() is not None or time.monotonic() > until:
                code, printed = self.end()
                raise RuntimeError(f"`{stage}` was not reached, exit code {code}: {printed}")
            time.sleep(0.02)

    def _reached(self, stage: str) -> bool:
        now = read_stage(self.run)
        if not stage:
            return now is None and any(self.run.glob("trials/*/config.yaml"))
        return now is not None and now.name == stage

    def stop(self, way: str) -> None:
        """Ask for the end by a signal, by two, or by `gantune stop` from another process."""
        if way == "stop":
            self.asking = self.call("stop", "tiny")
            while not any(self.run.glob("requests/*.json")) and self.asking.poll() is None:
                time.sleep(0.02)
            return
        name, _, twice = way.partition(" ")
        self.process.send_signal(signal.Signals[name])
        if twice:
            time.sleep(BETWEEN)
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.Signals[name])

    def end(self, seconds: float = 120.0) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was printed."""
        printed = self.process.communicate(timeout=seconds)[1]
        return self.process.returncode, printed

    def living(self) -> list[str]:
        """Return the search's processes that are left, by their command lines."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if line and "gantune stop" not in line:  # a zombie has none
                        found.append(line[:60])
        return found

    def litter(self) -> list[str]:
        """Return the half-written files that are left."""
        kinds = ("*.partial", "partial-*", "stage.json")
        return [str(path.relative_to(self.folder)) for kind in kinds for path in self.folder.rglob(kind)]


def measure(stage: str, way: str, folder: Path) -> str:
    """Stop one search, and return a row of the table."""
    name, slow = STAGES[stage]
    search = Search(folder, slow)
    search.start()
    search.reach(name)
    time.sleep(0.5 if name else 6.0)
    search.stop(way)
    began = time.monotonic()
    code, printed = search.end()
    ended = time.monotonic() - began
    while search.living() and time.monotonic() - began < 30:
        time.sleep(0.05)
    gone = time.monotonic() - began
    left = [*search.living(), *search.litter(), *(["a traceback"] if "Traceback" in printed else [])]
    if way == "stop":
        asked = search.asking.communicate(timeout=60)[1].strip().splitlines()[-1]
        left += [] if "stopped; continue" in asked else [asked]
    good = "" if max(ended, gone) <= LIMIT and code == 130 and not left else "  <--"
    return f"{stage:10}  {way:13}  {ended:6.1f}  {gone:6.1f}  {code:4}  {', '.join(left) or 'nothing'}{good}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--ways", default=",".join(WAYS))
    options = parser.parse_args()
    print(f"{'stage':10}  {'way':13}  {'ended':>6}  {'gone':>6}  code  left behind", flush=True)
    for stage in options.stages.split(","):
        for way in options.ways.split(","):
            with tempfile.TemporaryDirectory() as folder:
                print(measure(stage, way, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
