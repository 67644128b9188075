"""What cloning takes from people's games: bc.py at its defaults on a folder of replays.

    python tests/bench/bench_cloning.py --replays DIR                  # 25 games: 80 s of one core
    python tests/bench/bench_cloning.py --replays DIR --epochs 2

Loss (nats a frame) and the share of choices that were the likeliest are of held-out games, as they are played.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from cleanmelee.cli import COUNT, PATH, SHARE, UserError, run_script  # noqa: E402 (after the path is set)
from cleanmelee.controller import HEADS
from cleanmelee.files import read_json, read_jsonl
from results import ROOT, save


@dataclass
class Args:
    replays: Annotated[str, PATH]
    """folder of .slp files"""
    held_out: Annotated[float, SHARE] = .25
    """share of the games to judge by"""
    epochs: Annotated[int, COUNT] = 10
    """passes over the others"""
    json: Annotated[str, PATH] = ""
    """file for the figures (off: empty)"""


def main(args: Args) -> None:
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "bc.py", f"--replays={Path(args.replays).resolve()}", f"--held-out={args.held_out}",
             f"--epochs={args.epochs}", f"--runs-dir={folder}", "--run-name=bench"],
            cwd=ROOT, stderr=subprocess.DEVNULL)
        if done.returncode:
            raise UserError(f"--replays {args.replays}: bc.py ended with {done.returncode}; run it by hand to see why")
        about = read_json(Path(folder) / "bench" / "replays.json")
        before, *epochs = [row for _, row in read_jsonl(Path(folder) / "bench" / "metrics.jsonl", "step")]
    after = min(epochs, key=lambda row: row["eval/nll"])
    rows = [{"head": name, "before": before[f"eval/nll_{name}"], "after": after[f"eval/nll_{name}"],
             "right": after[f"eval/accuracy_{name}"]} for name in HEADS]
    rows.append({"head": "all", "before": before["eval/nll"], "after": after["eval/nll"], "right": None})
    save(args.json, rows, began, games=about["train_games"] + about["held_out_games"],
         players=about["train_players"] + about["held_out_players"],
         epochs=args.epochs, frames_per_second=max(row["charts/frames_per_second"] for row in epochs))


if __name__ == "__main__":
    run_script(main, Args)
