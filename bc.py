"""Behavioural cloning: a policy that presses what people pressed, learned from .slp files.

    python bc.py --replays DIR                                                       # 25 games: 80 s on one core
    python bc.py --replays DIR --character mewtwo --backbone mlp --hidden 128,128    # 5 games: 8 s
    python bc.py --resume runs/NAME                                                  # go on as if never stopped
    python bc.py --eval-only --checkpoint runs/NAME/checkpoints/best.pt --replays DIR --report report.json
    python bc.py --eval-only --checkpoint runs/NAME/checkpoints/best.pt --replays DIR --eval-games 100

A policy that has seen frames[t] learns controllers[t + 1 + --frame-delay]. Windows of `--window-size` frames are cut
from whole games at random places and shuffled; a recurrent policy enters each with an empty memory. With
`--truncate-bptt` it learns from whole games instead, and its memory is carried. The games stay on disk, packed, and are
observed as they are read, so their number costs no memory. Held-out games are judged as they are played: from their
first frame to their last, the memory carried along. The loss cannot tell who plays better; only games can
(`--eval-games`).
"""

if __name__ == "__main__":
    import cleanmelee.startup                               # before the imports that take seconds

import contextlib
import io
import itertools
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cleanmelee.backbones import OPTIONS, backbone_options
from cleanmelee.cli import (
    AT_LEAST_0, COUNT, COUNT_OR_OFF, PATH, POSITIVE, SEEDS, SHARE, Range, UserError, as_flag, check_ranges, run_script,
    to_flags,
)
from cleanmelee.dataset import Games, Rows, Streams, Windows, check_both, open_games, prefetch, write_manifest
from cleanmelee.distributed import (
    all_gather, all_reduce_gradients, all_rows, broadcast, distributed, launcher, rank, shard, world_size,
)
from cleanmelee.evaluation import Evaluator, measure_strength
from cleanmelee.features import NUM_FLOATS, OWN_CONTROLLER
from cleanmelee.files import append_jsonl, atomic_write, check_writable, keep_jsonl
from cleanmelee.imitation import by_matchup, closed_loop, combinations, measure, report, summary
from cleanmelee.learning import choose_device, learning_rate, memory_for
from cleanmelee.names import number
from cleanmelee.resume import resume_run
from cleanmelee.runs import has_begun, iteration_progress, start_run, stop_on_interrupt
from cleanmelee.terminal import Terminal, printable
from cleanmelee.tracking import Tracker, WandbArgs
from melee_common import Policy, action_logprobs, load_policy, network_flags, parse_hidden, save_checkpoint

BELOW_1 = Range(0, 1 - 1e-9)
MAY_CHANGE = {"resume", "epochs", "max_updates", "device", "num_workers", "loader_workers"}     # where a run goes on
EVAL_OPPONENTS = ["level1", "level3", "level5"]                             # of the embedded game
EVAL_FRAMES = 3600                                                          # of a game against them: a minute
GAMMA = .9967                                                               # a half-life of 3.5 s
TARGET_RETURN = .5                                                          # half a stock ahead within some seconds


