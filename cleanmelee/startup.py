"""The first import of every script, and of nothing else: it makes the process fit for the others, which take seconds.

Ctrl-C ends the process without a word, until `run_script` has its own way; streams that the shell has closed exist
again."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:           # not ignored, as a job in the background is
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from cleanmelee.terminal import open_streams

open_streams()
