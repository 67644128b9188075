"""Distillation: a small policy that answers like a large one, on the frames of real games.

    python distill.py --teacher runs/bc/checkpoints/best.pt --replays DIR --output student.pt       # 25 games: 25 s
    python distill.py --teacher best.pt --replays DIR --output student.pt --hidden 128 --epochs 3   # 8 s

The teacher may have any backbone. It watches every game from the first frame to the last as if it played (one that acts
on every third frame sees every third), and its answers are kept. The student acts as often and as late as its teacher.
An mlp sees single frames in random order; one that remembers sees windows of `--window-size` of its frames, cut from
whole games at random places, and enters each with an empty memory. Per frame the loss is

    alpha * T^2 * KL(teacher || student), both softened by the temperature T, summed over the heads
    + (1 - alpha) * -log p(what the player did)  +  value_coef * (difference of the value heads)^2

where each head is given the player's true choice in the heads before it, for teacher and student alike. The value head
is distilled too, so that self-play can go on from the student.
"""

if __name__ == "__main__":
    import cleanmelee.startup                               # before the imports that take seconds

import hashlib
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from rich.progress import track
from rich.table import Table

from cleanmelee.backbones import OPTIONS, backbone_options
from cleanmelee.cli import (
    AT_LEAST_0, COUNT, COUNT_OR_OFF, PATH, POSITIVE, SEEDS, SHARE, Range, check_ranges, run_script, to_flags,
)
from cleanmelee.controller import HEADS, NUM_BUTTONS, NUM_LOGITS
from cleanmelee.dataset import Sequences, load_sequences, walk
from cleanmelee.features import NUM_INTS
from cleanmelee.files import append_jsonl, check_writable
from cleanmelee.frame import BUTTONS
from cleanmelee.observation import Observation
from cleanmelee.runs import has_begun, start_run, stop_on_interrupt
from cleanmelee.terminal import Terminal
from cleanmelee.tracking import Tracker, WandbArgs
from melee_common import (
    Policy, action_kl, action_logprobs, load_policy, parse_hidden, save_checkpoint, split_logits,
)

BELOW_1 = Range(0, 1 - 1e-9)


@dataclass
class Args:
    teacher: Annotated[str, PATH]
    """checkpoint of the policy to imitate, of bc.py or ppo_selfplay.py"""
    replays: Annotated[str, PATH]
    """folder of .slp files (subfolders too), or one file: the frames on which the teacher is asked"""
    output: Annotated[str, PATH] = ""
    """file for the student with the lowest held-out loss (default: checkpoints/best.pt in the run folder)"""
    max_files: Annotated[int, COUNT_OR_OFF] = 0
    """read only the first so many files, in sorted order (off: 0, all)"""
    character: str = ""
    """ask the teacher only on the side of who plays this character (off: empty, everybody)"""
    player_port: Annotated[int, Range(0, 4)] = 0
    """ask only on the side of this port, 1 to 4 (off: 0, both players of every game)"""
    cpu_players: bool = False
    """ask on the side of the game's own CPU players too"""
    min_active: Annotated[float, BELOW_1] = 0.01
    """leave out players whose input changes on fewer than this share of frames (off: 0)"""
    held_out: Annotated[float, BELOW_1] = 0.1
    """share of the games that is only for evaluation; at least one game, the same as in bc.py"""
    num_workers: Annotated[int, Range(-1, 65536)] = -1
    """processes that parse replays; -1: one per core (off: 0, in this process)"""

    backbone: Literal["mlp", "gru", "lstm", "transformer", "hybrid", "mamba"] = "mlp"
    """the student's network between embedding and heads; all but the mlp remember"""
    hidden: str = "64,64"
    """layer sizes of the student, separated by commas; the last one is the width of what remembers"""
    num_layers: Annotated[int | None, OPTIONS["num_layers"]] = None
    """layers that remember, each of the last size of --hidden; the mlp has none (default: 2, of the gru 1)"""
    num_heads: Annotated[int | None, OPTIONS["num_heads"]] = None
    """attention heads of transformer and hybrid (default: 4)"""
    window_size: Annotated[int, Range(2, 65536)] = 60
    """frames of the student in one window, if it remembers; transformer and hybrid look back as far"""
    state_size: Annotated[int | None, OPTIONS["state_size"]] = None
    """numbers that each channel of the mamba remembers (default: 16)"""
    expand_factor: Annotated[int | None, OPTIONS["expand_factor"]] = None
    """how many times wider the mamba is inside (default: 2)"""
    conv_size: Annotated[int | None, OPTIONS["conv_size"]] = None
    """frames of the mamba's convolution (default: 4)"""
    temperature: Annotated[float, Range(1e-6, 1e6)] = 2.0
    """softens the answers of both, so that the student also learns what the teacher holds unlikely (off: 1)"""
    alpha: Annotated[float, SHARE] = 0.7
    """share of the teacher in the loss; 1: only the teacher, 0: only what the players did"""
    value_coef: Annotated[float, AT_LEAST_0] = 0.5
    """weight of the value heads' squared difference (off: 0, the student's value head stays untrained)"""
    epochs: Annotated[int, COUNT] = 10
    """passes over the training games"""
    batch_size: Annotated[int, COUNT] = 2048
    """frames in one update, in whole windows if the student remembers"""
    learning_rate: Annotated[float, Range(1e-12, 1)] = 3e-3
    """AdamW's step size at the start; it falls to 0 over the run, linearly"""
    weight_decay: Annotated[float, AT_LEAST_0] = 0.01
    """AdamW's weight decay (off: 0)"""
    max_grad_norm: Annotated[float, POSITIVE] = 1.0
    """gradients are scaled down to this norm"""

    seed: Annotated[int, SEEDS] = 1
    """decides the student's first weights and the order of frames"""
    run_name: str = ""
    """folder inside --runs-dir (default: made of sizes, seed and time)"""
    runs_dir: Annotated[str, PATH] = "runs"
    """where runs are kept"""
    wandb: Annotated[WandbArgs, tyro.conf.arg(name="")] = field(default_factory=WandbArgs)


