"""Behavioural cloning: a policy that presses what people pressed, learned from .slp files.

    python bc.py --replays DIR                                                       # 25 games: 80 s on one core
    python bc.py --replays DIR --character mewtwo --backbone mlp --hidden 128,128    # 5 games: 8 s

A policy that has seen frames[t] learns controllers[t + 1]. Windows of `--window-size` frames are cut from whole games
at random places and shuffled; a recurrent policy enters each with an empty memory. Held-out games are judged as they
are played: from their first frame to their last, the memory carried along. (Carrying it in training too came out no
better on real games.) The loss cannot tell who plays better; only games can.
"""

if __name__ == "__main__":
    import cleanmelee.startup                               # before the imports that take seconds

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from rich.progress import track
from rich.table import Table

from cleanmelee.backbones import OPTIONS, backbone_options
from cleanmelee.cli import (
    AT_LEAST_0, COUNT, COUNT_OR_OFF, PATH, POSITIVE, SEEDS, Range, check_ranges, run_script, to_flags,
)
from cleanmelee.dataset import Sequences, load_sequences, walk
from cleanmelee.files import append_jsonl, check_writable
from cleanmelee.frame import BUTTONS
from cleanmelee.runs import has_begun, start_run, stop_on_interrupt
from cleanmelee.terminal import Terminal
from cleanmelee.tracking import Tracker
from melee_common import (
    HEADS, NUM_BUTTONS, OWN_CONTROLLER, STICK_NEUTRAL, Policy, action_logprobs, load_policy, network_flags,
    parse_hidden, save_checkpoint, split_logits,
)

BELOW_1 = Range(0, 1 - 1e-9)
STICKS = list(HEADS)[1:5]                                                   # main_x, main_y, c_x, c_y


@dataclass
class Args:
    replays: Annotated[str, PATH]
    """folder of .slp files (subfolders too), or one file"""
    max_files: Annotated[int, COUNT_OR_OFF] = 0
    """read only the first so many files, in sorted order (off: 0, all)"""
    character: str = ""
    """learn only from who plays this character (off: empty, everybody)"""
    player_port: Annotated[int, Range(0, 4)] = 0
    """learn only from this port, 1 to 4 (off: 0, both players of every game)"""
    cpu_players: bool = False
    """learn from the game's own CPU players too"""
    min_active: Annotated[float, BELOW_1] = 0.01
    """leave out players whose input changes on fewer than this share of frames: a controller that was put down teaches
    standing still (off: 0)"""
    held_out: Annotated[float, BELOW_1] = 0.1
    """share of the games that is only for evaluation; at least one game"""
    num_workers: Annotated[int, Range(-1, 65536)] = -1
    """processes that parse replays; -1: one per core (off: 0, in this process)"""

    pretrained: Annotated[str, PATH] = ""
    """checkpoint to start from; its network sizes are used (off: empty, start from scratch)"""
    backbone: Literal["mlp", "gru", "lstm", "transformer", "hybrid", "mamba"] | None = None
    """network between embedding and heads; all but the mlp remember (default: gru, or that of --pretrained)"""
    hidden: str | None = None
    """layer sizes separated by commas, the last one is the width of what remembers (default: 256, or those of
    --pretrained)"""
    num_layers: Annotated[int | None, OPTIONS["num_layers"]] = None
    """layers that remember, each of the last size of --hidden; the mlp has none (default: 2, of the gru 1, or that of --pretrained)"""
    num_heads: Annotated[int | None, OPTIONS["num_heads"]] = None
    """attention heads of transformer and hybrid (default: 4, or that of --pretrained)"""
    state_size: Annotated[int | None, OPTIONS["state_size"]] = None
    """numbers that each channel of the mamba remembers (default: 16, or that of --pretrained)"""
    expand_factor: Annotated[int | None, OPTIONS["expand_factor"]] = None
    """how many times wider the mamba is inside (default: 2, or that of --pretrained)"""
    conv_size: Annotated[int | None, OPTIONS["conv_size"]] = None
    """frames of the mamba's convolution (default: 4, or that of --pretrained)"""
    epochs: Annotated[int, COUNT] = 10
    """passes over the training games"""
    batch_size: Annotated[int, COUNT] = 64
    """windows in one update"""
    window_size: Annotated[int, Range(2, 10 ** 9)] = 60
    """frames in one window; shorter games are skipped; transformer and hybrid look back as far (with --pretrained: as far
    as it does)"""
    learning_rate: Annotated[float, Range(1e-12, 1)] = 3e-3
    """AdamW's step size at the start"""
    anneal_lr: bool = True
    """lower the learning rate to 0 over the run, linearly"""
    weight_decay: Annotated[float, AT_LEAST_0] = 0.01
    """AdamW's weight decay (off: 0)"""
    max_grad_norm: Annotated[float, POSITIVE] = 1.0
    """gradients are scaled down to this norm"""
    prev_controller_dropout: Annotated[float, BELOW_1] = 0.2
    """share of windows, in training only, in which the policy cannot see its own last controller: people hold an input
    for many frames, so copying it scores well and never starts anything (off: 0)"""
    value_coef: Annotated[float, AT_LEAST_0] = 0.5
    """weight of the value loss: the value head learns the discounted reward from features that this loss leaves alone,
    so that self-play need not begin with a random critic (off: 0, the value head stays as it is)"""
    gamma: Annotated[float, BELOW_1] = 0.9967
    """discount a frame of that reward (a stock 1, a percent of damage .01), a half-life of 3.5 seconds as in
    self-play"""

    seed: Annotated[int, SEEDS] = 1
    """decides weights, windows and their order"""
    checkpoint: Annotated[str, PATH] = ""
    """file for the policy with the lowest held-out loss (default: checkpoints/best.pt in the run folder, beside
    last.pt)"""
    run_name: str = ""
    """folder inside --runs-dir (default: made of backbone, seed and time)"""
    runs_dir: Annotated[str, PATH] = "runs"
    """where runs are kept"""
    track: bool = False
    """log to Weights & Biases too; WANDB_MODE=offline works without an account"""


