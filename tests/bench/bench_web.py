"""The page's pace: frames a second, and frames between an input and the picture that it has changed.

    python tests/bench/bench_web.py                     # level5, then a fresh mlp 512,512, under 1 and 8 tabs
    python tests/bench/bench_web.py --browser           # and what a page in a real Chromium measures of itself

A tab here is a client on this machine that plays as a page does: it changes its input at odd moments and waits for the
first picture in which that is applied. 16.7 ms are a frame. A picture takes a page a millisecond or two on top; with
--browser that is part of what is measured.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import torch
from websockets.sync.client import connect

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tools")]
import chromium  # noqa: E402
from cleanmelee.web.match import HEAD, INPUT  # noqa: E402
from melee_common import Policy, save_checkpoint  # noqa: E402
from results import save  # noqa: E402

FRAME_TIME, SECONDS, PAUSE = 1 / 60, 12, (.05, .15)                         # seconds; between two inputs of a tab
TELL = 5                                                                    # pictures after which a tab says so
ORDER = {"type": "start", "character": "fox", "opponent_character": "marth", "stage": "battlefield"}


class Tab(threading.Thread):
    """Plays for a while, and keeps when pictures came and how late inputs were, in seconds."""

    def __init__(self, address, opponent, seed):
        super().__init__()
        self.address, self.opponent, self.rng = address.replace("http", "ws") + "play", opponent, np.random.default_rng(
            seed)
        self.came, self.delays = [], []

    def run(self):
        with connect(self.address, max_size=None, proxy=None) as socket:
            socket.send(json.dumps(ORDER | {"opponent": self.opponent}))
            sent, waiting, change, seen = np.zeros((), INPUT), {}, np.inf, 0
            while len(self.came) < SECONDS / FRAME_TIME:
                try:
                    message = socket.recv(timeout=max(0, min(change - time.perf_counter(), 5)))
                except TimeoutError:
                    message = ""
                now = time.perf_counter()
                if isinstance(message, bytes):
                    self.came.append(now)
                    seen += 1
                    applied = int(np.frombuffer(message, HEAD, 1)["applied"][0])
                    self.delays += [now - waiting.pop(n) for n in [n for n in waiting if n <= applied]]
                    if seen > 1:                                            # the game is on
                        change = min(change, now + self.rng.uniform(*PAUSE))
                elif message and json.loads(message)["type"] == "over":
                    socket.send(json.dumps(ORDER | {"opponent": self.opponent}))
                    seen, change, waiting = 0, np.inf, {}
                if now >= change:
                    sent["number"] += 1
                    sent["controller"]["main_x"] = self.rng.uniform(-1, 1)
                    waiting[int(sent["number"])] = time.perf_counter()
                    change = now + self.rng.uniform(*PAUSE)
                elif not (isinstance(message, bytes) and seen % TELL == 0):
                    continue
                sent["seen"] = seen
                socket.send(sent.tobytes())


def cpu_seconds(pid):
    user, system = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def row(opponent, page, rates, delays, busy):
    """Prints a line and returns it. delays: in seconds; busy: the server's share of a core."""
    median, p99 = np.percentile(np.array(delays) / FRAME_TIME, [50, 99]).tolist()
    print(f"{opponent + ', ' + page:28} {np.mean(rates):9.1f} {np.min(rates):8.1f} {median:10.2f} {p99:10.2f} "
          f"{busy:10.0%}", flush=True)
    return {"opponent": opponent, "page": page, "frames_per_second": float(np.mean(rates)), "median": median,
            "p99": p99, "core": busy}


def measure(server, address, opponent, called, tabs):
    threads = [Tab(address, opponent, seed) for seed in range(tabs)]
    for thread in threads:
        thread.start()
    time.sleep(3)                                                           # all games are on
    start, before = time.perf_counter(), cpu_seconds(server.pid)
    time.sleep(SECONDS - 5)
    busy = (cpu_seconds(server.pid) - before) / (time.perf_counter() - start)
    for thread in threads:
        thread.join()
    rates = [(len(tab.came) - 61) / (tab.came[-1] - tab.came[60]) for tab in threads]
    return row(called, f"{tabs} tab{'s' * (tabs > 1)}", rates, [d for tab in threads for d in tab.delays], busy)


def measure_browser(server, address, opponent, called):
    with chromium.Page(address, 1280, 900) as page:
        page.wait("typeof site !== 'undefined' && site.play && $('opponent').options.length")
        page.run(f"$('opponent').value = '{opponent}'; $('start').click(); 1")
        page.wait("game.on && view.tape.length > 60")
        before, start = cpu_seconds(server.pid), time.perf_counter()
        rng = np.random.default_rng(0)
        for k in range(60):
            page.key("KeyD" if k % 4 < 2 else "KeyA", k % 2 == 0)
            time.sleep(rng.uniform(*PAUSE))
        busy = (cpu_seconds(server.pid) - before) / (time.perf_counter() - start)
        rate = page.run("(game.times.length - 1) / (game.times.at(-1) - game.times[0]) * 1000")
        delays = page.run("game.delays")
    return row(called, "Chromium", [rate], np.array(delays) * FRAME_TIME, busy)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", action="store_true", help="a page in Chromium too")
    parser.add_argument("--json", default="", help="file for the figures")
    args, began, rows = parser.parse_args(), time.time(), []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = pathlib.Path(folder, "fresh.pt")
        torch.manual_seed(0)
        save_checkpoint(checkpoint, Policy("mlp", (512, 512)))
        print(f"{'':28} {'frames/s':>9} {'least':>8} {'delay p50':>10} {'delay p99':>10} {'server CPU':>10}")
        for served, opponent, called in (("level5", "level5", "level5"), (str(checkpoint), "fresh.pt", "mlp 512,512")):
            server = subprocess.Popen(
                [sys.executable, "play.py", "--serve", served, "--record", folder + "/games", "--web-port", "0"],
                cwd=ROOT, stdout=subprocess.PIPE, text=True)
            try:
                address = server.stdout.readline().split()[0]
                threading.Thread(target=server.stdout.read, daemon=True).start()
                for tabs in (1, 8):
                    rows.append(measure(server, address, opponent, called, tabs))
                if args.browser:
                    rows.append(measure_browser(server, address, opponent, called))
            finally:
                server.terminate()
                server.wait()
    save(args.json, rows, began)


if __name__ == "__main__":
    main()