@torch.inference_mode()
def answers(policy: Policy, data: Sequences) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, 81] and values [N] of a policy that plays along, its memory carried from a game's first frame to its
    last."""
    logits = torch.empty(len(data.weights), NUM_LOGITS)
    values = torch.empty(len(data.weights))
    state = ()
    for rows, real, first in walk(data.starts, policy.action_repeat):
        obs, actions = data.take(rows)
        state = policy.initial_state(rows.shape[1]) if first else state
        features, state = policy.unroll(obs, state, torch.zeros(rows.shape, dtype=torch.bool))
        logits[rows[real]] = policy.logits(features, actions)[real]
        values[rows[real]] = policy.value(features)[real]
    return logits, values


def first_rows(data: Sequences, T: int, stride: int, generator: torch.Generator) -> torch.Tensor:
    """Where windows of T frames, each `stride` after the last, begin: every game is cut at a random frame. Of single
    frames those with control, which are all there is to learn from."""
    if T == 1:
        return data.weights.nonzero()[:, 0]
    span = T * stride
    return torch.cat([torch.arange(a + int(torch.randint(min(span, b - a - span + 1), (), generator=generator)),
                                   b - span + 1, span)
                      for a, b in zip(data.starts[:-1].tolist(), data.starts[1:].tolist(), strict=True)])


def evaluate(teacher: tuple, student: tuple, data: Sequences, alpha: float, temperature: float) -> dict[str, float]:
    """teacher, student: logits and values on all rows of `data`."""
    def mean(values):
        return (values * data.weights[:, None]).sum(0) / data.weights.sum()                         # [N, k] -> [k]

    nll = {who: mean(-action_logprobs(logits, data.actions)[0])
           for who, (logits, _) in (("teacher", teacher), ("student", student))}
    kl = mean(action_kl(teacher[0], student[0]))
    press = {"true_press": mean(data.actions[:, :NUM_BUTTONS].float()),
             "press": mean(split_logits(student[0])[0].sigmoid())}
    soft_kl = mean(action_kl(teacher[0] / temperature, student[0] / temperature)).sum()
    return {"eval/loss": float(alpha * temperature ** 2 * soft_kl + (1 - alpha) * nll["student"].sum()),
            "eval/kl": float(kl.sum()),
            "eval/value_error": float(mean((teacher[1] - student[1])[:, None] ** 2)),
            **{f"eval/{who}_nll": float(per_head.sum()) for who, per_head in nll.items()},
            **{f"eval/{who}_nll_{head}": float(v)
               for who, per_head in nll.items() for head, v in zip(HEADS, per_head, strict=True)},
            **{f"eval/kl_{head}": float(v) for head, v in zip(HEADS, kl, strict=True)},
            **{f"eval/{kind}_{button}": float(v) for kind, rates in press.items()
               for button, v in zip(BUTTONS, rates, strict=True)}}


@torch.inference_mode()
def step_latency(policy: Policy, repeats: int = 300) -> float:
    """Median microseconds of one frame of play: one row in, one sampled action out, on the CPU."""
    obs = Observation(torch.zeros(1, policy.num_floats), torch.zeros(1, NUM_INTS, dtype=torch.int16))
    noise = torch.rand(1, NUM_LOGITS)
    state = policy.initial_state(1)
    times = []
    for _ in range(repeats + 50):                                           # the first 50 warm up
        began = time.perf_counter()
        _, state = policy.step(obs, state, noise)
        times.append(time.perf_counter() - began)
    return float(np.median(times[50:])) * 1e6


def report(teacher: Policy, student: Policy, result: dict, console: Terminal) -> None:
    """A row of `evaluate`, sizes and latencies as a table."""
    table = Table("", "teacher", "student", "KL", title="held-out games")
    for head in HEADS:
        table.add_row(f"{head}, loss",
                      *[f"{result[f'eval/{key}_{head}']:.3f}" for key in ("teacher_nll", "student_nll", "kl")])
    table.add_row("all heads, loss", *[f"{result[f'eval/{key}']:.3f}" for key in ("teacher_nll", "student_nll", "kl")],
                  end_section=True)
    sizes = [sum(p.numel() for p in policy.parameters()) for policy in (teacher, student)]
    table.add_row("parameters", *[f"{size:,}" for size in sizes], "")
    table.add_row("one step, p50", *[f"{step_latency(policy):.0f} us" for policy in (teacher, student)], "")
    console.print(table)


def main(args: Args) -> None:
    console = Terminal()

    # ------------------------------------------------------------------------------------------------------- set-up
    check_ranges(args)
    if args.output:
        check_writable("--output", Path(args.output))
    hidden = parse_hidden(args.hidden)
    teacher, _ = load_policy(args.teacher)
    tracker = Tracker(args.wandb)
    torch.manual_seed(args.seed)
    options = {name: getattr(args, name) for name in OPTIONS}
    if "window_size" not in backbone_options(args.backbone):                # then it says only how games are cut
        del options["window_size"]
    student = Policy(args.backbone, hidden, teacher.action_repeat, teacher.frame_delay, **options)
    T, stride = args.window_size if student.initial_state(1) else 1, student.action_repeat

    train, held_out, about = load_sequences(
        args.replays, character=args.character, player_port=args.player_port, cpu_players=args.cpu_players,
        min_active=args.min_active, held_out=args.held_out, max_files=args.max_files, num_workers=args.num_workers,
        min_frames=max(60, T * stride + 1), delay=student.frame_delay)      # a game's last frame has no next input

    name = f"distill_{args.backbone}_{args.hidden.replace(',', 'x')}_seed{args.seed}_{time.strftime('%Y%m%d_%H%M%S')}"
    run, lock = start_run(args.runs_dir, args.run_name, name, to_flags(args), __file__)
    args.run_name = run.name
    output = Path(args.output) if args.output else run / "checkpoints" / "best.pt"
    tracker.start(run, run.name, to_flags(args))
    console.print(f"CleanMelee distillation  {teacher.config['backbone']} {teacher.config['hidden']} -> "
                  f"{args.backbone} {student.config['hidden']}\n{about['train_players']} players in "
                  f"{about['train_games']} games, {len(train.weights):,} frames to learn from; "
                  f"{about['held_out_players']} in {about['held_out_games']}, {len(held_out.weights):,} frames held "
                  f"out; run folder {run}")

    tick = time.perf_counter()
    teacher_logits, teacher_values = answers(teacher, train)          # asked once, for all epochs
    teacher_held_out = answers(teacher, held_out)
    fps = (len(train.weights) + len(held_out.weights)) / (time.perf_counter() - tick)
    console.print(f"asked the teacher: {fps:,.0f} frames/s")

    optimizer = torch.optim.AdamW(student.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    order = torch.Generator().manual_seed(args.seed)
    B = max(1, args.batch_size // T)
    most = sum((train.starts[1:] - train.starts[:-1]) // (T * stride)) if T > 1 else int(train.weights.count_nonzero())
    num_updates = args.epochs * math.ceil(most / B)
    temperature = args.temperature
    step = 0
    best = None

    stop = stop_on_interrupt(console.print)

    for epoch in range(1, args.epochs + 1):
        student.train()
        stats = []
        tick = time.perf_counter()
        windows = first_rows(train, T, stride, order)
        batches = windows[torch.randperm(len(windows), generator=order)].split(B)

        for mb in track(batches, f"epoch {epoch}", console=console, transient=True, disable=not console.is_terminal):
            # --------------------------------------------------------------------------- data: windows side by side
            rows = mb + stride * torch.arange(T)[:, None]                   # [T, B]
            obs, actions = train.take(rows)
            weight = train.weights[rows] / train.weights[rows].sum().clamp(min=1)
            resets = torch.zeros(rows.shape, dtype=torch.bool)
            resets[0] = True                                                # each from an empty memory
            features, _ = student.unroll(obs, student.initial_state(len(mb)), resets)
            logits = student.logits(features, actions)                      # [T, B, 81]

            # ------------------------------------------------- loss: the softened teacher, the player, the values
            kl = (action_kl(teacher_logits[rows] / temperature, logits / temperature).sum(-1) * weight).sum()
            nll = -(action_logprobs(logits, actions)[0].sum(-1) * weight).sum()
            value_loss = ((student.value(features) - teacher_values[rows]) ** 2 * weight).sum()
            loss = args.alpha * temperature ** 2 * kl + (1 - args.alpha) * nll + args.value_coef * value_loss

            # ------------------------------------------------------------------------------------------------ update
            optimizer.param_groups[0]["lr"] = args.learning_rate * max(0., 1 - step / num_updates)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), args.max_grad_norm)
            optimizer.step()
            stats.append(torch.stack([kl, nll, value_loss]).detach())
            step += 1
            if stop:
                break

        # ------------------------------------------------------------------------------------- evaluation and logging
        seconds = time.perf_counter() - tick
        fps = min(len(stats) * B, len(windows)) * T / seconds
        row = evaluate(teacher_held_out, answers(student.eval(), held_out), held_out, args.alpha, temperature)
        mean = torch.stack(stats).mean(0).tolist()
        metrics = {
            "step": step, "epoch": epoch, "losses/kl": mean[0], "losses/nll": mean[1], "losses/value_loss": mean[2],
            "charts/learning_rate": optimizer.param_groups[0]["lr"], "charts/frames_per_second": round(fps),
            "time/learn": seconds, **row}
        append_jsonl(run / "metrics.jsonl", metrics)
        tracker.log(metrics, step)
        better = best is None or row["eval/loss"] < best["eval/loss"]
        if better:
            best = row
            save_checkpoint(output, student, stage="distill", step=step, epoch=epoch, args=to_flags(args), metrics=row,
                            teacher=hashlib.sha256(Path(args.teacher).read_bytes()).hexdigest(),
                            optimizer=optimizer.state_dict(), noise=order.get_state())
            has_begun(run)
        console.print(f"epoch {epoch}  {fps:,.0f} frames/s  held out {row['eval/student_nll']:.3f} (teacher "
                      f"{row['eval/teacher_nll']:.3f})  KL {row['eval/kl']:.3f}  value error "
                      f"{row['eval/value_error']:.4f}{'  (best so far)' if better else ''}")
        if stop:
            break

    lock.release()
    tracker.log_best(run, output, step)
    tracker.finish()
    report(teacher, student.eval(), best, console)
    if stop:
        console.print(f"stopped in epoch {epoch}; the best student so far: {output}")
        sys.exit(130)
    console.print(f"done: {output}")


if __name__ == "__main__":
    run_script(main, Args)
