"""Whether a cluster is open is asked as anybody could ask: without a token."""

import http.server
import os
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from gantune.cli.doctor import command
from gantune.driver.exposure import exposure
from gantune.errors import SpecError

ASK_ITSELF = """
import ray
from gantune.driver.exposure import exposure
ray.init("local", include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
print("found", exposure(ray.get_runtime_context().gcs_address))
"""


@pytest.fixture
def jobs():
    """An address that answers as Ray's jobs do, with the status that is set."""

    class Answer(http.server.BaseHTTPRequestHandler):
        status = 200

        def do_GET(self):
            self.send_response(self.status if self.path == "/api/jobs/" else 404)
            self.end_headers()

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Answer, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "expected", "word"),
    [(200, "open", "CVE-2023-48022"), (401, "closed", "wants a token"), (404, "silent", "does not answer")],
)
def test_jobs_for_anybody_are_open_and_a_refusal_is_closed(jobs, status, expected, word):
    answer, address = jobs
    answer.status = status
    assert exposure(address) == expected
    done = CliRunner().invoke(command, ["--address", address])
    assert word in done.output
    assert done.exit_code == (0 if expected == "closed" else 1)


@pytest.mark.parametrize(("mode", "expected"), [("disabled", "open"), ("token", "closed")])
def test_ray_s_books_are_asked_without_the_token_that_is_there(mode, expected):
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "ab" * 32}
    done = subprocess.run(
        [sys.executable, "-c", ASK_ITSELF], env=environment, capture_output=True, text=True, check=False
    )
    assert f"found {expected}" in done.stdout, done.stderr


def test_an_address_that_is_none_is_told():
    with pytest.raises(SpecError, match=r"http://host:port, got `nowhere`"):
        exposure("nowhere")
