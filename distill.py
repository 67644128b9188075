"""Distillation: a small policy that answers like a large one, on the frames of real games and on those of its own.

    python distill.py --teacher runs/bc --replays DIR --output student.pt                       # 25 games: 25 s
    python distill.py --teacher runs/ppo --on-policy-games 64 --epochs 30 --output student.pt   # no replays: 2 min
    python distill.py --teacher a.pt,b.pt --replays DIR --on-policy-games 64                    # two into one, on both
    python distill.py --resume runs/NAME                                                        # as if never stopped

Teachers may have any backbone. They watch every game from the first frame to the last as if they played (who acts on
every third frame sees every third). The student acts as often and as late as they do. An mlp sees single frames in
random order; one that remembers sees windows of `--window-size` of its frames, cut from whole games at random places,
and enters each with an empty memory. Per frame the loss is

    alpha * T^2 * KL(teacher || student), both softened by the temperature T, summed over the heads
    + (1 - alpha) * -log p(what the player did)  +  value_coef * (difference of the value heads)^2

where each head is given the true choice in the heads before it, for teacher and student alike. The value head is
distilled too, so that self-play can go on from the student.

On the frames of others a student does not learn what to do after its own mistakes. With `--on-policy-games` it plays
the embedded game before every iteration, and the teachers say what they would have done there (DAgger, Ross et al.
2011); what it did itself is not learned. An iteration learns from some of the replays (whole games, about 262,000 rows)
and from these games together; an epoch is one pass over the replays, without them one iteration.
"""

if __name__ == "__main__":
    import cleanmelee.startup                               # before the imports that take seconds

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from rich.progress import track

from cleanmelee.agreement import describe, judged, measure, report
from cleanmelee.backbones import OPTIONS, backbone_options
from cleanmelee.cli import (
    AT_LEAST_0, COUNT, COUNT_OR_OFF, PATH, POSITIVE, SEEDS, SHARE, Range, UserError, check_ranges, parse_matchups,
    parse_names, run_script, to_flags,
)
from cleanmelee.controller import NUM_LOGITS, decode_actions, mirrored
from cleanmelee.dataset import Games, check_both, load_sides, open_games, portions, write_manifest
from cleanmelee.files import append_jsonl, atomic_write, check_writable, keep_jsonl
from cleanmelee.frame import outcomes
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, VecEnv, matchups
from cleanmelee.labels import LabelFile, Lesson, ask, join, load_teachers, write_labels
from cleanmelee.observation import Observation, Pending, observe
from cleanmelee.resume import resume_run
from cleanmelee.runs import has_begun, start_run, stop_on_interrupt
from cleanmelee.terminal import Terminal
from cleanmelee.tracking import Tracker, WandbArgs
from melee_common import Policy, act, action_kl, action_logprobs, parse_hidden, save_checkpoint

BELOW_1 = Range(0, 1 - 1e-9)
MAY_CHANGE = {"resume", "epochs", "num_workers"}        # where a run goes on
SELF = "self"                                           # among --on-policy-opponents


