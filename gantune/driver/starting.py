"""Whether Ray starts on this machine, tried in a process that ends with it."""

import os
import subprocess
import sys

SECONDS = 120
PROBE = """
import ray
ray.init("local", include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
assert ray.get(ray.remote(lambda: 1).remote()) == 1
ray.shutdown()
"""


def why_ray_does_not_start() -> str:
    """The last line of what it said; nothing where it starts and runs a task."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS}s"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1] if done.returncode else ""
