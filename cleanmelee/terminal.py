"""What reaches the terminal. Names and texts out of files are others' and may hold anything: escape sequences,
newlines, a hundred kilobytes, markup, characters that the terminal's encoding lacks."""

import os
import select
import signal
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

    def on_broken_pipe(self) -> None:
        """Nobody reads any more (`| head`): a request to end in good order, in place of rich's end on the spot."""
        drop_lost_streams()
        signal.raise_signal(signal.SIGTERM)


def open_streams() -> None:
    """Standard input, output and error exist and take every character. Where one was closed (`2>&-`), the next file to
    be opened would take its number, and what other code writes to standard error would go into that file."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, descriptor in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or open(descriptor, "r" if descriptor == 0 else "w", closefd=False)
        if descriptor and hasattr(stream, "reconfigure"):                   # a test's own stream may not have it
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)


def drop_lost_streams() -> None:
    """Output and errors whose reader is gone, a closed terminal or a `tee` that heard the same Ctrl-C, go nowhere: the
    next line must not cost what is still to be saved. Waits a moment for a reader that is just leaving."""
    if not hasattr(select, "poll"):                                         # Windows
        return
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)                                        # errors are always told
    for descriptor, _ in poll.poll(100):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def show_cursor() -> None:
    """Bars hide it, and who ends in the middle of one leaves it so."""
    for descriptor in (1, 2):
        if os.isatty(descriptor):
            os.write(descriptor, b"\x1b[?25h\n")
