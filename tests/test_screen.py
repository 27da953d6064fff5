"""What a search looks like to its driver's terminal: in place, in any size, and in plain lines elsewhere."""

import io
import re
from dataclasses import replace

import pytest
from made_runs import make_run
from rich.console import Console

from gantune.driver.screen import Screen
from gantune.following import Follower
from gantune.screen import SESSION, Picture, curve, overview, unfinished
from gantune.spending import Limit


class Closed(io.StringIO):
    """A pipe whose reader has gone after the first line."""

    def write(self, text):
        if self.getvalue():
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


class Terminal(io.StringIO):
    """Keeps what is written, and shows it as a terminal does: cursor up, erased lines, lines that scroll."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def shown(self):
        lines, at, column = [""], 0, 0
        for code, what, text in re.findall(r"\x1b\[([?\d;]*)([A-Za-z])|([^\x1b])", self.getvalue()):
            if what == "A":
                at = max(0, at - int(code or 1))
            elif what == "K":
                lines[at] = "" if code == "2" else lines[at][:column]
            elif text == "\r":
                column = 0
            elif text == "\n":
                at, column = at + 1, 0
                lines += [""] * (at + 1 - len(lines))
            elif text:
                lines[at] = lines[at][:column].ljust(column) + text + lines[at][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]


class Books:
    """Books whose situation is given."""

    stage = ""

    def __init__(self, situation):
        self.now = situation

    def situation(self):
        return self.now


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    return Terminal()


@pytest.fixture(scope="module")
def situation(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs"), trials=24, running=3, weights=False)
    found = Follower(run).look().situation
    return replace(found, running=found.waiting, waiting=())  # as if somebody drove the run


def drawn(situation, width=100, height=40, **options):
    file = io.StringIO()
    Console(file=file, force_terminal=True, width=width, height=height, **options).print(Picture(situation))
    return re.sub(r"\x1b\[[\d;]*m", "", file.getvalue()).splitlines()


def test_a_passing_line_is_replaced_on_a_terminal_and_never_shown_elsewhere(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    file = io.StringIO()
    for stream in (terminal, file):
        screen = Screen(stream)
        screen.passing("x" * 50)
        screen.say("done")
    assert terminal.getvalue() == "x" * 19 + "\r\x1b[K" + "done\n"
    assert file.getvalue() == "done\n"


def test_the_picture_is_redrawn_in_place_and_lines_that_stay_stand_above_it(terminal, situation, monkeypatch):
    monkeypatch.setattr("gantune.driver.screen.SECONDS_BETWEEN", -1.0)
    screen, books = Screen(terminal), Books(situation)
    for done in (21, 22, 23):
        books.now = replace(situation, done=done)
        screen.update(books)
        screen.say(f"line {done}")
    shown = terminal.shown()
    assert shown[:3] == ["line 21", "line 22", "line 23"]
    assert sum("23/24" in line for line in shown) == 1
    assert not any("22/24" in line for line in shown)
    assert shown[-1].lstrip().startswith("#23")
    screen.rest(books)
    assert terminal.shown()[3].startswith("[###")  # one line remains
    assert not any("10.0.0.1" in line for line in terminal.shown())


def test_the_cursor_is_there_even_for_a_search_that_is_killed(terminal, situation):
    Screen(terminal).update(Books(situation))
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l")


def test_between_redraws_a_second_passes(terminal, situation):
    screen = Screen(terminal)
    screen.update(Books(situation))
    before = terminal.getvalue()
    screen.update(Books(replace(situation, done=22)))
    assert terminal.getvalue() == before


def test_what_the_terminal_was_told_on_ctrl_c_is_not_overwritten(terminal, situation, monkeypatch):
    monkeypatch.setattr("gantune.driver.screen.SECONDS_BETWEEN", -1.0)
    screen, books = Screen(terminal), Books(situation)
    screen.update(books)
    terminal.write("^C\nstopping\n")
    for _ in range(3):
        screen.interrupted()
        screen.update(books)
    assert "stopping" in terminal.shown()
    assert sum("what is running will continue" in line for line in terminal.shown()) == 1


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_redraw_gets_plain_lines(terminal, situation, monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    screen = Screen(terminal)
    screen.passing("for a moment")
    screen.update(Books(situation))
    screen.say("done")
    assert terminal.getvalue() == "done\n"


def test_without_colour_there_is_none(terminal, situation, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    Screen(terminal).update(Books(situation))
    assert not re.search(r"\x1b\[[\d;]*3\dm", terminal.getvalue())


@pytest.mark.parametrize(("width", "height"), [(120, 30), (80, 24), (60, 24), (60, 8)])
def test_a_picture_fits_its_terminal(situation, width, height):
    lines = drawn(situation, width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) <= height
    assert any(line.lstrip().startswith("#21") for line in lines)


def test_what_a_tiny_terminal_has_no_room_for_is_cut_off(terminal, situation, monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setattr("gantune.driver.screen.SECONDS_BETWEEN", -1.0)
    screen = Screen(terminal)
    for _ in range(3):
        screen.update(Books(situation))
    assert len(terminal.shown()) == 5
    assert max(map(len, terminal.shown())) <= 24


def test_a_terminal_that_became_narrower_gets_a_new_picture(terminal, situation, monkeypatch):
    monkeypatch.setattr("gantune.driver.screen.SECONDS_BETWEEN", -1.0)
    screen = Screen(terminal)
    screen.update(Books(situation))
    monkeypatch.setenv("COLUMNS", "60")
    screen._live.console.width = 60
    screen.update(Books(situation))
    screen.update(Books(situation))
    assert sum("21/24" in line for line in terminal.shown()) == 2


def test_trials_that_have_no_room_are_counted(situation):
    many = replace(situation, running=situation.running * 20)
    lines = drawn(many, 80, 20)
    assert len(lines) < 20
    shown = sum("5,000/10,000" in line for line in lines)
    assert f"and {60 - shown} more" in lines


def test_collapses_are_told_with_their_causes(situation):
    several = replace(situation, counts={"collapsed": 3}, causes={"diverged": 1, "mode_collapse": 2})
    assert "3 running  3 collapsed: 2 mode_collapse, 1 diverged" in drawn(several)


def test_gpus_are_told_by_trial_and_by_place_and_cpus_where_there_are_none(situation):
    first, second, third = situation.running
    first = replace(first, gpu_utilization=0.87, gpu_memory=0.41, seconds_ago=3.0)
    second = replace(second, gpu_utilization=0.5, gpu_memory=0.4, seconds_ago=9.0)  # heard before
    lines = drawn(replace(situation, running=(first, second, third)))
    assert "GPU, memory: 10.0.0.1 gpu0 87% 41% by 2" in lines
    assert any("#21" in line and "87% 41%" in line for line in lines)
    alone = [replace(trial, place="10.0.0.1") for trial in situation.running]
    assert "3 CPUs in use" in drawn(replace(situation, running=tuple(alone)))


def test_a_curve_falls_as_scores_do_and_is_ascii_where_it_must():
    assert curve([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert curve([2.0, 2.0]) == "▁▁"
    assert curve([1000, 100, 10, 1]) == "█▆▃▁"  # by the logarithm
    assert curve([]) == ""
    assert curve([3, 1], plain=True).isascii()


def test_a_terminal_of_another_encoding_gets_ascii(situation):
    file = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    Console(file=file, force_terminal=True, width=80, height=30, color_system=None).print(Picture(situation))
    file.flush()
    assert file.buffer.getvalue().isascii()


def test_the_line_tells_progress_counts_best_and_time_left(situation):
    line = overview(replace(situation, counts={"paused": 2, "collapsed": 1}, seconds_left=200.0))
    lead = situation.best
    assert line == (
        "[##################--] 21/24  3 running  2 paused  1 collapsed  "
        f"best {lead.score:.4g} (#{lead.trial})  3m20s left"
    )


def test_what_waits_is_not_said_to_run(situation):
    first, *others = situation.running
    waiting = replace(situation, running=(first,), waiting=tuple(others))
    lines = drawn(waiting)
    assert any("1 running  2 waiting" in line for line in lines)
    assert ["waiting" in line for line in lines if line.lstrip().startswith("#")] == [False, True, True]
    assert "1 running  2 waiting" in overview(waiting)


@pytest.mark.parametrize("open_trials", [True, False])
def test_a_time_that_is_not_known_is_said_so_while_trials_train(situation, open_trials):
    line = overview(replace(situation, seconds_left=None, running=situation.running if open_trials else ()))
    assert line.endswith("  time left not known yet") == open_trials


@pytest.mark.parametrize(("left", "hours"), [(10.0, 0.12), (600.0, 0.31), (36_000.0, 13)])
def test_the_hours_named_for_paused_trials_cover_a_session_besides_its_training(situation, left, hours):
    limits = (Limit(name="hours", spent=0.1, limit=0.1),)
    paused = replace(situation, unfinished=2, unfinished_seconds=left, limits=limits)
    text = unfinished(paused, "runs/made")
    assert text.startswith("2 trials are paused; finishing them takes about ")
    (named,) = re.findall(r"--set budget\.hours=([\d.]+)$", text)
    assert float(named) == hours
    assert 3600 * (float(named) - 0.1) >= left + SESSION


def test_a_screen_that_nobody_reads_any_more_ends_no_search():
    stream = Closed()
    screen = Screen(stream)
    for text in ("one", "two", "three"):
        screen.say(text)
    assert stream.getvalue() == "one"
