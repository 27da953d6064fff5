"""The documentation's site: it builds without a word of complaint, and fetches nothing where it is read."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gantune.cli.main import VERBS
from gantune.metrics.reference import METRICS
from gantune.plugins import TOPICS, names
from gantune.space import SECTIONS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("mkdocs_jupyter") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material or mkdocs-jupyter is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """What a page shows, and what it has a browser load."""

    def __init__(self, path):
        super().__init__()
        self.text, self.loads = "", []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.loads += [given[key] for key in ("src", "srcset", "data") if given.get(key)]
        self.loads += [given["href"]] if tag in ("link", "use", "image") and given.get("href") else []

    def handle_data(self, data):
        self.text += data


def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 14
    for path in pages:
        assert not [each for each in Page(path).loads if re.match(r"(\w+:)?//", each)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(\w+:)?//", path.read_text(encoding="utf-8")), path


def test_reference_names_every_component_section_metric_and_command(site):
    shown = {path.parent.name: Page(path).text for path in (site / "reference").glob("*/index.html")}
    assert sorted(shown) == ["commands", "components", "metrics", "space"]
    missing = [name for kind in TOPICS.values() for name in names(kind) if name not in shown["components"]]
    missing += [name for name in METRICS if name not in shown["metrics"]]
    missing += [name for name in SECTIONS if name not in shown["space"]]
    missing += [verb for verb in VERBS if f"gantune {verb}" not in shown["commands"]]
    assert missing == []


def test_extending_shows_the_examples_as_they_are_tested(site):
    text = Page(site / "extending" / "index.html").text
    for path in (ROOT / "docs" / "examples").glob("*.py"):
        assert "".join(path.read_text(encoding="utf-8").split()) in "".join(text.split())


def test_every_page_is_in_the_navigation():
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb")]
    assert [page for page in pages if not re.search(rf"[ :]{re.escape(page)}$", listed, re.MULTILINE)] == []


def test_notebook_is_committed_without_outputs():
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_notebook_runs_from_its_first_cell_to_its_last(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    pytest.importorskip("pandas", reason="pandas is not installed")
    import nbformat

    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output["output_type"] in ("execute_result", "display_data")
    ]
    kinds = {kind for output in shown for kind in output["data"]}
    assert {"text/html", "image/png", "application/vnd.plotly.v1+json"} <= kinds
    assert (tmp_path / "runs" / "notebook" / "tensorboard").is_dir()