@dataclass
class Args:
    replays: Annotated[str, PATH] = ""
    """folder of .slp files (subfolders too), or one file"""
    manifest: Annotated[str, PATH] = ""
    """the manifest.json of a run: learn from and judge by the replays that it names, whatever else is in --replays
    (off: empty, all of them, split by --held-out)"""
    max_files: Annotated[int, COUNT_OR_OFF] = 0
    """read only the first so many files, in sorted order (off: 0, all)"""
    character: str = ""
    """learn only from who plays this character (off: empty, everybody)"""
    player_port: Annotated[int, Range(0, 4)] = 0
    """learn only from this port, 1 to 4 (off: 0, both players of every game)"""
    tag: str = ""
    """learn only from who has this name, connect code or in-game tag (off: empty, everybody)"""
    player: str = ""
    """imitate who has this name, connect code or in-game tag: everybody is learned from all the same (--tag would leave
    them out), but the policy is told who plays, of the 62 commonest, and afterwards plays as this one, or as another
    of them with play.py --player; also with --eval-only (off: empty, it is not told)"""
    cpu_players: bool = False
    """learn from the game's own CPU players too"""
    min_active: Annotated[float, BELOW_1] = 0.01
    """leave out players whose input changes on fewer than this share of frames: a controller that was put down teaches
    standing still (off: 0)"""
    min_frames: Annotated[int, COUNT_OR_OFF] = 60
    """leave out games with fewer frames in which the players have control (off: 0)"""
    held_out: Annotated[float, SHARE] = 0.1
    """share of the games that is only for evaluation, at least one; 1 with --eval-only: every game"""
    num_workers: Annotated[int, Range(-1, 65536)] = -1
    """processes that parse replays; -1: one per core (off: 0, in this process)"""
    loader_workers: Annotated[int, Range(0, 1024)] = 0
    """processes that make batches; a card may need some (off: 0, a thread of this process)"""

    pretrained: Annotated[str, PATH] = ""
    """checkpoint to start from; its network sizes are used (off: empty, start from scratch)"""
    backbone: Literal["mlp", "gru", "lstm", "transformer", "hybrid", "mamba"] | None = None
    """network between embedding and heads; all but the mlp remember (default: gru, or that of --pretrained)"""
    hidden: str | None = None
    """layer sizes separated by commas, the last one is the width of what remembers (default: 256, or those of
    --pretrained)"""
    num_layers: Annotated[int | None, OPTIONS["num_layers"]] = None
    """layers that remember, each of the last size of --hidden; the mlp has none (default: 2, of the gru 1, or that of
    --pretrained)"""
    num_heads: Annotated[int | None, OPTIONS["num_heads"]] = None
    """attention heads of transformer and hybrid (default: 4, or that of --pretrained)"""
    state_size: Annotated[int | None, OPTIONS["state_size"]] = None
    """numbers that each channel of the mamba remembers (default: 16, or that of --pretrained)"""
    expand_factor: Annotated[int | None, OPTIONS["expand_factor"]] = None
    """how many times wider the mamba is inside (default: 2, or that of --pretrained)"""
    conv_size: Annotated[int | None, OPTIONS["conv_size"]] = None
    """frames of the mamba's convolution (default: 4, or that of --pretrained)"""
    frame_delay: Annotated[int | None, Range(0, 3600)] = None
    """learn to act so many game frames late, as online: it sees what it has chosen and what has not acted yet (default:
    0, or that of --pretrained; off: 0)"""
    return_conditioning: bool = False
    """let the policy see the discounted reward that followed each frame, so that in play it can be asked for one; a
    --pretrained network that saw it goes on to (off: False; a --pretrained network decides)"""
    ablate: str | None = None
    """features of docs/observation.md that the policy never sees, in learning and in play, by commas: a name
    (opponent.percent) or a part of names (percent, nana, item, controller) (off: empty; default: none, or those of
    --pretrained)"""
    target_return: Annotated[float | None, Range(-100, 100)] = None
    """that which such a policy asks for in play, in stocks, kept in its checkpoint; with --eval-only instead of it
    (default: .5, or that of the checkpoint)"""
    epochs: Annotated[int, COUNT] = 10
    """passes over the training games"""
    max_updates: Annotated[int, COUNT_OR_OFF] = 0
    """updates after which the run ends, and the learning rate with it, before --epochs are over (off: 0)"""
    batch_size: Annotated[int, COUNT] = 64
    """windows in one update"""
    window_size: Annotated[int, Range(2, 10 ** 9)] = 60
    """frames in one window; shorter games are skipped; transformer and hybrid look back as far (with --pretrained: as
    far as that does)"""
    stride: Annotated[int, COUNT_OR_OFF] = 0
    """frames from one window of a game to the next; fewer than --window-size make more, which overlap (off: 0, as many
    as --window-size)"""
    truncate_bptt: Annotated[int, COUNT_OR_OFF] = 0
    """learn from --batch-size whole games side by side, so many frames an update: the memory is carried from update to
    update, gradients go back to the last one (off: 0, windows that are entered with an empty memory)"""
    grad_accum: Annotated[int, COUNT] = 1
    """parts of a batch whose gradients are summed before an update: less memory, the same result (off: 1)"""
    learning_rate: Annotated[float, Range(1e-12, 1)] = 3e-3
    """AdamW's highest step size"""
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    """how it falls to 0 over the run: in a straight line or as half a cosine (off: constant)"""
    warmup_updates: Annotated[int, COUNT_OR_OFF] = 0
    """first updates over which it rises to --learning-rate (off: 0)"""
    weight_decay: Annotated[float, AT_LEAST_0] = 0.01
    """AdamW's weight decay (off: 0)"""
    max_grad_norm: Annotated[float, POSITIVE] = 1.0
    """gradients are scaled down to this norm"""
    ema_decay: Annotated[float, BELOW_1] = 0.0
    """judge and keep a running average of the weights, of which each update keeps this share, e.g. .999 (off: 0, the
    weights themselves)"""
    patience: Annotated[int, COUNT_OR_OFF] = 0
    """evaluations in a row without a lower held-out loss that end the run (off: 0, it ends after --epochs)"""
    prev_controller_dropout: Annotated[float, BELOW_1] = 0.2
    """share of windows, in training only, in which the policy cannot see its own last controller: people hold an input
    for many frames, so copying it scores well and never starts anything (off: 0)"""
    value_coef: Annotated[float, AT_LEAST_0] = 0.5
    """weight of the value loss: the value head learns the discounted reward from features that this loss leaves alone,
    so that self-play need not begin with a random critic (off: 0, the value head stays as it is)"""
    gamma: Annotated[float | None, BELOW_1] = None
    """discount a frame of that reward (a stock 1, a percent of damage .01) (default: .9967, a half-life of 3.5 seconds
    as in self-play, or that of a policy that --eval-only judges or of a --pretrained one that sees returns)"""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to learn; auto: on the card if there is one"""
    precision: Literal["f32", "bf16"] = "f32"
    """of the forward and backward pass; bf16 is faster where the machine multiplies it (off: f32)"""
    compile: bool = False
    """let torch.compile fuse the loss, which takes a minute at the start (off: False)"""

    eval_interval: Annotated[int, COUNT_OR_OFF] = 0
    """updates from one evaluation and checkpoint to the next, beside those at the end of every epoch (off: 0)"""
    eval_games: Annotated[int, Range(0, 65536)] = 0
    """games of a minute, half from either port, that the policy plays against each of level1, level3, level5, itself
    and what it was before it learned, on the embedded game: at every evaluation, in a process of its own, with a game
    against itself in the run's games/, for play.py --watch; with --eval-only beside the loss (off: 0)"""
    eval_only: bool = False
    """judge the policy in --checkpoint on held-out games, by character and matchup, and learn nothing (off: False)"""
    report: Annotated[str, PATH] = ""
    """file for what --eval-only finds, as JSON (off: empty)"""
    resume: Annotated[str, PATH] = ""
    """run folder to continue, with the arguments it was started with; only --epochs, --max-updates and where it runs
    may change (off: empty)"""
    seed: Annotated[int, SEEDS] = 1
    """decides weights, windows and their order"""
    checkpoint: Annotated[str, PATH] = ""
    """file for the policy with the lowest held-out loss (default: checkpoints/best.pt in the run folder, beside
    last.pt); with --eval-only the policy to judge"""
    run_name: str = ""
    """folder inside --runs-dir (default: made of backbone, seed and time)"""
    runs_dir: Annotated[str, PATH] = "runs"
    """where runs are kept"""
    wandb: Annotated[WandbArgs, tyro.conf.arg(name="")] = field(default_factory=WandbArgs)