@dataclass
class Args:
    teacher: Annotated[str, PATH] = ""
    """checkpoint, or run folder, of the policy to imitate, of bc.py or ppo_selfplay.py; of several, by commas, the
    mixture"""
    replays: Annotated[str, PATH] = ""
    """folder of .slp files (subfolders too), or one file: frames on which the teacher is asked (off: empty, only games
    of --on-policy-games)"""
    output: Annotated[str, PATH] = ""
    """file for the student with the lowest loss on held-out games, on its own or both in the mean (default:
    checkpoints/best.pt in the run folder, beside last.pt)"""
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
    save_soft_labels: Annotated[str, PATH] = ""
    """ask the teacher once about all replays, and keep its answers in this file, 164 bytes a frame and player (off:
    empty, it is asked anew in every epoch)"""
    soft_labels: Annotated[str, PATH] = ""
    """file that --save-soft-labels of this teacher has made of these replays, or of more (off: empty)"""

    on_policy_games: Annotated[int, Range(0, 65536)] = 0
    """games that the student plays before every iteration, to be told by the teacher what to do there (off: 0)"""
    on_policy_opponents: str = "self,level1,level3,level5,level7,level9"
    """against whom, as often each, by commas: self, and then both sides are learned from, or scripted bots"""
    play_character: str = "mewtwo"
    """the student's character in these games; several, separated by commas, are played in turn"""
    opponent_character: str = ""
    """its opponents' character, or several (off: empty, the same as the student's)"""
    stage: str = "final_destination"
    """stage of these games, several, or all"""
    max_episode_frames: Annotated[int, Range(1, 10 ** 9)] = 3600
    """game frames after which such a game ends; 3600 is a minute (off: 28800, which no game outlasts)"""

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
    """passes over the training games; without --replays iterations, of --on-policy-games each"""
    batch_size: Annotated[int, COUNT] = 2048
    """frames in one update, in whole windows if the student remembers"""
    learning_rate: Annotated[float, Range(1e-12, 1)] = 3e-3
    """AdamW's step size at the start; it falls to 0 over the run, linearly"""
    weight_decay: Annotated[float, AT_LEAST_0] = 0.01
    """AdamW's weight decay (off: 0)"""
    max_grad_norm: Annotated[float, POSITIVE] = 1.0
    """gradients are scaled down to this norm"""

    resume: Annotated[str, PATH] = ""
    """run folder to continue, with the arguments it was started with; only --epochs and --num-workers may change (off:
    empty)"""
    seed: Annotated[int, SEEDS] = 1
    """decides the student's first weights, the order of frames and the games that it plays"""
    run_name: str = ""
    """folder inside --runs-dir (default: made of sizes, seed and time)"""
    runs_dir: Annotated[str, PATH] = "runs"
    """where runs are kept"""
    wandb: Annotated[WandbArgs, tyro.conf.arg(name="")] = field(default_factory=WandbArgs)


# ---------------------------------------------------------------------------------------------------------------------
# What to learn from
# ---------------------------------------------------------------------------------------------------------------------

def people_played(games: Games, sides: np.ndarray, teachers: list[Policy], kept: LabelFile | None) -> Lesson:
    """All rows of these sides of replays."""
    data = load_sides(games, sides, teachers[0].action_repeat)
    labels = kept.read(games, sides) if kept else ask(teachers, data.obs, data.actions, data.starts)
    return Lesson(data.obs, data.actions, data.weights, data.weights, labels, data.starts)


