"""Exported policies of every backbone: how large, how true, how fast?

    python tests/bench/bench_export.py --replays REPLAYS --json docs/results/export.json
    python tests/bench/bench_export.py --frames 300 --backbones mlp                    # does it work? not cloned

Every policy is cloned for --updates from half of the games, into runs/export_NAME (one that is there is taken as it
is, so that all can be timed again), and measured on the other half, where people play: parity with torch over --steps
recurrent decisions of several players, loss, and how many decisions of the export in eight bits are those of the one
in float32 under the same noise. Then both play Fox on the embedded game: the whole step of play.py, from a FRAME to a
CONTROLLER, one game on one thread. Last, how long `play.py --policy FILE.onnx` takes from the start of Python to its
first action. Seconds and milliseconds are what a clock on the wall says; `processor` is what they would be on a
machine with nothing else to do.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import bc  # noqa: E402 (after the path is set)
from cleanmelee.cli import COUNT, PATH, UserError, check_ranges, run_script
from cleanmelee.controller import mirrored
from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.games import BOT_SLOT, VecEnv
from cleanmelee.inference import Hands, Pace, warm_up
from cleanmelee.observation import observe, schema_hash
from cleanmelee.onnx import OnnxPolicy
from cleanmelee.quantisation import Quantiser, agreement, game_frames, measure, replay_frames
from cleanmelee.terminal import Terminal
from export_onnx import cut, export, parity
from melee_common import Policy, load_policy
from results import save

# name -> sizes, options, goals in ms (p50, p99)
NETWORKS = {
    "mlp": ((64, 64), {}, (.08, .2)), "gru": ((256, 256), {"num_layers": 2}, (.15, .35)),
    "lstm": ((256,), {}, (.15, .35)), "transformer": ((256,), {}, (.4, .9)), "hybrid": ((256,), {}, None),
    "mamba": ((256,), {}, (.25, .6))}
STARTS = 5                                                                  # of play.py, of which the median counts
WARM_UP = 200                                                               # frames that are not counted


@dataclass
class Args:
    replays: Annotated[str, PATH] = ""
    """folder of .slp files to clone from and to measure on (off: empty, fresh networks against themselves)"""
    backbones: str = " ".join(NETWORKS)
    """which ones"""
    updates: Annotated[int, COUNT] = 100
    """of cloning"""
    steps: Annotated[int, COUNT] = 1000
    """decisions of each player in the parity check"""
    frames: Annotated[int, COUNT] = 3000
    """frames of the embedded game whose steps are timed"""
    int8: Literal["dynamic", "static"] = "dynamic"
    """as in export_onnx.py"""
    seed: int = 1
    """of everything"""
    json: str = ""
    """file for the figures (off: empty)"""


def cloned(args: Args, backbone: str) -> Policy:
    """The policy of runs/export_NAME, or without --replays a fresh one."""
    hidden, options, _ = NETWORKS[backbone]
    torch.manual_seed(args.seed)
    if not args.replays:
        return Policy(backbone, hidden, **options).eval()
    run = f"export_{backbone}"
    if not (Path("runs") / run).exists():
        bc.main(bc.Args(
            args.replays, held_out=.5, min_active=0., backbone=backbone, hidden=",".join(map(str, hidden)),
            max_updates=args.updates, seed=args.seed, run_name=run, num_workers=0, **options))
    return load_policy(Path("runs") / run)[0]


def whole_steps(policy: OnnxPolicy, frames: int) -> dict[str, list[float]]:
    """p50 and p99 in ms of what play.py does in a frame but for the game itself: `step` on the wall, `processor`."""
    warm_up([policy], 1)
    begins, live = np.ones(1, bool), np.ones(1, bool)
    hands = Hands([policy], np.array([[0, BOT_SLOT]]), np.random.default_rng(1), Pace(), asynchronous=False)
    wall, own = np.zeros((2, WARM_UP + frames))
    with VecEnv(1, CHARACTERS["fox"], STAGES["battlefield"], seed=1, max_episode_frames=0) as envs:
        for k in range(WARM_UP + frames):
            tick, tock = time.perf_counter(), time.thread_time()
            hands.advance(begins)
            turn = hands.turn(live)
            seen = observe(envs.frames, envs.controllers, hands.pending())
            hands.ask(seen, mirrored(envs.frames), turn, begins)
            acting = hands.take(tick)
            wall[k], own[k] = time.perf_counter() - tick, time.thread_time() - tock
            terminated, truncated, _ = envs.step(acting)
            begins = terminated | truncated
    return {name: (1000 * np.percentile(times[WARM_UP:], (50, 99))).tolist()
            for name, times in (("step", wall), ("processor", own))}


def measured(args: Args, backbone: str, folder: Path) -> dict:
    """A row of the table. The export, float32 if int8 is no gain, lies in `folder` as NAME.onnx afterwards."""
    policy = cloned(args, backbone)
    if args.replays:
        calibration, frames = replay_frames(policy, args.replays, args.steps, args.seed)
    else:
        calibration, frames = game_frames(policy, args.steps, CHARACTERS["fox"], args.seed)
    exact = export(policy)
    quantiser = Quantiser(exact, args.int8, calibration)
    small = quantiser(list(quantiser.layers))
    facts = {"program": "CleanMelee", "schema": schema_hash(), "action_repeat": "1", "frame_delay": "0"}
    row = {"backbone": backbone, "sizes": list(policy.config["hidden"]), "players": frames.begins.shape[1],
           "parameters": sum(p.numel() for p in policy.parameters()), "parity": parity(policy, exact, frames)}
    found = {}
    for name, model in (("int8", small), ("float32", exact)):
        found[name] = measure(model, frames)
        path = folder / f"{backbone}.onnx"
        path.write_bytes(cut(model, facts).SerializeToString())
        row[name] = {"bytes": path.stat().st_size, "loss": found[name].loss,
                     **whole_steps(OnnxPolicy(path), args.frames)}
    return row | {"agreement": agreement(found["int8"], found["float32"]), "goal": NETWORKS[backbone][2]}


START = """
import resource, sys, time
sys.path.insert(0, {root!r})
import play
imported = time.time()
from cleanmelee import inference
act = inference.act
def first(*given):
    act(*given)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(imported - {start}, time.time() - {start}, used.ru_utime + used.ru_stime)
    raise SystemExit
