import json
import math
import random
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from made_runs import CAUSES, SPACE, make_run
from PIL import Image

from gantune.domains import Branch, Choice, Uniform
from gantune.errors import GantuneError
from gantune.export.folder import REPORT
from gantune.pictures import TARGET_WIDTH, cell_of, enough_of_a_moment, save_samples
from gantune.report.collapse_map import Death, collapse_map
from gantune.report.drawn import clear
from gantune.report.figures import expected_best, ticks
from gantune.report.page import page, write_report
from gantune.reports import BEST
from gantune.run import Run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
QUIET += ["--disable-component-update", "--disable-quic"]


# What a curve says


@pytest.mark.parametrize("scores", [[3.0], [1.0, 2.0], [5.0, 1.0, 4.0, 4.0, 9.0, 2.5]])
def test_the_expected_best_is_what_random_draws_come_to(scores):
    curve, stream = expected_best(scores), random.Random(0)
    assert curve[0] == pytest.approx(sum(scores) / len(scores))
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(curve))
    n = len(scores)
    drawn = [min(stream.choices(scores, k=n)) for _ in range(20_000)]
    assert curve[-1] == pytest.approx(sum(drawn) / len(drawn), rel=0.03)


@pytest.mark.parametrize(("low", "high"), [(1e-5, 1e-2), (12.0, 45.0), (3.0, 900.0), (7.0, 7.0)])
def test_a_logarithmic_axis_names_round_values_around_all_of_its_own(low, high):
    axis = ticks([low, high])
    assert min(axis["tickvals"]) <= low
    assert max(axis["tickvals"]) >= high
    assert all(
        float(text) == pytest.approx(place) for place, text in zip(axis["tickvals"], axis["ticktext"], strict=True)
    )


# The map of collapse

DOMAINS = {
    "lr_g": Uniform(low=1e-5, high=1e-2, log=True, integer=False),
    "depth": Uniform(low=2, high=4, log=False, integer=True),
    "loss": Choice(("hinge", "minimax")),
    "penalty": Branch({"none": {}, "r1": {}}),
}


def deaths(count, dies, seed=0):
    stream = random.Random(seed)
    found = []
    for number in range(count):
        parameters = {
            "lr_g": 10 ** stream.uniform(-5, -2),
            "depth": stream.randint(2, 4),
            "loss": stream.choice(["hinge", "minimax"]),
            "penalty": stream.choice(["none", "r1"]),
        }
        dead = dies(parameters)
        outcome = "mode_collapse" if dead else "finished"
        found.append(Death(number=number, outcome=outcome, dead=dead, parameters=parameters))
    return found


@pytest.mark.parametrize(
    ("path", "dies", "region"),
    [
        ("lr_g", lambda values: values["lr_g"] > 10**-2.6, "0.0025..0.01"),
        ("depth", lambda values: values["depth"] == 4, "4"),
        ("loss", lambda values: values["loss"] == "minimax", "minimax"),
        ("penalty", lambda values: values["penalty"] == "none", "none"),
    ],
)
def test_the_parameter_by_which_runs_die_tells_the_most(path, dies, region):
    found = collapse_map(DOMAINS, deaths(80, dies))
    assert found[0].path == path
    assert max(found[0].regions, key=lambda one: one.share).value == region
    assert all(one.information <= 0.05 for one in found[1:])
    assert sum(part.trials for part in found[0].regions) == 80


def test_deaths_by_chance_tell_nothing_in_the_mean():
    told = []
    for seed in range(40):
        chance = random.Random(seed + 1000).random
        found = deaths(40, lambda _, chance=chance: chance() < 0.3, seed)
        told += [one.information for one in collapse_map(DOMAINS, found)]
    assert abs(sum(told) / len(told)) < 0.01


def test_a_parameter_that_does_not_vary_is_not_told_of():
    same = [replace(one, parameters={**one.parameters, "loss": "hinge"}) for one in deaths(20, lambda _: True)]
    assert "loss" not in {one.path for one in collapse_map(DOMAINS, same)}


# Pictures


