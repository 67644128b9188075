"""Strings of others on their way to the terminal."""

import subprocess
import sys

import pytest
from helpers import ROOT
from rich.table import Table

from cleanmelee.terminal import Terminal, printable


@pytest.mark.parametrize(("text", "shown"), [
    ("Mewtwo é 日本", "Mewtwo é 日本"), ("\x1b[31mred", "\\x1b[31mred"), ("a\nb\r\tc", "a\\nb\\r\\tc"),
    ("\u202edrowssap", "\\u202edrowssap"), ("\udc81\udc69", "\\udc81\\udc69"), (3, "3")])
def test_what_is_not_printable_is_spelt_out(text, shown):
    assert printable(text) == shown
    assert printable(shown).isprintable()


def test_a_long_text_loses_its_middle():
    text = printable("a" * 1000 + "b" * 100_000 + "c" * 1000, 90)
    assert text == "a" * 60 + " ... " + "c" * 30


def test_markup_is_text(capsys):
    console = Terminal()
    table = Table("[bold]name")
    table.add_row("[red]x[/nothing]")
    console.print("[red]a path[/] :smile: \x1b[31m", table)
    out = capsys.readouterr().out
    assert "[red]a path[/] :smile: \\x1b[31m" in out and "[bold]name" in out and "[red]x[/nothing]" in out


def test_closed_streams_and_a_narrow_encoding():
    """Descriptor 2 is closed, then open_streams: no file gets its number. Standard output is ASCII."""
    code = ("import sys; sys.path.insert(0, '.'); from cleanmelee.terminal import open_streams; open_streams(); "
            "print('日', file=sys.stderr); print('日', open('LICENSE').fileno())")
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c \"{code}\" 2>&- <&-"], cwd=ROOT, text=True,
                          env={"PYTHONIOENCODING": "ascii"}, stdout=subprocess.PIPE)
    shown, descriptor = done.stdout.split()
    assert done.returncode == 0 and shown == "\\u65e5" and int(descriptor) > 2
