"""Worker processes: a fork server that starts them, and the main process's end of each."""

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time
import traceback

from cleanmelee import signals
from cleanmelee.cli import UserError


class Worker:
    """The main process's end of one worker: a command pipe, a reply pipe and a process id.

    ready: it can step. Otherwise its Dolphin is on the way to the next game, which it must reach before
    boot_deadline."""

    def __init__(self, pid: int, command: int, reply: int, ready: bool, boot_timeout: float):
        self.pid, self.command, self.reply, self.ready, self.left = pid, command, reply, ready, False
        self.boot_timeout, self.boot_deadline = boot_timeout, time.monotonic() + boot_timeout
        self.poll = select.poll()
        self.poll.register(reply, select.POLLIN)

    def send(self, order: bytes = b"s") -> None:
        try:
            os.write(self.command, order)
        except BrokenPipeError:
            pass                                                            # `wait` sees the end of file and says so

    def wait(self, timeout: float) -> str | None:
        """None when the step is done, else what went wrong."""
        if not self.poll.poll(timeout * 1000):
            return f"hung for {timeout:.1f} s"
        data = os.read(self.reply, 1)
        self.left = data == b"q"                                            # without a winner
        if data == b".":
            return None
        if data in (b"b", b"q"):                                            # done, and the game is over
            self.ready, self.boot_deadline = False, time.monotonic() + self.boot_timeout
            return None
        if not data:
            return "died"
        text = b""
        while chunk := os.read(self.reply, 65536):
            text += chunk
        text = text.decode(errors="replace")
        if data == b"u":
            raise UserError(text)                                           # another try would not help
        return f"failed: {text}" if data == b"?" else "raised\n" + text

    def publish(self, timeout: float) -> str | None:
        """Has a new game's first frame shown."""
        self.send(b"n")
        trouble = self.wait(timeout)
        self.ready = trouble is None
        return trouble

    def kill(self) -> None:
        """Ends the worker and waits until it is gone: it must not write into games that are being set up anew. What
        the kernel has not ended within seconds hangs in a disk's or a network's answer, and writes no more either."""
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self.poll.poll(5000) and os.read(self.reply, 65536):          # the pipe ends when its only writer has
            pass
        os.close(self.command)
        os.close(self.reply)
        self.pid = 0


class ForkServer:
    """Starts workers, now and later, from a process forked before the main process got busy.

    A fresh interpreter per worker would import torch again (a second and 200 MB each); forking from a process whose
    threads run can deadlock. So one child is forked early, does nothing, and forks every worker, replacements too. It
    ends when the main process does, however that ends, and its workers end with it. None of them hears a signal that
    asks to end, though a terminal, `timeout` and Slurm send it to all: the main process has a checkpoint to write."""

    PATIENCE = 2, 20                                                        # seconds for a worker's start

    def __init__(self, work):
        """work(low, high, command, reply) is a worker's life, for the games [low:high)."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        main = os.getpid()
        with signals.held():
            self._pid = os.fork()
            if self._pid == 0:
                try:
                    signals.leave_to_parent()
                    end_with_parent(main)
                    self._socket.close()
                    close_files_except(theirs.fileno())
                    self._serve(theirs, work)
                finally:
                    os._exit(0)
        theirs.close()

    @staticmethod
    def _serve(requests: socket.socket, work) -> None:
        server = os.getpid()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)                       # the kernel buries dead workers
        while True:
            message, files, _, _ = socket.recv_fds(requests, 64, 2)
            if not message:
                return
            low, high = map(int, message.split())
            pid = os.fork()
            if pid == 0:
                try:
                    end_with_parent(server)
                    close_files_except(*files)
                    work(low, high, *files)
                finally:
                    os._exit(0)
            for fd in files:
                os.close(fd)
            requests.send(str(pid).encode())

    def start(self, low: int, high: int, ready: bool, boot_timeout: float) -> Worker:
        command_read, command_write = os.pipe()
        reply_read, reply_write = os.pipe()
        try:
            socket.send_fds(self._socket, [f"{low} {high}".encode()], [command_read, reply_write])
            pid = self._answer()
        except OSError:
            pid = b""
        finally:
            os.close(command_read)
            os.close(reply_write)
        if not pid:
            raise UserError("the process that starts workers is gone or hangs; start the run again with --resume")
        return Worker(int(pid), command_write, reply_read, ready, boot_timeout)

    def _answer(self) -> bytes:
        """The new worker's process id. Raises OSError if the server does not answer in time."""
        for seconds in self.PATIENCE:
            self._socket.settimeout(seconds)
            with contextlib.suppress(TimeoutError):
                return self._socket.recv(64)
            os.kill(self._pid, signal.SIGCONT)                              # if it was stopped, it goes on
        raise TimeoutError

    def close(self) -> None:
        self._socket.close()
        os.kill(self._pid, signal.SIGKILL)                                  # it has nothing to clean up, and may hang
        os.waitpid(self._pid, 0)


def worker_loop(games, step, command: int, reply: int) -> None:
    while os.read(command, 1):                                              # end of file: the main process is gone
        try:
            step(games)
        except Exception:
            os.write(reply, b"!" + traceback.format_exc().encode())
            return
        os.write(reply, b".")


def end_with_parent(parent: int) -> None:
    """Linux: the kernel kills this process when its parent dies, even while it hangs in a loop. parent: its process id;
    if that is gone already, this process ends now."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def close_files_except(*keep: int) -> None:
    """A forked child holds its parent's pipes open, and their readers would never see the end of file."""
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65536 else 65536)
