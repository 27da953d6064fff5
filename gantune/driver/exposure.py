"""Whether a cluster does what anybody asks: Ray runs commands for whoever reaches it, unless it wants a token."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Literal

from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.services import canonicalize_bootstrap_address

from gantune.errors import SpecError

Exposure = Literal["open", "closed", "silent"]
SECONDS = 60
OPEN = (
    "is open: it wants no token, so whoever reaches it runs commands there (ShadowRay, CVE-2023-48022). To close it: "
    "`ray get-auth-token --generate`, the file ~/.ray/auth_token on every machine, RAY_AUTH_MODE=token before every "
    "`ray start` and `gantune search`, and a firewall; the files in cluster/ do all of it but the firewall"
)
# Asked in a process of its own: Ray reads once whether it has a token.
PROBE = """
import sys
import ray
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, 10)
except ray.exceptions.AuthenticationError:
    sys.exit(3)
"""


def exposure(address: str) -> Exposure:
    """What a cluster says to one who has no token; `silent` where nobody answers.

    address: as Ray takes it, `auto` or host:port, or that of its jobs, http://host:port. Raises SpecError for another.
    """
    if address.startswith(("http://", "https://")):
        return _of_jobs(address)
    try:
        found = canonicalize_bootstrap_address(address)
    except ValueError as error:
        raise SpecError(f"--address: must be auto, host:port or http://host:port, got `{address}`") from error
    if found is None:
        return "silent"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    try:
        asked = subprocess.run(
            [sys.executable, "-c", PROBE, found],
            env={**environment, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "silent"
    return {0: "open", 3: "closed"}.get(asked.returncode, "silent")  # type: ignore[return-value]


def _of_jobs(address: str) -> Exposure:
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/jobs/", timeout=SECONDS):
            return "open"
    except urllib.error.HTTPError as answer:
        return "closed" if answer.code in (401, 403) else "silent"
    except OSError:
        return "silent"


def joined_without_token() -> bool:
    """Whether this process, which has joined a cluster, needed no token for it."""
    return not is_token_auth_enabled()