def losses(policy: Policy, rows: Rows, memory: tuple) -> tuple[torch.Tensor, torch.Tensor, tuple]:
    """-> sums over the rows with control: plain cross-entropy of what the player did next, and the value's squared
    error; and the memory after the rows."""
    features, memory = policy.unroll(rows.obs, memory, rows.resets, rows.returns)
    logprobs, _ = action_logprobs(policy.logits(features, rows.actions).float(), rows.actions)      # [T, B, 6]
    value_error = (policy.value(features.detach()).float() - rows.returns) ** 2                     # [T, B]
    return -(logprobs.sum(-1) * rows.weights).sum(), (value_error * rows.weights).sum(), memory


def names_in(text: str) -> list[str]:
    """"b, a" -> ["a", "b"]"""
    return sorted({name.strip() for name in text.split(",")} - {""})


def own_gamma(args: Args, saved: dict) -> float:
    """--gamma, or if it was not given that by which the policy of this checkpoint knows returns."""
    flags = saved.get("args") if saved.get("stage") == "bc" else None
    own = flags.get("gamma") if isinstance(flags, dict) else None
    return args.gamma if args.gamma is not None else own if isinstance(own, float) and 0 <= own < 1 else GAMMA


def fill_in(args: Args, policy: Policy) -> None:
    """What the command line left open: the sizes of a --pretrained network."""
    args.gamma = GAMMA if args.gamma is None else args.gamma
    names = ["backbone", "hidden", *OPTIONS, "frame_delay", "ablate"]
    names.remove("window_size")                                             # games may be cut otherwise
    args.ablate = None if args.ablate is None else ",".join(names_in(args.ablate))
    own = network_flags(policy, **{name: getattr(args, name) for name in names})
    vars(args).update({name: own[name] for name in names})
    conditioned = policy.target_return is not None
    if args.return_conditioning and not conditioned:
        raise UserError("--return-conditioning: the policy to start from was trained without it; leave this flag out, "
                        "or start from another one")
    if args.target_return is not None:
        policy.aim_for(args.target_return)
    args.return_conditioning, args.target_return = conditioned, policy.target_return
    if args.truncate_bptt and args.backbone == "mlp":
        raise UserError("--truncate-bptt: the mlp remembers nothing that could be carried; leave it out, or choose "
                        "another --backbone")
    if args.truncate_bptt and args.stride:
        raise UserError("--truncate-bptt goes through whole games; leave --stride out")


