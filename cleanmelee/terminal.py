"""What reaches the terminal. Names and texts out of files are others' and may hold anything: escape sequences,
newlines, a hundred kilobytes, markup, characters that the terminal's encoding lacks."""

import os
import sys

import rich.console


def printable(text: object, most: int = 500, keep: str = "") -> str:
    """str(text) in one line: what is no printable character is spelt out (\\x1b, \\n), what is longer than `most`
    characters loses its middle. keep: control characters that may stay, such as newlines."""
    text = str(text)
    if len(text) > most:
        text = f"{text[:most * 2 // 3]} ... {text[-(most - most * 2 // 3):]}"
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def warn(text: object) -> None:
    """One line on standard error."""
    print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


class Terminal(rich.console.Console):
    """Standard output with rich's tables and bars; strings are printed as they are, without markup."""

    def __init__(self, **options):
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)

    def print(self, *objects, **options) -> None:
        objects = [printable(x, 10_000, keep="\n") if isinstance(x, str) else x for x in objects]
        super().print(*objects, **options)


def open_streams() -> None:
    """Standard input, output and error exist and take every character. Where one was closed (`2>&-`), the next file to
    be opened would take its number, and what other code writes to standard error would go into that file."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, descriptor in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or open(descriptor, "r" if descriptor == 0 else "w", closefd=False)
        if descriptor and hasattr(stream, "reconfigure"):                   # a test's own stream may not have it
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)