@torch.inference_mode()
def evaluate(policy: Policy, data: Sequences) -> dict[str, float]:
    """Held-out games as they are played: the memory carried from first to last frame, the last input visible. Within a
    frame each head is given the player's true choice in the heads before it (teacher forcing)."""
    sums: dict[str, torch.Tensor] = {}
    state = ()

    for rows, real, first in walk(data.starts):
        obs, actions = data.take(rows)
        weight = data.weights[rows] * real                                  # [T, B]
        changed = data.changed[rows] * weight
        state = policy.initial_state(rows.shape[1]) if first else state
        features, state = policy.unroll(obs, state, torch.zeros(rows.shape, dtype=torch.bool))
        logits = policy.logits(features, actions)                           # [T, B, 81]
        logprobs, entropies = action_logprobs(logits, actions)              # [T, B, 6]

        buttons, sticks, shoulder = split_logits(logits)                    # [T, B, 8], [T, B, 4, 17], [T, B, 1, 5]
        pressed = actions[..., :NUM_BUTTONS] > 0
        index = actions[..., NUM_BUTTONS:]
        right = torch.cat([((buttons > 0) == pressed).all(-1, keepdim=True), sticks.argmax(-1) == index[..., :4],
                           shoulder.argmax(-1) == index[..., 4:]], -1)
        value_error = (policy.value(features) - data.returns[rows]) ** 2
        for name, value, counts in (
                ("nll", -logprobs, weight), ("entropy", entropies, weight), ("accuracy", right, weight),
                ("true_press", pressed, weight), ("press", buttons.sigmoid(), weight),
                ("argmax_press", buttons > 0, weight),
                ("true_neutral", index[..., :4] == STICK_NEUTRAL, weight),
                ("neutral", sticks.softmax(-1)[..., STICK_NEUTRAL], weight),
                ("value_loss", value_error[..., None], weight),
                ("nll_changed", -logprobs.sum(-1, keepdim=True), changed)):
            total = torch.cat([(value * counts[..., None]).flatten(0, 1).sum(0), counts.sum()[None]])
            sums[name] = sums[name] + total if name in sums else total

    mean = {name: (s[:-1] / s[-1].clamp(min=1)).tolist() for name, s in sums.items()}
    row = {"eval/nll": sum(mean["nll"]), "eval/nll_changed": mean["nll_changed"][0],
           "eval/value_loss": mean["value_loss"][0]}
    for columns, names in ((HEADS, ("nll", "accuracy", "entropy")), (BUTTONS, ("true_press", "press", "argmax_press")),
                           (STICKS, ("true_neutral", "neutral"))):
        row |= {f"eval/{name}_{column}": mean[name][k] for name in names for k, column in enumerate(columns)}
    return row