def open_data(args: Args, policy: Policy, manifest: str):
    """-> games to learn from, held-out games, and what was left out."""
    return open_games(
        args.replays, character=args.character, player_port=args.player_port, tag=args.tag,
        cpu_players=args.cpu_players, min_active=args.min_active, held_out=args.held_out, max_files=args.max_files,
        num_workers=args.num_workers,
        min_frames=max(args.min_frames, 2 if args.eval_only or args.truncate_bptt else args.window_size + 1),
        manifest=manifest, gamma=args.gamma, delay=policy.frame_delay,      # the last frame has no next controller
        player="" if args.eval_only else args.player, players=policy.players)


def judge(args: Args) -> None:
    """--eval-only: tables, and the same as JSON."""
    console = Terminal()
    if world_size() > 1:
        raise UserError("--eval-only: one process judges; start it without torchrun")
    if not args.checkpoint:
        raise UserError("--eval-only: give the policy to judge with --checkpoint")
    for flag in ("pretrained", "resume"):
        if getattr(args, flag):
            raise UserError(f"{as_flag(flag)}: not together with --eval-only, which judges --checkpoint alone")
    if args.report:
        check_writable("--report", Path(args.report))
    device = choose_device(args.device)
    policy, saved = load_policy(args.checkpoint)
    args.gamma = own_gamma(args, saved)
    if args.target_return is not None:
        policy.aim_for(args.target_return)
    if args.player:
        policy.play_as(args.player)
    _, games, about = open_data(args, policy, args.manifest)
    if not len(games):
        raise UserError(f"{args.replays}: no game to judge by ({about['idle_players']} idle and {about['cpu_players']} "
                        "CPU players left out); --held-out 1 takes every game")
    played = evaluation_settings(args, games) if args.eval_games else None
    sums = measure(policy.to(device), games)
    groups = by_matchup(sums, games)
    console.print(f"CleanMelee, how well {args.checkpoint} imitates {about['held_out_players']} players in "
                  f"{about['held_out_games']} games, {games.frames:,} frames")
    report(summary(sums), console, groups=groups)
    row = {}
    if played:
        torch.manual_seed(args.seed)
        row = measure_strength(policy.cpu(), Policy(**policy.config), 0, **played)
        closed_loop(row, console)
    if args.report:
        about = {name: about[name] for name in ("held_out_games", "held_out_players", "idle_players", "cpu_players")}
        found = {"checkpoint": args.checkpoint, **about, "all": summary(sums), "groups": groups,
                 **({"games": row} if played else {})}
        atomic_write(Path(args.report), (json.dumps(found, indent=1) + "\n").encode())
        console.print(f"done: {args.report}")


def evaluation_settings(args: Args, games: Games) -> dict:
    """The keyword arguments of measure_strength: the matchups of these games, as far as the embedded game has them."""
    return {"seed": args.seed, "games": args.eval_games, "opponents": EVAL_OPPONENTS, "held_out": "",
            "max_episode_frames": EVAL_FRAMES, "combinations": combinations(games)}


