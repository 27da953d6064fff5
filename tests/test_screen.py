import io

from gantune.driver.screen import Screen


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_passing_line_is_replaced_on_a_terminal_and_never_shown_elsewhere(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        screen = Screen(stream)
        screen.passing("x" * 50)
        screen.say("done")
    assert terminal.getvalue() == "x" * 19 + "\r\x1b[K" + "done\n"
    assert file.getvalue() == "done\n"