inference.act = first
play.main(play.Args({file!r}, "idle", num_games=1, results=""))
"""


def started(file: Path) -> dict[str, float]:
    """Median seconds from the start of Python until play.py is imported and until the first action, and of processor
    time until then."""
    found = []
    for _ in range(STARTS):
        code = START.format(root=str(ROOT), file=str(file), start=time.time())
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found.append([float(word) for word in ended.stdout.split()])
    return dict(zip(("imported", "first_action", "processor"), np.median(found, 0).tolist(), strict=True))


def main(args: Args) -> None:
    check_ranges(args)
    began, names = time.time(), args.backbones.split()
    unknown = [name for name in names if name not in NETWORKS]
    if unknown or not names:
        raise UserError(f"--backbones {args.backbones}: choose among {', '.join(NETWORKS)}")
    torch.set_num_threads(1)
    table = Table("", "parameters", "kB", "int8 kB", "logits differ", "actions differ", "int8: same", "loss", "int8",
                  "step ms", "int8 ms", "goal")
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(args, name, Path(folder)) for name in names]
        start = started(Path(folder) / f"{names[0]}.onnx")
    for row in rows:
        exact, small = row["float32"], row["int8"]
        table.add_row(
            row["backbone"], f"{row['parameters']:,}", *(f"{x['bytes'] / 1e3:.0f}" for x in (exact, small)),
            f"{row['parity']['logits']:.0e}", f"{row['parity']['actions']} of {args.steps * row['players']}",
            f"{row['agreement']:.2%}", f"{exact['loss']:.4f}", f"{small['loss'] / exact['loss'] - 1:+.2%}",
            *("{:.3f} / {:.3f}".format(*x["step"]) for x in (exact, small)),
            "{:g} / {:g}".format(*row["goal"]) if row["goal"] else "")
    console = Terminal(width=160)
    console.print(table)
    console.print("{imported:.2f} s until play.py is imported, {first_action:.2f} s until the first action, "
                  "{processor:.2f} s of processor time".format(**start))
    save(args.json, rows, began, start=start, steps=args.steps, frames=args.frames, int8=args.int8)


if __name__ == "__main__":
    run_script(main, Args)