def warnings(row: dict[str, float]) -> list[str]:
    """Signs of a collapse that the loss does not show."""
    found = []
    for name in BUTTONS:
        true, press, argmax = (row[f"eval/{kind}_{name}"] for kind in ("true_press", "press", "argmax_press"))
        if true > .002 and not .5 < press / true < 2:
            found.append(f"{name} is held {press:.2%} of the time, by people {true:.2%}")
        elif true > .01 and argmax < .1 * true:
            found.append(f"{name} is hardly ever held without sampling")
    for name in STICKS:
        true = row[f"eval/true_neutral_{name}"]
        rests = row[f"eval/neutral_{name}"]
        if abs(rests - true) > .1:
            found.append(f"{name} rests {rests:.0%} of the time, people's {true:.0%}")
    for name in HEADS:
        nll = row[f"eval/nll_{name}"]
        entropy = row[f"eval/entropy_{name}"]
        if nll > 1.5 * entropy + .05:
            found.append(f"{name} is surer than it is right (loss {nll:.3f}, entropy {entropy:.3f})")
    return found


def report(before: dict, after: dict, console: Terminal) -> None:
    """Two rows of `evaluate`, before training and of the best epoch, as tables."""
    heads = Table("head", "loss before", "after", "right before", "after", "entropy", title="held-out games, per frame")
    for name in HEADS:
        heads.add_row(name, *[f"{row[f'eval/nll_{name}']:.3f}" for row in (before, after)],
                      *[f"{row[f'eval/accuracy_{name}']:.1%}" for row in (before, after)],
                      f"{after[f'eval/entropy_{name}']:.3f}")
    heads.add_section()
    heads.add_row("all", f"{before['eval/nll']:.3f}", f"{after['eval/nll']:.3f}")
    heads.add_row("all, new inputs", f"{before['eval/nll_changed']:.3f}", f"{after['eval/nll_changed']:.3f}")
    held = Table("share of frames", "people", "policy", "its likeliest")
    for name in BUTTONS:
        held.add_row(name, *[f"{after[f'eval/{kind}_{name}']:.2%}" for kind in ("true_press", "press", "argmax_press")])
    held.add_section()
    for name in STICKS:
        held.add_row(f"{name} at rest",
                     *[f"{after[f'eval/{kind}_{name}']:.2%}" for kind in ("true_neutral", "neutral")])
    console.print(heads, held)
    for line in warnings(after):
        console.print(f"note: {line}")


def fill_in(args: Args, policy: Policy) -> None:
    """What the command line left open: the sizes of a --pretrained network."""
    names = ["backbone", "hidden", *OPTIONS.keys() - {"window_size"}]        # its windows may be cut otherwise
    own = network_flags(policy, **{name: getattr(args, name) for name in names})
    vars(args).update({name: own[name] for name in names})