@torch.inference_mode()
def student_plays(student: Policy, teachers: list[Policy], args: Args, seed: int) -> tuple[Lesson, dict[str, float]]:
    """--on-policy-games games from their first frame to their last, all side by side -> the student's decisions in
    them, with the teachers' labels, and its win rates."""
    N = args.on_policy_games
    number = np.arange(N)
    port, opponents = number % 2, parse_names(args.on_policy_opponents, BOTS | {SELF: BOT_SLOT}, "opponent")
    opponent = np.array(opponents)[number * len(opponents) // N]            # blocks, as often from either port
    assignment, bot_kinds = np.zeros((N, 2), int), np.zeros((N, 2), int)
    bot_kinds[number, 1 - port] = [BOTS.get(name, 0) for name in opponent]
    assignment[bot_kinds > 0] = BOT_SLOT
    characters, stages = matchups(
        parse_matchups(args.play_character, args.opponent_character, args.stage), number, port)
    pending = Pending(N, student.frame_delay, student.action_repeat)
    states, noise = [student.initial_state(2 * N)], torch.Generator().manual_seed(seed)
    running, resets = np.ones(N, bool), np.ones(N, bool)
    floats, ints, taken, slots = [], [], [], []                             # a row each for who decides
    with VecEnv(N, characters, stages, seed=seed, bot_kinds=bot_kinds, max_episode_frames=args.max_episode_frames,
                action_repeat=student.action_repeat) as envs:
        final = envs.frames.copy()
        while running.any():
            obs = observe(envs.frames, envs.controllers, pending.frames)    # floats [N, 2, F], ints [N, 2, I]
            actions = act([student], assignment, obs, states, resets, noise)
            learns = (assignment == 0) & running[:, None]                   # [N, 2]
            for column, values in ((floats, obs.floats), (ints, obs.ints), (taken, actions)):
                column.append(values[learns])
            slots.append(np.flatnonzero(learns))
            terminated, truncated, _ = envs.step(pending.push(decode_actions(actions, mirrored(envs.frames))))
            resets = terminated | truncated
            pending.reset(resets)
            ended = resets & running
            final[ended] = envs.final_frames[ended]
            running &= ~ended

    slots = np.concatenate(slots)
    order = np.argsort(slots, kind="stable")                                # game after game
    floats, ints, actions = (torch.from_numpy(np.concatenate(x)[order]) for x in (floats, ints, taken))
    lengths = np.bincount(slots)
    obs, starts = Observation(floats, ints), np.cumsum([0, *lengths[lengths > 0]])
    ones, scores = torch.ones(len(order)), (outcomes(final) * (1 - 2 * port) + 1) / 2
    return (Lesson(obs, actions, ones, torch.zeros(len(order)), ask(teachers, obs, actions, starts), starts),
            {f"on_policy/winrate_{name}": float(scores[opponent == name].mean()) for name in opponents if name != SELF})


def windows_of(lesson: Lesson, T: int, generator: torch.Generator) -> torch.Tensor:
    """Where windows of T rows begin: every sequence is cut at a random row. Of single rows those that count."""
    if T == 1:
        return lesson.weights.nonzero()[:, 0]
    spans = [(a, b - T + 1) for a, b in zip(lesson.starts[:-1].tolist(), lesson.starts[1:].tolist(), strict=True)]
    return torch.cat([torch.arange(a + int(torch.randint(min(T, end - a), (), generator=generator)), end, T)
                      for a, end in spans if end > a] or [torch.zeros(0, dtype=torch.long)])


def seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


# ---------------------------------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------------------------------

def check(args: Args) -> None:
    """One line for what cannot work."""
    check_ranges(args)
    parse_matchups(args.play_character, args.opponent_character, args.stage)
    opponents = parse_names(args.on_policy_opponents, BOTS | {SELF: BOT_SLOT}, "opponent")
    for flag, wrong, rule in (
            ("--replays", not args.replays and not args.on_policy_games,
             "give a folder of .slp files, or --on-policy-games for the student to play itself"),
            ("--alpha 0", not args.alpha and not args.replays, "of its own games a student learns the teacher's share"),
            ("--soft-labels", args.soft_labels and args.save_soft_labels, "not together with --save-soft-labels"),
            ("--soft-labels and --save-soft-labels", (args.soft_labels or args.save_soft_labels) and not args.replays,
             "are for --replays; of its own games a student has new ones every time"),
            (f"--on-policy-games {args.on_policy_games}", 0 < args.on_policy_games < 2 * len(opponents),
             f"must be at least {2 * len(opponents)}, so that each of --on-policy-opponents is met from either port")):
        if wrong:
            raise UserError(f"{flag}: {rule}")
    for flag in ("output", "save_soft_labels"):
        if getattr(args, flag):
            check_writable("--" + flag.replace("_", "-"), Path(getattr(args, flag)))


def restore(run: Path, args: Args, saved: dict, student: Policy, optimizer, digests: list[str]) -> dict:
    """Weights, moments and logs are again as they were at the checkpoint `saved` -> its `state`, see `main`."""
    if saved.get("teacher") != ",".join(digests):
        raise UserError(f"{run}: --teacher {args.teacher} is not the file that this run learns from; put that back")
    try:
        student.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        state = {name: saved["state"][name] for name in ("iteration", "portion", "stats", "best")}
        state["stats"] = list(state["stats"].unbind(0))
    except Exception as error:                                              # whatever an edited file makes torch raise
        raise UserError(f"{run}: its checkpoint cannot be resumed ({type(error).__name__}: {error}); restore it, or "
                        "start a new run") from None
    keep_jsonl(run / "metrics.jsonl", saved["step"], "step")
    atomic_write(run / "args.json", (json.dumps(to_flags(args), indent=1) + "\n").encode())
    return state


def main(args: Args) -> None:
    # ------------------------------------------------------------------------------------------------------- set-up
    console = Terminal()
    check_ranges(args)
    run, args, lock, saved = resume_run(args, MAY_CHANGE, "distill") if args.resume else (None, args, None, None)
    check(args)
    hidden = parse_hidden(args.hidden)
    teachers, digests = load_teachers(args.teacher)
    torch.manual_seed(args.seed)
    options = {name: getattr(args, name) for name in OPTIONS}
    if "window_size" not in backbone_options(args.backbone):                # then it says only how games are cut
        del options["window_size"]
    student = Policy(args.backbone, hidden, teachers[0].action_repeat, teachers[0].frame_delay, **options)
    T = args.window_size if student.initial_state(1) else 1
    if args.on_policy_games:
        Pending(1, student.frame_delay, student.action_repeat)              # can it play them?
    tracker = Tracker(args.wandb)

    train = held_out = Games().freeze()                                     # no replays
    about = {}
    if args.replays:
        train, held_out, about = open_games(
            args.replays, character=args.character, player_port=args.player_port, cpu_players=args.cpu_players,
            min_active=args.min_active, held_out=args.held_out, max_files=args.max_files, num_workers=args.num_workers,
            min_frames=max(60, T * student.action_repeat + 1), delay=student.frame_delay,
            manifest=str(run / "manifest.json") if saved else "")           # a game's last frame has no next input
        check_both(train, held_out, about, args.replays)
    kept, file = None, args.soft_labels or args.save_soft_labels
    if args.save_soft_labels and not (saved and Path(file).is_file()):
        tick = time.perf_counter()
        size = write_labels(Path(file), teachers, digests, (train, held_out))
        fps = (train.frames + held_out.frames) / (time.perf_counter() - tick)
        console.print(f"asked the teacher: {fps:,.0f} frames/s; {file} has {size / 1e6:,.1f} MB")
    if file:
        kept = LabelFile(file, digests, (train, held_out))

    if not saved:
        name = f"distill_{args.backbone}_{'x'.join(map(str, hidden))}_seed{args.seed}_{time.strftime('%Y%m%d_%H%M%S')}"
        run, lock = start_run(args.runs_dir, args.run_name, name, to_flags(args), __file__)
        args.run_name = run.name
        if args.replays:
            write_manifest(run / "manifest.json", train, held_out)
    best_path = Path(args.output) if args.output else run / "checkpoints" / "best.pt"
    last_path = run / "checkpoints" / "last.pt"
    tracker.start(run, run.name, to_flags(args))
    optimizer = torch.optim.AdamW(student.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay,
                                  fused=True)
    step, epoch = (saved["step"], saved["epoch"]) if saved else (0, 1)
    # iterations done in all, and of this epoch; losses of this epoch's updates; the best epoch's row
    state = {"iteration": 0, "portion": 0, "stats": [], "best": {}}
    if saved:
        state = restore(run, args, saved, student, optimizer, digests)
    sizes = " + ".join(f"{teacher.config['backbone']} {teacher.config['hidden']}" for teacher in teachers)
    console.print(f"CleanMelee distillation  {sizes} -> {args.backbone} {student.config['hidden']}; run folder {run}")
    if args.replays:
        console.print(f"{about['train_players']} players in {about['train_games']} games, {train.frames:,} frames to "
                      f"learn from; {about['held_out_players']} in {about['held_out_games']}, {held_out.frames:,} "
                      "frames held out")

    def save(*paths: Path) -> None:
        stats = torch.stack(state["stats"]) if state["stats"] else torch.zeros(0, 3)
        for path in paths:
            save_checkpoint(path, student, stage="distill", step=step, epoch=epoch, args=to_flags(args),
                            metrics=state["best"], teacher=",".join(digests), optimizer=optimizer.state_dict(),
                            state=state | {"stats": stats})

    def play() -> tuple[Lesson, dict[str, float]]:
        return student_plays(student, teachers, args, seed_of(args.seed, 1, state["iteration"]))

    stop = stop_on_interrupt(console.print)
    if not saved:
        save(last_path)                                                     # something to go on from
        has_begun(run)
    played = None                                                           # what it has played since its last update
    temperature, B = args.temperature, max(1, args.batch_size // T)
    clock, rows, tick = {"data": 0., "learn": 0.}, 0, time.perf_counter()

    while epoch <= args.epochs and not stop:
        # ---------------------------------------------------------------------------- data: what to learn from, and how
        parts = portions(train, (args.seed, epoch)) or [None]               # of the replays; None: there are none
        sides = parts[state["portion"]]
        lessons = [] if sides is None else [people_played(train, sides, teachers, kept)]
        if args.on_policy_games:
            played = played or play()
            lessons.append(played[0])
        lesson, played = join(lessons), None
        order = torch.Generator().manual_seed(seed_of(args.seed, 2, state["iteration"]))
        windows = windows_of(lesson, T, order)
        if not len(windows):
            raise UserError(f"no game has --window-size {T} frames of the student; make it smaller")
        batches = windows[torch.randperm(len(windows), generator=order)].split(B)
        clock["data"] += time.perf_counter() - tick
        tick = time.perf_counter()

        for k, mb in enumerate(track(batches, f"epoch {epoch}", console=console, transient=True,
                                     disable=not console.is_terminal)):
            # ------------------------------------------------------------------------------------- windows side by side
            at = mb + torch.arange(T)[:, None]                              # [T, B]
            obs, actions = Observation(lesson.obs.floats[at], lesson.obs.ints[at]), lesson.actions[at]
            label = lesson.labels[at].float()                               # [T, B, 82]
            total = lesson.weights[at].sum().clamp(min=1)
            weight, by_people = lesson.weights[at] / total, lesson.by_people[at] / total
            resets = torch.zeros(at.shape, dtype=torch.bool)
            resets[0] = True                                                # each from an empty memory
            features, _ = student.unroll(obs, student.initial_state(len(mb)), resets)
            logits = student.logits(features, actions)                      # [T, B, 81]

            # ----------------------------------------------------- loss: the softened teacher, the player, the values
            kl = (action_kl(label[..., :NUM_LOGITS] / temperature, logits / temperature).sum(-1) * weight).sum()
            nll = -(action_logprobs(logits, actions)[0].sum(-1) * by_people).sum()
            value_loss = ((student.value(features) - label[..., -1]) ** 2 * weight).sum()
            loss = args.alpha * temperature ** 2 * kl + (1 - args.alpha) * nll + args.value_coef * value_loss

            # ------------------------------------------------------------------------------------------------ update
            progress = (epoch - 1 + (state["portion"] + k / len(batches)) / len(parts)) / args.epochs
            optimizer.param_groups[0]["lr"] = lr = args.learning_rate * (1 - progress)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), args.max_grad_norm)
            optimizer.step()
            state["stats"].append(torch.stack([kl, nll, value_loss]).detach())
            step += 1
        state["iteration"] += 1
        state["portion"] += 1
        rows += len(windows) * T
        clock["learn"] += time.perf_counter() - tick
        tick = time.perf_counter()
        if state["portion"] < len(parts):
            save(last_path)
            continue

        # ------------------------------------------------------------------------------------- evaluation and logging
        row = {}
        if args.replays:
            lessons = (people_played(held_out, sides, teachers, kept) for sides in portions(held_out))
            row |= measure(student, lessons, args.alpha, temperature, "eval")
        if args.on_policy_games:
            played = play()                                                 # judged before it is learned from
            row |= measure(student, [played[0]], args.alpha, temperature, "on_policy") | played[1]
        means = torch.stack(state["stats"]).mean(0).tolist()
        fps = rows / clock["learn"]
        metrics = {"step": step, "epoch": epoch, "losses/kl": means[0], "losses/nll": means[1],
                   "losses/value_loss": means[2], "charts/learning_rate": lr, "charts/frames_per_second": round(fps),
                   **row, **{f"time/{name}": seconds for name, seconds in clock.items()},
                   "time/eval": time.perf_counter() - tick}
        append_jsonl(run / "metrics.jsonl", metrics)
        tracker.log(metrics, step)
        better = not state["best"] or judged(row) < judged(state["best"])
        console.print(f"epoch {epoch}  {fps:,.0f} frames/s  {describe(row)}{'  (best so far)' if better else ''}")
        epoch += 1
        state |= {"portion": 0, "stats": [], "best": row if better else state["best"]}
        save(*[best_path] * better, last_path)
        clock, rows, tick = {"data": 0., "learn": 0.}, 0, time.perf_counter()

    lock.release()
    if state["best"]:
        report(teachers, student, state["best"], console)
    tracker.log_best(run, best_path, step)
    tracker.finish()
    if stop and epoch <= args.epochs:
        console.print(f"stopped in epoch {epoch}; go on with: python {Path(__file__).name} --resume {run}")
        sys.exit(130)
    console.print(f"done: {best_path}")


if __name__ == "__main__":
    run_script(main, Args)
