"""What other tools make of a run: docs/tools.md says how, and is run as it stands."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import make_run

from gantune.results import SCHEMA

PAGE = Path(__file__).parent.parent / "docs" / "tools.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
OLDEST = {"polars": "2.0"}  # the first that knows maps
MAPS = ("metrics", "evidence")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One in which a row is just being written."""
    run = make_run(tmp_path_factory.mktemp("made") / "runs", trials=6, name="dcgan", weights=False)
    last = run.results.rows()[-1]
    run.results.append(replace(last, samples_seen=last.samples_seen + 1, metrics={}, score=None))  # a part of its own
    (run.folder / "results" / ".part-000099.partial").write_bytes(b"PAR1 and no more")
    return run


def written(run):
    """Every row, as plain values."""
    return plain(run.table().to_pylist())


def plain(rows):
    rows = [{name: dict(row[name]) if name in MAPS else row[name] for name in SCHEMA.names} for row in rows]
    return sorted(rows, key=lambda row: (row["run_seconds"], row["trial"], row["samples_seen"]))


def execute(package, run, monkeypatch):
    pytest.importorskip(package, minversion=OLDEST.get(package), reason=f"{package} is not installed, or too old")
    (snippet,) = [snippet for snippet in SNIPPETS if f"import {package}\n" in snippet]
    monkeypatch.chdir(run.folder.parent.parent)
    names = {}
    exec(compile(snippet, str(PAGE), "exec"), names)
    return names["table"]


def known(values):
    return sorted(value for value in values if value is not None and not math.isnan(value))


def recalls(run):
    return known(row["metrics"].get("recall") for row in written(run) if row["metrics"])


def test_page_has_a_snippet_for_each_tool():
    assert [re.search(r"import (\w+)", snippet)[1] for snippet in SNIPPETS] == ["pandas", "polars", "duckdb"]


def test_pandas_reads_the_results_as_run_table_gives_them(run, monkeypatch):
    table = execute("pandas", run, monkeypatch)
    rows = json.loads(json.dumps(table.astype(object).where(table.notna(), None).to_dict("records"), default=list))
    assert plain(rows) == written(run)
    assert known(table["recall"]) == recalls(run)


def test_polars_reads_the_results_as_run_table_gives_them(run, monkeypatch):
    table = execute("polars", run, monkeypatch)
    rows = table.to_dicts()
    assert plain(rows) == written(run)
    assert known(table["recall"]) == recalls(run)


def test_duckdb_reads_the_results_as_run_table_gives_them(run, monkeypatch):
    table = execute("duckdb", run, monkeypatch)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()]
    assert plain(rows) == written(run)
    assert known(row["recall"] for row in rows) == recalls(run)
