"""The first import of every script, and of nothing else: it makes the process fit for the others, which take seconds.

Ctrl-C ends the process without a word, until `run_script` has its own way; streams that the shell has closed exist
again; numpy multiplies matrices on one thread, since they are small, and on a busy machine two wait for each other."""

import os
import signal

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")                          # read as numpy is imported

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:           # not ignored, as a job in the background is
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from cleanmelee.terminal import open_streams

open_streams()