def restore(run: Path, args: Args, saved: dict, policy: Policy, averaged: AveragedModel | None, optimizer) -> dict:
    """Weights, moments, noise and logs are again as they were at the checkpoint `saved` -> its `state`, see `main`."""
    try:
        policy.load_state_dict(saved["learner"] if averaged else saved["policy"])
        if averaged:
            averaged.module.load_state_dict(saved["policy"])
            averaged.n_averaged.fill_(saved["step"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["noise"])
        state = {name: saved["state"][name] for name in ("worse", "stats", "before", "best", "memory")}
        state["stats"] = [x.to(policy.device) for x in state["stats"].unbind(0)]
        empty = policy.initial_state(args.batch_size) if args.truncate_bptt else ()
        if [x.shape for x in state["memory"]] != [x.shape for x in empty]:
            raise ValueError("its memory is not of this policy")
        state["memory"] = tuple(shard(x.to(old)) for x, old in zip(state["memory"], empty, strict=True))
    except Exception as error:                                              # whatever an edited file makes torch raise
        raise UserError(f"{run}: its checkpoint cannot be resumed ({type(error).__name__}: {error}); restore it, or "
                        "start a run from its weights with --pretrained") from None
    all_gather()                                                            # all ranks have read what is there
    if rank() == 0:
        keep_jsonl(run / "metrics.jsonl", saved["step"], "step")
        keep_jsonl(run / "eval.jsonl", saved["step"], "global_step")
        atomic_write(run / "args.json", (json.dumps(to_flags(args), indent=1) + "\n").encode())
    return state


def main(args: Args) -> None:
    # ------------------------------------------------------------------------------------------------------- set-up
    check_ranges(args)
    if args.eval_only:
        return judge(args)
    if args.report:
        raise UserError("--report: is for --eval-only; a run that learns writes metrics.jsonl")
    first = rank() == 0                                                     # the one that writes and speaks
    console = Terminal(quiet=not first)
    run, args, lock, saved = resume_run(args, MAY_CHANGE, "bc") if args.resume else (None, args, None, None)
    if args.batch_size < world_size():
        raise UserError(f"--batch-size {args.batch_size}: must be at least the number of ranks ({world_size()})")
    if args.checkpoint:
        check_writable("--checkpoint", Path(args.checkpoint))
    device = choose_device(args.device)
    torch.manual_seed(args.seed)
    if saved:
        policy = Policy(**saved["config"])
    elif args.pretrained:
        policy, origin = load_policy(args.pretrained)
        args.gamma = own_gamma(args, origin) if policy.target_return is not None else args.gamma
    else:
        backbone = args.backbone or "gru"
        options = {name: getattr(args, name) for name in OPTIONS}
        if "window_size" not in backbone_options(backbone):                 # then it says only how games are cut
            del options["window_size"]
        hidden = parse_hidden("256" if args.hidden is None else args.hidden)
        target = TARGET_RETURN if args.return_conditioning else None
        policy = Policy(backbone, hidden, frame_delay=args.frame_delay or 0, target_return=target,
                        ablate=names_in(args.ablate or ""), **options)
    policy.config |= {"action_repeat": 1}                                   # people act on every frame
    fill_in(args, policy)
    tracker = Tracker(args.wandb if first else WandbArgs())

    manifest = str(run / "manifest.json") if saved else args.manifest
    data = open_data(args, policy, manifest) if first else None
    all_gather()                                                            # the others find all of it in the cache,
    with contextlib.redirect_stderr(sys.stderr if first else io.StringIO()):    # and need not tell what was skipped
        train, held_out, about = data or open_data(args, policy, manifest)
    check_both(train, held_out, about, args.replays)
    if args.player:
        number_of = number(args.player, policy.players) if policy.players else 1
        policy.imitate(about["players"], number_of)
        args.player = policy.players[number_of - 1]                         # as it is known from now on
    played = evaluation_settings(args, train) if args.eval_games else {}
    if first and not saved:
        name = f"bc_{args.backbone}_seed{args.seed}_{time.strftime('%Y%m%d_%H%M%S')}"
        run, lock = start_run(args.runs_dir, args.run_name, name, to_flags(args), __file__, launcher())
        args.run_name = run.name
        atomic_write(run / "replays.json", (json.dumps(about, indent=1) + "\n").encode())
        write_manifest(run / "manifest.json", train, held_out)
    run, args = broadcast((run, args))
    best_path = Path(args.checkpoint) if args.checkpoint else run / "checkpoints" / "best.pt"
    tracker.start(run, run.name, to_flags(args))

    policy.to(device)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay,
                                  fused=True)
    averaged = AveragedModel(policy, multi_avg_fn=get_ema_multi_avg_fn(args.ema_decay)) if args.ema_decay else None
    judged = averaged.module if averaged else policy
    loss_of = torch.compile(losses) if args.compile else losses
    if args.truncate_bptt:
        windows = Streams(train, args.truncate_bptt, args.batch_size, args.seed)
    else:
        windows = Windows(train, args.window_size, args.stride or args.window_size, args.batch_size, args.seed)
    num_updates = args.epochs * windows.most_batches()
    num_updates = min(num_updates, args.max_updates or num_updates)
    step, epoch = (saved["step"], saved["epoch"]) if saved else (0, 0)
    # evaluations in a row without a better one, losses since the last, what the first and the best one found, and what
    # the policy remembers of the games that it is in
    state = {"worse": 0, "stats": [], "before": {}, "best": {},
             "memory": tuple(map(shard, policy.initial_state(args.batch_size))) if args.truncate_bptt else ()}
    if saved:
        state = restore(run, args, saved, policy, averaged, optimizer)
    console.print(f"CleanMelee behavioural cloning  {args.backbone} {args.hidden} "
                  f"({sum(p.numel() for p in policy.parameters()):,} parameters, {device})\n"
                  f"{about['train_players']} players in {about['train_games']} games, {train.frames:,} frames to "
                  f"learn from; {about['held_out_players']} in {about['held_out_games']}, {held_out.frames:,} "
                  f"frames held out; left out: {about['idle_players']} idle and {about['cpu_players']} CPU players; "
                  f"run folder {run}" + (f"\nimitates {printable(args.player, 64)}, one of {len(policy.players)} names "
                                         "that it is told" if args.player else ""))

    def save(*paths: Path) -> None:
        stats = torch.stack(state["stats"]) if state["stats"] else torch.zeros(0, 3)
        gathered = {"stats": stats, "memory": tuple(all_rows(x.cpu()) for x in state["memory"])}
        for path in paths if first else ():
            save_checkpoint(
                path, judged, stage="bc", step=step, epoch=epoch, args=to_flags(args), metrics=state["best"],
                optimizer=optimizer.state_dict(), noise=torch.get_rng_state(), state=state | gathered,
                learner=policy.state_dict() if averaged else {})

    stop = stop_on_interrupt(console.print)
    last_path = run / "checkpoints" / "last.pt"
    if not saved:
        state["before"] = summary(measure(judged, held_out))
        if first:
            append_jsonl(run / "metrics.jsonl", {"step": 0, "epoch": 0, **state["before"]})
        tracker.log({"epoch": 0, **state["before"]}, 0)
        console.print(f"epoch 0  held out {state['before']['eval/nll']:.3f}, new inputs "
                      f"{state['before']['eval/nll_changed']:.3f}")
        save(last_path)                                                     # something to go on from
        if args.eval_games and first:
            save_checkpoint(run / "checkpoints" / "initial.pt", judged)
        if first:
            has_begun(run)
    evaluator = Evaluator(run, played, step, keep_best=False, log=console.print, film_every=1,
                          on_row=lambda row: tracker.log_evaluation(run, row, [], {})) if first else None
    exhausted = args.patience and state["worse"] >= args.patience
    left = 0 if exhausted else num_updates - step
    todo = lambda: itertools.islice(windows.schedule(args.epochs, step), left)
    batches = zip(todo(), prefetch(windows, todo(), args.loader_workers), strict=True)
    progress, task = iteration_progress(console, num_updates, step)
    clock, frames, tick = {"data": 0., "learn": 0.}, 0, time.perf_counter()

    for (epoch, k), rows in batches:
        # ------------------------------------------------------------------------------------------------------ data
        weights, counts = zip(*all_gather((rows.weights.sum(), rows.weights.shape[1])), strict=True)    # of all ranks
        hidden = shard(torch.rand(sum(counts), 1)) < args.prev_controller_dropout       # [B, 1], for the whole window
        rows.obs.floats[..., OWN_CONTROLLER] *= ~hidden
        rows.obs.floats[..., NUM_FLOATS:] *= ~hidden                        # nor what it has chosen since
        clock["data"] += time.perf_counter() - tick
        tick = time.perf_counter()

        # ---------------------------------------------------------------------------------------------- loss, update
        lr = learning_rate(args.lr_schedule, args.learning_rate, step, num_updates, args.warmup_updates)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        with memory_for(args.batch_size, args.grad_accum):
            total = sum(weights).clamp(min=1).to(device)
            mean, after = torch.zeros(2, device=device), []
            memory = state["memory"] or policy.initial_state(rows.weights.shape[1])     # windows reset it anyway
            for part, before in rows.split(args.grad_accum, memory):
                with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
                    nll, value_loss, remembered = loss_of(policy, part.to(device), before)
                ((nll + args.value_coef * value_loss) / total).backward()
                mean += torch.stack([nll, value_loss]).detach() / total
                after.append(remembered)
        mean = all_reduce_gradients(policy.parameters(), mean)
        grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
        optimizer.step()
        if args.truncate_bptt:                                              # no gradient goes back beyond here
            state["memory"] = tuple(torch.cat(column).detach().to(old) for old, column in
                                    zip(memory, zip(*after, strict=True), strict=True))
        if averaged:
            averaged.update_parameters(policy)
        state["stats"].append(torch.cat([mean, grad_norm.detach()[None]]))
        step, frames = step + 1, frames + len(rows.weights) * sum(counts)
        progress.update(task, completed=step)
        clock["learn"] += time.perf_counter() - tick
        tick = time.perf_counter()
        due = (k + 1 == windows.num_batches(epoch) or step == num_updates
               or args.eval_interval and step % args.eval_interval == 0)
        stopping = any(all_gather(bool(stop)))
        if stopping and not due:
            break
        if not due:
            continue

        # ------------------------------------------------------------------------------------- evaluation and logging
        row = summary(measure(judged, held_out))
        mean = torch.stack(state["stats"]).mean(0).tolist()
        fps = frames / (clock["data"] + clock["learn"])
        metrics = {"step": step, "epoch": epoch, "losses/nll": mean[0], "losses/value_loss": mean[1],
                   "losses/grad_norm": mean[2], "charts/learning_rate": lr, "charts/frames_per_second": round(fps),
                   **row, **{f"time/{name}": seconds for name, seconds in clock.items()},
                   "time/eval": time.perf_counter() - tick}
        if first:
            append_jsonl(run / "metrics.jsonl", metrics)
        tracker.log(metrics, step)
        better = not state["best"] or row["eval/nll"] < state["best"]["eval/nll"]
        state |= {"stats": [], "best": row, "worse": 0} if better else {"stats": [], "worse": state["worse"] + 1}
        if first and args.eval_games:
            evaluator.submit(judged, step)
        save(*[best_path] * better, last_path)
        if first:
            evaluator.report()
        console.print(f"epoch {epoch}  {fps:,.0f} frames/s  loss {mean[0]:.3f}  held out {row['eval/nll']:.3f}, new "
                      f"inputs {row['eval/nll_changed']:.3f}  value {row['eval/value_loss']:.4f}"
                      f"{'  (best so far)' if better else ''}")
        clock, frames, tick = {"data": 0., "learn": 0.}, 0, time.perf_counter()
        if args.patience and state["worse"] >= args.patience:
            console.print(f"{args.patience} evaluations in a row without a lower held-out loss: the run ends here")
            break
        if stopping:
            break

    progress.stop()
    stopping = any(all_gather(bool(stop)))
    if stopping:
        save(last_path)
    if not first:
        sys.exit(130 if stopping else 0)
    evaluator.report(wait=not stop, stop=stop)
    evaluator.close()
    lock.release()
    if state["best"]:
        report(state["best"], console, before=state["before"])
    tracker.log_best(run, best_path, step)
    tracker.finish()
    if stop or stopping:
        console.print(f"stopped at update {step:,}; go on with: {launcher()} {Path(__file__).name} --resume {run}")
        sys.exit(130)
    console.print(f"done: {best_path}")


if __name__ == "__main__":
    run_script(distributed(main), Args)
