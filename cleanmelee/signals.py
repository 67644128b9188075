"""Requests to end: Ctrl-C, SIGTERM (`timeout`, Slurm, systemd, kill) and SIGHUP (a terminal that was closed).

They are the main process's business. It ends in good order at the first; the processes that it starts do not hear them,
though they are often sent to a whole group, and end when it does."""

import contextlib
import os
import signal

from cleanmelee.terminal import drop_lost_streams, show_cursor

REQUESTS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


def on_request(handler, again) -> None:
    """The first request calls handler(number, frame), the next Ctrl-C again(number, frame). The other two count once:
    `timeout` and a closing terminal send theirs twice. SIGHUP stays ignored where nohup wants it so."""
    def first(number, frame):
        for other in REQUESTS:
            signal.signal(other, signal.SIG_IGN)
        drop_lost_streams()
        signal.signal(signal.SIGINT, again)
        handler(number, frame)

    for number in REQUESTS:
        if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, first)


def interrupt(number, frame) -> None:
    """Ends the main process through its `finally` blocks; another Ctrl-C does not wait for them."""
    signal.signal(signal.SIGINT, end_now)
    raise KeyboardInterrupt


def end_now(number, frame) -> None:
    """Without a traceback, wherever it strikes; the kernel ends the workers."""
    show_cursor()
    os._exit(130)


@contextlib.contextmanager
def held():
    """Requests wait until the end of this block; a process that is started in it does not hear them, not even while it
    imports what it needs."""
    if not hasattr(signal, "pthread_sigmask"):                              # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent() -> None:
    """In a process that was started while requests were `held`: it goes on not hearing them."""
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
