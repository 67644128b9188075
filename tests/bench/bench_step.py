"""What play costs in a frame, and until the first one.

    python tests/bench/bench_step.py steps [game frames, 3000]       the whole step of exported policies, FRAME ->
                                                                    CONTROLLER, as play.py makes it
    python tests/bench/bench_step.py start [FILE.onnx]               from the start of Python to the first action

Wall time is what a frame waits for; the processor's own time is what it would be on a machine with nothing else on it.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

NETWORKS = {  # name -> backbone, sizes, options, goals in ms: p50, p99
    "mlp 64,64": ("mlp", (64, 64), {}, .08, .2), "gru 2x256": ("gru", (256, 256), {"num_layers": 2}, .15, .35),
    "lstm 2x256": ("lstm", (256,), {}, .15, .35), "transformer 2x256, 60": ("transformer", (256,), {}, .4, .9),
    "mamba 2x256": ("mamba", (256,), {}, .25, .6)}
SLIPPI_AI = "1.8 to 3.9"                                                    # ms a step, as the design quotes it


def export_to(path: Path, backbone: str, hidden: tuple, options: dict) -> None:
    import torch
    from cleanmelee.observation import schema_hash
    from export_onnx import cut, export
    from melee_common import Policy
    torch.manual_seed(0)
    facts = {"program": "CleanMelee", "schema": schema_hash(), "action_repeat": "1", "frame_delay": "0"}
    path.write_bytes(cut(export(Policy(backbone, hidden, **options).eval()), facts).SerializeToString())


def steps(frames: int = 3000) -> None:
    from cleanmelee.controller import mirrored
    from cleanmelee.frame import CHARACTERS, STAGES
    from cleanmelee.games import BOT_SLOT, VecEnv
    from cleanmelee.inference import Hands, Pace, warm_up
    from cleanmelee.observation import observe
    from cleanmelee.onnx import OnnxPolicy
    table = Table("policy", "load s", "p50 ms", "p99 ms", "CPU p50 ms", "CPU p99 ms", "of it the file p50 ms", "goal",
                  title=f"FRAME -> CONTROLLER, {frames} frames, one thread; slippi-ai {SLIPPI_AI} ms")
    for name, (backbone, hidden, options, *goal) in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "policy.onnx"
            export_to(path, backbone, hidden, options)
            tick = time.perf_counter()
            policy = OnnxPolicy(path)
            loading = time.perf_counter() - tick
        warm_up([policy], 1)
        pace, begins, live = Pace(), np.ones(1, bool), np.ones(1, bool)
        hands = Hands([policy], np.array([[0, BOT_SLOT]]), np.random.default_rng(1), pace, asynchronous=False)
        wall, own = np.zeros((2, frames))
        with VecEnv(1, CHARACTERS["fox"], STAGES["battlefield"], seed=1, max_episode_frames=0) as envs:
            for k in range(frames):
                tick, tock = time.perf_counter(), time.thread_time()
                hands.advance(begins)
                turn = hands.turn(live)
                seen = observe(envs.frames, envs.controllers, hands.pending())
                hands.ask(seen, mirrored(envs.frames), turn, begins)
                acting = hands.take(tick)
                wall[k], own[k] = time.perf_counter() - tick, time.thread_time() - tock
                terminated, truncated, _ = envs.step(acting)
                begins = terminated | truncated
        measured = [f"{1000 * x:.3f}" for times in (wall, own) for x in np.percentile(times, (50, 99))]
        table.add_row(name, f"{loading:.2f}", *measured, f"{pace.row()['inference_ms_p50']:.3f}",
                      " / ".join(f"{x:g}" for x in goal))
    from rich.console import Console
    Console(width=140).print(table)


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
    print(f"{{imported - {start}:.2f}} {{time.time() - {start}:.2f}} {{used.ru_utime + used.ru_stime:.2f}}")
    raise SystemExit
inference.act = first
play.main(play.Args({file!r}, "idle", num_games=1, results=""))
"""


def start(file: str = "") -> None:
    with tempfile.TemporaryDirectory() as folder:
        if not file:
            file = str(Path(folder) / "policy.onnx")
            export_to(Path(file), *NETWORKS["mlp 64,64"][:3])
        print("seconds from the start of Python: play.py is imported, first action, processor time until then")
        for _ in range(5):
            code = START.format(root=str(ROOT), file=file, start=time.time())
            ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            print(ended.stdout, end="")


if __name__ == "__main__":
    what, *given = sys.argv[1:] or ["steps"]
    if what == "steps":
        steps(*map(int, given))
    elif what == "start":
        start(*given)
    else:
        sys.exit(__doc__)