@pytest.mark.parametrize("side", [8, 28, 50, 128])
@pytest.mark.parametrize("width", [0, TARGET_WIDTH])
def test_a_grid_on_the_disk_tells_the_side_of_its_pictures_and_its_gaps_become_clear(tmp_path, side, width):
    count = enough_of_a_moment((3, side, side))
    save_samples(np.zeros((count, 3, side, side), np.uint8), tmp_path / "grid.png", width)
    with Image.open(tmp_path / "grid.png") as sheet:
        factor = cell_of(sheet) // side
        assert factor == max(1, width // (sheet.width // factor))
        opaque = np.asarray(clear(sheet, side))[:, :, 3] == 255
    assert opaque.sum() == count * (side * factor) ** 2


def test_a_cloud_of_points_is_no_grid(tmp_path):
    save_samples(np.zeros((100, 2), np.float32), tmp_path / "cloud.png")
    with Image.open(tmp_path / "cloud.png") as image:
        assert cell_of(image) is None


# The page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"), trials=40)


@pytest.fixture(scope="module")
def text(run):
    return page(run)


def own(text):
    """The page without the library's script."""
    return re.sub(r"<script>.*?</script>", "", text, flags=re.S)


def test_everything_the_page_shows_is_inside_it(text):
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', own(text))
    assert "@import" not in text[: text.index("</style>")]
    assert "url(" not in text[: text.index("</style>")]


def test_every_drawing_has_its_place_and_every_place_its_drawing(text):
    places = re.findall(r'id="plot-([^"]+)"', text)
    drawings = re.findall(r'<script type="application/json" id="data-([^"]+)">(.*?)</script>', text, re.S)
    assert sorted(places) == sorted(name for name, _ in drawings)
    assert {"progress", "curves", "parallel", "importance-0", "deaths-0", "rungs"} <= set(places)
    for _, content in drawings:
        assert json.loads(content)["data"]


def test_the_page_tells_the_winner_the_dead_and_how_to_have_it_again(run, text):
    best = run.best()
    assert f"trial #{best.number}" in text
    assert f"gantune replay {best.number} " in text
    for trial in run.trials():
        assert f'<td data-value="{trial.number}">#{trial.number}' in text
        if trial.state == "collapsed":
            assert CAUSES[trial.verdict] in text.replace("&#39;", "'")


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_a_run_that_has_hardly_begun_has_a_page(tmp_path, trials):
    run = make_run(tmp_path, trials=trials, running=0, weights=False)
    text = page(run)
    assert ("no trial has reported yet" in text) == (trials == 0)


def test_a_run_in_which_all_collapsed_has_no_winner_and_says_why(tmp_path):
    space = {**SPACE, "space": {**SPACE["space"], "lr_g": "log 5e-3..1e-2"}}
    space.pop("baseline")
    run = make_run(tmp_path, trials=6, running=0, space=space, weights=False)
    text = page(run)
    assert "No winner" in text
    assert "no trial survived" in text
    assert text.count('class="deaths"') == 1


def test_trials_that_met_no_constraints_are_shown_at_their_lowest_score(tmp_path):
    run = make_run(tmp_path, trials=8, weights=False)
    rows = [replace(row, best_score=None) for row in run.results.rows()]
    shutil.rmtree(run.folder / "results")
    for row in rows:
        run.results.append(row)
    text = page(Run(run.folder))
    assert text.count("constraints not met") == 8
    assert "No report has met the constraints yet" in text
    assert 'id="plot-progress"' not in text


def test_weights_that_were_let_go_leave_the_picture_of_the_moment_and_the_remedy(tmp_path):
    run = make_run(tmp_path, trials=8)
    (run.trial_folder(run.best().number) / BEST).unlink()
    text = page(run)
    assert re.search(r'class="samples">\s*<img src="data:image/webp', text)
    assert "gantune replay" in text[: text.index("How it came to that")]


def test_a_page_does_without_pictures_that_were_deleted(tmp_path):
    run = make_run(tmp_path, trials=8, weights=False)
    for path in run.folder.glob("trials/*/*.png"):
        path.unlink()
    assert "There is no picture of its samples" in page(run)


def test_a_page_passes_over_a_picture_that_is_damaged_or_being_written(tmp_path):
    run = make_run(tmp_path, trials=6, running=1)
    best = run.trial_folder(run.best().number)
    paths = [*run.folder.glob("trials/*/*.png")]
    for at, path in enumerate(paths):
        if path != max(best.glob("*.png")):
            path.write_bytes(path.read_bytes()[: (0, 50, path.stat().st_size // 2)[at % 3]])
    shown = page(run)
    assert shown.count('alt="Samples after') == 1
    assert '<img src=""' not in shown


def test_a_page_needs_no_space_file_for_the_manifest_has_it(tmp_path):
    run = make_run(tmp_path, trials=2, running=0, weights=False)
    told = re.search(r"<pre[^>]*>version: 1.*?</pre>", page(run), re.DOTALL)
    (run.folder / "space.yaml").unlink()
    assert re.search(r"<pre[^>]*>version: 1.*?</pre>", page(run), re.DOTALL)[0] == told[0]


def test_what_users_wrote_cannot_become_markup(tmp_path):
    run = make_run(tmp_path, trials=8, weights=False, score="fid_<img src=x onerror=alert(1)>")
    rows = run.results.rows()
    dead = (
        next(row for row in rows if row.state == "collapsed") if any(r.state == "collapsed" for r in rows) else rows[-1]
    )
    evil = replace(
        dead, state="collapsed", cause="</script><script>alert(2)</script>", run_seconds=1e6, samples_seen=9999
    )
    run.results.append(evil)
    text = page(Run(run.folder))
    assert "<img src=x" not in text
    assert "<script>alert(2)" not in text


def test_finalists_under_fresh_seeds_have_their_spread(tmp_path):
    run = make_run(tmp_path, trials=12, running=0, weights=False)
    first, second = sorted((t for t in run.trials() if t.final_score), key=lambda trial: trial.final_score)[:2]
    rows = {(row.trial, row.state): row for row in run.results.rows()}
    for trial in (first, second):
        for repeat in (1, 2):
            metrics = {"final_score": trial.final_score + repeat}
            again = replace(rows[trial.number, "finished"], repeat=repeat, metrics=metrics, run_seconds=1e5 + repeat)
            run.results.append(again)
    assert "Under fresh seeds" in page(Run(run.folder))


def test_a_run_at_a_uri_has_its_page_with_pictures_and_keeps_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTUNE_CACHE", str(tmp_path / "cache"))
    run = make_run(tmp_path / "bucket", trials=6, weights=True)
    away = Run.open(f"file://{run.folder}", tmp_path)
    text = page(away)
    assert text.count("data:image/webp") == page(run).count("data:image/webp") > 10
    assert len([*run.folder.glob("trials/*/samples-*.png")]) > 10
    assert "gantune search space.yaml" in text


def test_a_search_without_stops_says_so(tmp_path):
    run = make_run(tmp_path, trials=4, weights=False, space={**SPACE, "search": {"scheduler": "none"}})
    assert "there are no rungs" in page(run)


def test_a_score_that_may_be_negative_is_drawn_on_a_plain_axis(tmp_path):
    run = make_run(tmp_path, trials=12, weights=False)
    rows = [replace(row, score=row.score - 100, best_score=row.best_score - 100) for row in run.results.rows()]
    shutil.rmtree(run.folder / "results")
    for row in rows:
        run.results.append(row)
    drawings = dict(re.findall(r'id="data-([^"]+)">(.*?)</script>', page(Run(run.folder)), re.S))
    assert json.loads(drawings["curves"])["layout"]["yaxis"].get("type") != "log"


def test_a_page_that_cannot_be_written_is_one_message(run, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(GantuneError, match=r"cannot be written.*--out"):
        write_report(run, tmp_path / "file" / "page.html")


def test_the_command_writes_the_page_into_the_run(run, gantune):
    code, out, _ = gantune("report", run.folder)
    assert code == 0
    assert (run.folder / REPORT).stat().st_size > 1e6
    assert str(run.folder / REPORT) in out


def test_an_export_has_the_report_of_its_search(run, tmp_path, gantune):
    code, out, _ = gantune("best", run.folder, "--export", tmp_path / "winner")
    assert code == 0
    exported = (tmp_path / "winner" / REPORT).read_text(encoding="utf-8")
    assert f"trial #{run.best().number}" in exported
    assert REPORT in out
    assert f"| `{REPORT}` |" in (tmp_path / "winner" / "README.md").read_text(encoding="utf-8")


# In a browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=found, args=QUIET)
        except api.Error as error:
            pytest.skip(f"no browser to look at the report with: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def written(run, text, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / REPORT
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, written):
    """Opens the page at a width and in a scheme, and gives it with what its console and network told."""
    contexts = []

    def look(width, scheme):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        looked, told, asked = context.new_page(), [], []
        looked.on(
            "console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None
        )
        looked.on("pageerror", lambda error: told.append(str(error)))
        looked.on("request", lambda request: asked.append(request.url))
        looked.goto(written.as_uri())
        looked.evaluate("drawAll()")
        looked.wait_for_function(
            "document.querySelectorAll('.figure .main-svg').length >= document.querySelectorAll('.figure').length"
        )
        return looked, told, asked

    yield look
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_opens_offline_without_a_complaint_and_fits(opened, written, width, scheme):
    looked, told, asked = opened(width, scheme)
    assert told == []
    assert [url for url in asked if not url.startswith(("data:", "blob:", written.as_uri()))] == []
    assert looked.evaluate("document.documentElement.scrollWidth") <= width
    assert looked.evaluate("[...document.images].filter((image) => !image.complete || !image.naturalWidth).length") == 0
    assert looked.evaluate("document.images.length") > 40
    cut = "[...document.querySelectorAll('.figure')].filter((one) => one.getBoundingClientRect().height < 60).length"
    assert looked.evaluate(cut) == 0


def test_light_and_dark_differ_and_text_can_be_read_in_both(opened):
    contrasts = """() => {
      const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
          .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = light(getComputedStyle(document.body).backgroundColor);
      return ["body", ".note", "nav a", ".xtick text", "figcaption"].map((where) => {
        const one = document.querySelector(where), style = getComputedStyle(one);
        const ink = light(one instanceof SVGElement ? style.fill : style.color);
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
      }).concat(ground);
    }"""
    grounds = []
    for scheme in ("light", "dark"):
        looked, _, _ = opened(1280, scheme)
        *found, ground = looked.evaluate(contrasts)
        assert min(found) >= 4.5  # of WCAG 2, for text
        grounds.append(ground)
    assert grounds[0] > 0.8 > 0.2 > grounds[1]


def test_figures_follow_when_the_scheme_changes(opened):
    looked, told, _ = opened(1280, "light")
    ink = "getComputedStyle(document.querySelector('#plot-curves .xtick text')).fill"
    before = looked.evaluate(ink)
    looked.emulate_media(color_scheme="dark")
    looked.wait_for_function(f"{ink} !== {before!r}")
    assert told == []


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(opened, run):
    looked, told, _ = opened(1280, "light")
    column = """(name) => {
      const table = document.querySelector("table.sortable");
      const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === name);
      return [...table.tBodies[0].rows].map((row) => row.cells[at].dataset.value);
    }"""

    def click(name):
        looked.locator("table.sortable thead th").get_by_text(name, exact=True).click()
        return looked.evaluate(column, name)

    for name in ("trial", "fid_classifier", "lr_g", "batch_size"):
        values = [float(value) for value in click(name) if value]
        assert values == sorted(values)
        values = [float(value) for value in click(name) if value]
        assert values == sorted(values, reverse=True)
    words = click("outcome")
    assert words == sorted(words)
    finals = click("final")
    told_last = [value == "" for value in finals]
    assert told_last == sorted(told_last)
    assert any(told_last)
    assert not all(told_last)
    looked.locator("table.sortable thead th").get_by_text("trial", exact=True).press("Enter")
    assert [int(value) for value in looked.evaluate(column, "trial")] == sorted(trial.number for trial in run.trials())
    assert told == []


def test_lines_of_the_learning_curves_stand_where_the_rows_say(opened, run):
    looked, _, _ = opened(1280, "light")
    found = looked.evaluate(
        "document.getElementById('plot-curves').data.flatMap((line) => line.y).filter((y) => y !== null)"
    )
    rows = [row.score for row in run.results.rows() if row.score is not None]
    again = [row.score for row in run.results.rows() if row.trial in (0, run.best().number) and row.score is not None]
    assert math.fsum(found) == pytest.approx(math.fsum(rows) + math.fsum(again))