def main(args: Args) -> None:
    console = Terminal()

    # ------------------------------------------------------------------------------------------------------- set-up
    check_ranges(args)
    if args.checkpoint:
        check_writable("--checkpoint", Path(args.checkpoint))
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)                                  # windows
    if args.pretrained:
        policy, _ = load_policy(args.pretrained)
    else:
        backbone = args.backbone or "gru"
        options = {name: getattr(args, name) for name in OPTIONS}
        if "window_size" not in backbone_options(backbone):                 # then it says only how games are cut
            del options["window_size"]
        policy = Policy(backbone, parse_hidden("256" if args.hidden is None else args.hidden), **options)
    policy.config |= {"action_repeat": 1, "frame_delay": 0}                 # people act on every frame, at once
    fill_in(args, policy)
    tracker = Tracker(args.track)

    train, held_out, about = load_sequences(
        args.replays, character=args.character, player_port=args.player_port, cpu_players=args.cpu_players,
        min_active=args.min_active, held_out=args.held_out, max_files=args.max_files, num_workers=args.num_workers,
        min_frames=max(60, args.window_size), gamma=args.gamma)
    name = f"bc_{args.backbone}_seed{args.seed}_{time.strftime('%Y%m%d_%H%M%S')}"
    run, lock = start_run(args.runs_dir, args.run_name, name, to_flags(args), __file__)
    args.run_name = run.name
    (run / "replays.json").write_text(json.dumps(about, indent=1) + "\n")
    best_path = Path(args.checkpoint) if args.checkpoint else run / "checkpoints" / "best.pt"
    tracker.start(run, run.name, to_flags(args))

    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    T, B = args.window_size, args.batch_size
    num_updates = args.epochs * math.ceil(sum((train.starts[1:] - train.starts[:-1]) // T) / B)
    console.print(f"CleanMelee behavioural cloning  {args.backbone} {args.hidden} "
                  f"({sum(p.numel() for p in policy.parameters()):,} parameters)\n"
                  f"{about['train_players']} players in {about['train_games']} games, {len(train.weights):,} frames to "
                  f"learn from; {about['held_out_players']} in {about['held_out_games']}, {len(held_out.weights):,} "
                  f"frames held out; left out: {about['idle_players']} idle and {about['cpu_players']} CPU players; "
                  f"run folder {run}")

    stop = stop_on_interrupt(console.print)
    before = best = evaluate(policy.eval(), held_out)
    append_jsonl(run / "metrics.jsonl", {"step": 0, "epoch": 0, **before})
    console.print(f"epoch 0  held out {before['eval/nll']:.3f}, new inputs {before['eval/nll_changed']:.3f}")
    step = 0

    for epoch in range(1, args.epochs + 1):
        policy.train()
        clock = {"data": 0., "learn": 0.}
        stats = []
        first_rows = np.concatenate([                                       # each game is cut anew, at a random frame
            np.arange(a + rng.integers(min(T, b - a - T) + 1), b - T + 1, T)
            for a, b in zip(train.starts[:-1], train.starts[1:], strict=True)])
        windows = torch.from_numpy(rng.permutation(first_rows))

        for mb in track(windows.split(B), f"epoch {epoch}", console=console, transient=True,
                        disable=not console.is_terminal):
            # -------------------------------------------------------------------------------------------------- data
            tick = time.perf_counter()
            rows = mb + torch.arange(T)[:, None]                            # [T, B] windows side by side
            obs, actions = train.take(rows)
            weight = train.weights[rows]                                    # [T, B]
            returns = train.returns[rows]                                   # [T, B]
            hidden = torch.rand(len(mb), 1) < args.prev_controller_dropout  # [B, 1], for the whole window
            obs.floats[..., OWN_CONTROLLER] *= ~hidden
            resets = torch.zeros(rows.shape, dtype=torch.bool)
            resets[0] = True                                                # each from an empty memory
            clock["data"] += time.perf_counter() - tick
            tick = time.perf_counter()

            # ------------------------------------------------- loss: plain cross-entropy of what the player did next
            features, _ = policy.unroll(obs, policy.initial_state(len(mb)), resets)
            logprobs, _ = action_logprobs(policy.logits(features, actions), actions)              # [T, B, 6]
            nll = -(logprobs.sum(-1) * weight).sum() / weight.sum().clamp(min=1)
            value_error = (policy.value(features.detach()) - returns) ** 2                        # [T, B]
            value_loss = (value_error * weight).sum() / weight.sum().clamp(min=1)
            loss = nll + args.value_coef * value_loss

            # ------------------------------------------------------------------------------------------------ update
            if args.anneal_lr:
                optimizer.param_groups[0]["lr"] = args.learning_rate * max(0., 1 - step / num_updates)
            optimizer.zero_grad()
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
            optimizer.step()
            stats.append(torch.stack([nll, value_loss, grad_norm]).detach())
            clock["learn"] += time.perf_counter() - tick
            step += 1
            if stop:
                break

        # ------------------------------------------------------------------------------------- evaluation and logging
        tick = time.perf_counter()
        row = evaluate(policy.eval(), held_out)
        mean = torch.stack(stats).mean(0).tolist()
        fps = min(len(stats) * B, len(windows)) * T / (clock["data"] + clock["learn"])
        metrics = {"step": step, "epoch": epoch, "losses/nll": mean[0], "losses/value_loss": mean[1],
                   "losses/grad_norm": mean[2], "charts/learning_rate": optimizer.param_groups[0]["lr"],
                   "charts/frames_per_second": round(fps), **row,
                   **{f"time/{name}": seconds for name, seconds in clock.items()},
                   "time/eval": time.perf_counter() - tick}
        append_jsonl(run / "metrics.jsonl", metrics)
        tracker.log(metrics, step)
        better = row["eval/nll"] < best["eval/nll"] or epoch == 1
        best = row if better else best
        for path in [run / "checkpoints" / "last.pt"] + [best_path] * better:
            save_checkpoint(path, policy, stage="bc", step=step, epoch=epoch, args=to_flags(args), metrics=row,
                            optimizer=optimizer.state_dict(), rng=json.dumps(rng.bit_generator.state),
                            noise=torch.get_rng_state())
        has_begun(run)
        console.print(f"epoch {epoch}  {fps:,.0f} frames/s  loss {mean[0]:.3f}  held out {row['eval/nll']:.3f}, new "
                      f"inputs {row['eval/nll_changed']:.3f}  value {row['eval/value_loss']:.4f}"
                      f"{'  (best so far)' if better else ''}")
        if stop:
            break

    lock.release()
    report(before, best, console)
    tracker.finish()
    if stop:
        console.print(f"stopped in epoch {epoch}; go on from its weights with --pretrained "
                      f"{run / 'checkpoints' / 'last.pt'}")
        sys.exit(130)
    console.print(f"done: {best_path}")


if __name__ == "__main__":
    run_script(main, Args)
