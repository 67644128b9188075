"""Self-play PPO: a policy learns Melee against itself, its own past and others.

    python ppo_selfplay.py --num-games 8                                 # from scratch on the embedded game
    python ppo_selfplay.py --pretrained runs/bc/checkpoints/best.pt      # from a cloned policy
    python ppo_selfplay.py --population-size 4 --pbt --matchmaking population
    python ppo_selfplay.py --resume runs/NAME                            # go on as if never stopped
    torchrun --nproc-per-node 2 ppo_selfplay.py --num-games 128          # two processes with 64 games each

One iteration: every game is played for `--rollout-length` decisions (collect), advantages are computed per game
(prepare), and PPO runs `--ppo-epochs` over what the learner itself did (update). In most games the learner plays both
sides and learns from both; in the others it meets a frozen checkpoint of the pool or a scripted bot, whose rows never
enter a batch. Results of those games move the Elo table. Strength is measured apart (eval.jsonl), and the best
generation is kept (checkpoints/best.pt). All else, from populations to asynchronous learning, is off by default.

What to change where:
    the reward                    cleanmelee/rewards.py; collect() calls it
    whom a learner meets          Matchmaker.draw(); for how long, and from which port: assign_opponents()
    what is collected             collect()
    advantages, value targets     compute_gae(), called by prepare()
    the loss, its schedules       update()
    the network                   cleanmelee/backbones.py; melee_common.py: Embedding, ControllerHead
    what an iteration does        the loop in main()
"""

if __name__ == "__main__":
    import cleanmelee.startup                               # before the imports that take seconds

import copy
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from cleanmelee.backbones import OPTIONS
from cleanmelee.cli import (
    AT_LEAST_0, COUNT, COUNT_OR_OFF, PATH, POSITIVE, SEEDS, SHARE, Range, UserError, as_flag, check_ranges,
    parse_characters, parse_matchups, parse_names, run_script, to_flags,
)
from cleanmelee.controller import ACTION_SIZE, decode_actions, mirrored
from cleanmelee.distributed import (
    all_gather, all_reduce_gradients, all_rows, broadcast, distributed, launcher, rank, rank_seed, world_size,
)
from cleanmelee.dolphin import CPU_LEVELS, DolphinArgs, check_dolphin
from cleanmelee.evaluation import Evaluator
from cleanmelee.features import NUM_INTS, num_floats
from cleanmelee.files import append_jsonl, check_writable
from cleanmelee.frame import FRAME
from cleanmelee.game import BOTS, warm_up
from cleanmelee.games import VecEnv, matchups
from cleanmelee.learning import choose_device, memory_for
from cleanmelee.observation import Observation, observe
from cleanmelee.pictures import plot_winrates
from cleanmelee.plain import kernels
from cleanmelee.pool import Pool, Ratings, load_opponent, print_elo
from cleanmelee.population import League, Learner, ParallelUpdates, Turn, make_learners, pbt_round
from cleanmelee.resume import load_latest, restore, resumed_args, states_of_all_ranks
from cleanmelee.rewards import RewardArgs, active_terms, reward_terms
from cleanmelee.runs import (
    has_begun, iteration_progress, keep_copy, lock_run, start_run, stop_on_interrupt,
)
from cleanmelee.selfplay import MIRROR, SelfPlay
from cleanmelee.terminal import Terminal
from cleanmelee.tracking import Tracker, WandbArgs
from melee_common import (
    FEW_ROWS, Policy, action_kl, action_logprobs, best_checkpoint, evaluate_actions, load_checkpoint, load_policy,
    network_flags, parse_hidden, save_checkpoint,
)

DEFAULTS = {                                            # of what was not given, by how the run begins
    "scratch": {"learning_rate": 2e-3, "entropy_coef": .0003, "teacher_kl": 0., "value_burn_in": 0,
                "target_entropy": "6:.2"},
    "pretrained": {"learning_rate": 5e-4, "entropy_coef": .0005, "teacher_kl": .02, "value_burn_in": 10,
                   "target_entropy": ""},
    "best response": {"learning_rate": 5e-4, "entropy_coef": .003, "teacher_kl": 0., "value_burn_in": 0,
                      "target_entropy": ""}}
ROLLOUT_DECISIONS = 8192                                # of all games in an iteration; a mirror match has two rows each
BOT_FLOOR = .3                                          # a bot that always wins or loses weighs so much of an even one
# --target-entropy: where there is e times less than the line asks for, the logarithm of the bonus's weight grows by so
# much an update (more, and it swings) and is pulled at once by so much; how far the weight may go from --entropy-coef.
# No controller has more nats than that.
ENTROPY_STEP, ENTROPY_PULL, ENTROPY_RANGE, MAX_ENTROPY = .003, 1., 100., 20
HEAD_GROUPS = {"buttons": slice(0, 1), "main_stick": slice(1, 3), "c_stick": slice(3, 5), "shoulder": slice(5, 6)}
OPPONENT = "opponent"                                   # the id of the frozen policy of --opponent
HISTORY_PROB = {"self": 0., "simple_mix": .2, "pfsp": .5, "league": .5, "historical": 1., "population": 1.}


@dataclass
class Args:
    # --------------------------------------------------------------------------------------------------------- the game
    num_games: Annotated[int, Range(1, 65536)] = 4
    """games played side by side, for each learner"""
    character: str = "mewtwo"
    """the learner's character; several, separated by commas, or low_tiers, top_tiers, all are played in turn"""
    opponent_character: str = ""
    """the opponents' character or characters (off: empty, the same as the learner's)"""
    stage: str = "final_destination"
    """stage, stages or all"""
    max_episode_frames: Annotated[int, COUNT_OR_OFF] = 3600
    """game frames after which a game is truncated; 3600 is a minute (off: 0, games run to the last stock or 8:00)"""
    scattered: Annotated[float, SHARE] = .4
    """share of games that begin with both players in the air, anywhere over and beside the stage, hurt: on the embedded
    game, in training alone (off: 0)"""
    action_repeat: Annotated[int | None, Range(1, 3600)] = None
    """game frames for which a chosen controller is held (default: 3, or that of --pretrained; off: 1, chosen anew on
    every frame)"""
    frame_delay: Annotated[int | None, Range(0, 3600)] = None
    """game frames by which everybody acts late but scripted bots, a multiple of --action-repeat; a policy sees what it
    has chosen and what has not acted yet (default: 0, or that of --pretrained; off: 0)"""
    game_type: Literal["mock", "dolphin"] = "mock"
    """the embedded game, or Slippi Dolphin with --dolphin and --iso; evaluations are on the embedded game"""
    num_workers: Annotated[int, COUNT_OR_OFF] = 0
    """processes that step the games (off: 0, in this process, which is fastest for the embedded game)"""
    use_threads: bool = False
    """--num-workers threads instead of processes: no fault isolation (off: False)"""
    worker_timeout: Annotated[float, Range(.05, 3600)] = 1.0
    """seconds that a step of embedded games may take before its worker is replaced; for Dolphin see --step-timeout"""
    max_restarts: Annotated[int, COUNT_OR_OFF] = 100
    """workers that may fail within an hour (off: 0, none); one more ends the run, to be continued with --resume"""

    # --------------------------------------------------------------------------------------------------------- learning
    timesteps: Annotated[int | None, Range(1)] = None
    """game frames to play in total, frames x games (default: 3500000; for a resumed run what it was started with)"""
    pretrained: Annotated[str, PATH] = ""
    """checkpoint, or run folder, to start from; its network and action repeat are used (off: empty, from scratch)"""
    backbone: Literal["mlp", "gru", "lstm", "transformer", "hybrid", "mamba"] | None = None
    """network between embedding and heads; all but the mlp remember (default: mlp, or that of --pretrained)"""
    hidden: str | None = None
    """layer sizes, the last one is the width of what remembers (default: 256,256, or those of --pretrained)"""
    num_layers: Annotated[int | None, OPTIONS["num_layers"]] = None
    """layers that remember, each of the last size of --hidden; the mlp has none (default: 2, of the gru 1, or that of
    --pretrained)"""
    num_heads: Annotated[int | None, OPTIONS["num_heads"]] = None
    """attention heads of transformer and hybrid (default: 4, or that of --pretrained)"""
    window_size: Annotated[int | None, OPTIONS["window_size"]] = None
    """decisions that transformer and hybrid look back, the present one included (default: 60, or those of
    --pretrained)"""
    state_size: Annotated[int | None, OPTIONS["state_size"]] = None
    """numbers that each channel of the mamba remembers (default: 16, or that of --pretrained)"""
    expand_factor: Annotated[int | None, OPTIONS["expand_factor"]] = None
    """how many times wider the mamba is inside (default: 2, or that of --pretrained)"""
    conv_size: Annotated[int | None, OPTIONS["conv_size"]] = None
    """frames of the mamba's convolution (default: 4, or that of --pretrained)"""
    rollout_length: Annotated[int | None, Range(1, 10 ** 6)] = None
    """decisions of every game in an iteration (default: such that all games together make some 8000, 16 to 1024)"""
    batch_size: Annotated[int, COUNT] = 2048
    """agent frames in a minibatch; a smaller rollout is one minibatch (off: as large as the rollout)"""
    grad_accum: Annotated[int, COUNT] = 1
    """parts of a minibatch whose gradients are summed before a step: less memory, the same result (off: 1)"""
    ppo_epochs: Annotated[int, COUNT] = 1
    """passes over each rollout"""
    ppo_clip: Annotated[float, Range(1e-6)] = 0.2
    """clip range of the probability ratio (off: 1e9)"""
    learning_rate: Annotated[float | None, SHARE] = None
    """Adam's step size (default: .002; with --pretrained .0005)"""
    anneal_lr: bool = True
    """let it fall in a straight line that meets 0 at --timesteps (off: --no-anneal-lr, constant)"""
    gamma: Annotated[float | None, SHARE] = None
    """discount a decision (default: .99 at --action-repeat 3, .9967 at 1: a half-life of 3.4 s of game time; off: 1)"""
    gae_lambda: Annotated[float | None, SHARE] = None
    """lambda of generalised advantage estimation, a decision (default: .95 at --action-repeat 3, .983 at 1, the same in
    game time; off: 1, whole returns)"""
    entropy_coef: Annotated[float | None, AT_LEAST_0] = None
    """weight of the entropy bonus (default: .0003; with --pretrained .0005, with --opponent too .003; off: 0)"""
    target_entropy: str | None = None
    """START:END in nats: the weight of the bonus grows and shrinks so that a decision's entropy falls from START, by
    half every --entropy-half-life, to END and stays there (default: 6:.2; with --pretrained or --entropy-coef 0 none;
    off: empty, the weight is constant)"""
    entropy_half_life: Annotated[float, Range(1)] = 4_600_000
    """game frames of a learner in which --target-entropy halves (off: 1e18, it stays at START)"""
    value_coef: Annotated[float, AT_LEAST_0] = 0.5
    """weight of the value loss (off: 0)"""
    value_burn_in: Annotated[int | None, COUNT_OR_OFF] = None
    """first updates that train the value head alone (default: 0; with --pretrained 10, with --opponent too 0; off:
    0)"""
    max_grad_norm: Annotated[float, POSITIVE] = 0.5
    """gradients are scaled down to this norm (off: 1e9)"""
    target_kl: Annotated[float, AT_LEAST_0] = 0.0
    """KL of the whole update, measured after each epoch, past which that epoch is taken back, in Adam's state too, and
    the update ends; if losses/reverted stays at 1, lower --learning-rate (off: 0)"""
    teacher_kl: Annotated[float | None, AT_LEAST_0] = None
    """weight of KL(pretrained policy || policy), which keeps a cloned policy from forgetting (default: 0; with
    --pretrained .02, with --opponent too 0; off: 0)"""
    teacher_kl_half_life: Annotated[float, Range(1)] = 2_000_000
    """game frames of a learner after which --teacher-kl has halved (off: 1e18, it stays)"""
    update_interval: str = "batch_ready"
    """batch_ready: learn after --rollout-length decisions (off); or after so many game frames of a learner"""
    train_interval: Annotated[int, COUNT] = 1
    """iterations between two updates; each learns from all of them (off: 1)"""

    # -------------------------------------------------------------------------------------------------------- opponents
    matchmaking: Literal["simple_mix", "self", "historical", "population", "league", "pfsp"] = "simple_mix"
    """whom a learner meets, --opponent-bots apart: simple_mix its present self or a past checkpoint; self itself alone;
    historical any checkpoint of the pool; population the other learners as they are now; league checkpoints near its
    own Elo; pfsp those it loses to"""
    history_prob: Annotated[float | None, SHARE] = None
    """share of games against an opponent that --matchmaking draws, the others are against itself (default: .2 for
    simple_mix, .5 for pfsp and league, 1 for historical and population; off: 0)"""
    pfsp_weighting: Literal["hard", "even"] = "hard"
    """pfsp prefers opponents that win (hard: (1 - p)^2 at win rate p) or that are as strong (even: p (1 - p))"""
    opponents_per_iteration: Annotated[int, Range(2, 1024)] = 2
    """different frozen networks that may play against a learner at the same time, each costs a forward a decision; when
    there are so many, the half that plays longest gets no new games (off: 1024)"""
    opponent_swap: Literal["reset", "rollout"] = "reset"
    """when a game slot draws a new opponent: reset at every new game, rollout at the first new game of a rollout"""
    opponent: Annotated[str, PATH] = ""
    """train against this frozen policy alone, to see how far it can be exploited; in Dolphin cpu1 to cpu9 (off:
    empty)"""
    opponent_bots: str = "idle,level1,level3,level5,level7,level9"
    """scripted opponents to mix in, separated by commas (off: empty)"""
    bot_prob: Annotated[float, SHARE] = .2
    """share of games against one of --opponent-bots, at most (off: 0)"""
    bot_weighting: Literal["even", "uniform"] = "uniform"
    """uniform draws all bots alike; even prefers those that are as strong (4 p (1 - p) at win rate p) and plays fewer
    such games the fewer there are"""
    pool_interval: Annotated[int, COUNT] = 25
    """iterations between two additions to the pool, whose first is the initial policy (off: more than the run has)"""
    history_size: Annotated[int, COUNT] = 20
    """active checkpoints of each learner in the pool (off: 1000000000, none is ever retired)"""
    prune: Literal["oldest", "worst"] = "oldest"
    """which checkpoint of an agent is retired when it has more than --history-size"""
    keep_retired: bool = True
    """keep the files of retired checkpoints, for tournaments (off: --no-keep-retired, they go)"""
    track_elo: bool = False
    """print the Elo table and the payoff matrix with counts at the end (off: False)"""

    # ------------------------------------------------------------------------------------------------------- evaluation
    eval_interval: Annotated[int, COUNT_OR_OFF] = 50
    """iterations between two evaluations of the strongest learner (by Elo), the first before all others (off: 0)"""
    eval_games: Annotated[int, Range(2, 65536)] = 32
    """games against each opponent in an evaluation, half of them from either port"""
    eval_opponents: str = "idle,attacker,level1,level3,level5,level7,level9"
    """scripted opponents of an evaluation, by commas; besides these the initial policy and, as a control, itself"""
    held_out: Annotated[str, PATH] = "attacker"
    """an opponent that training never meets, a bot or the file of a policy; part of every evaluation (off: empty)"""
    watch_interval: Annotated[int, COUNT_OR_OFF] = 1
    """evaluations of which one leaves a game of the policy against itself in the run's games/, for play.py --watch
    (off: 0)"""
    eval_in_background: bool = True
    """evaluate in a process of its own, at low priority (off: --no-eval-in-background, training waits for it)"""

    # ------------------------------------------------------------------------------------------------------- population
    population_size: Annotated[int, Range(1, 1024)] = 1
    """independent learners, e.g. 4, each with its own network, optimiser, games and hyperparameters (off: 1)"""
    pbt: bool = False
    """population-based training: learners begin with hyperparameters up to 3 times these or a third of them, and the
    weakest fifth copies the strongest and varies them (off: False)"""
    pbt_interval: Annotated[int, COUNT] = 100
    """iterations between two rounds of --pbt"""
    league: bool = False
    """AlphaStar's roles in place of --matchmaking, bots apart: main agent, its exploiter, the league's, and so on (off:
    False)"""
    league_reset_frames: Annotated[int, Range(1)] = 4_000_000
    """game frames after which an exploiter that does not win starts anew (off: 1000000000000)"""
    train_order: Literal["parallel", "round-robin"] = "parallel"
    """all learners learn at once, or one at a time while the others wait (off: parallel)"""
    turn_winrate: Annotated[float, SHARE] = .7
    """round-robin: win rate against others, over --turn-games games or more, that ends a learner's turn (off: 1)"""
    turn_games: Annotated[int, COUNT] = 20
    """round-robin: finished games against others that a win rate needs; it is taken at the next pool addition"""
    turn_patience: Annotated[int, COUNT] = 5
    """round-robin: win rates in a row without a better one that end a turn, best weights kept (off: 1000000000)"""
    turn_frames: Annotated[int, Range(1)] = 1_000_000
    """round-robin: game frames that end a turn (off: 1000000000000)"""

    # ---------------------------------------------------------------------------------------------------------- the run
    resume: Annotated[str, PATH] = ""
    """run folder to continue, with the arguments it was started with; only --timesteps and --device may change (off:
    empty)"""
    seed: Annotated[int, SEEDS] = 1
    """same seed, same machine: same learning curve"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to learn; auto: on the card if there is one. Where more than 512 games of a learner play they are decided
    there too, fewer on the processor without torch, which is faster"""
    num_threads: Annotated[int, Range(1, 1024)] = 1
    """torch threads of a process, which pay for large networks on idle cores alone; beside other work two are half
    as fast as one, or less (torchrun uses more cores better)"""
    save_interval: Annotated[int, COUNT] = 10
    """iterations between two checkpoints"""
    checkpoint: Annotated[str, PATH] = ""
    """file of the checkpoint (default: checkpoints/latest.pt in the run folder)"""
    run_name: str = ""
    """folder inside --runs-dir (default: made of character, seed and time)"""
    runs_dir: Annotated[str, PATH] = "runs"
    """where runs are kept"""
    parallel_actions: bool = False
    """one batched forward for all games, ports and networks instead of one forward a network (off: False)"""
    parallel_training: bool = False
    """the learners of a population learn side by side, in threads (off: False)"""
    async_learning: bool = False
    """collect the next rollout with a copy of the policy while it learns from the last one (off: False)"""
    vtrace: bool = False
    """correct --async-learning's rollouts for the policy having moved on since (off: False)"""
    max_buffer_size: Annotated[int, COUNT_OR_OFF] = 0
    """--async-learning: agent frames that may wait to be learnt from, whole rollouts (off: 0, one rollout)"""

    rewards: Annotated[RewardArgs, tyro.conf.arg(name="")] = field(default_factory=RewardArgs)
    wandb: Annotated[WandbArgs, tyro.conf.arg(name="")] = field(default_factory=WandbArgs)
    live: Annotated[DolphinArgs, tyro.conf.arg(name="")] = field(default_factory=DolphinArgs)


def from_scratch(args: Args) -> Policy:
    """The network of a run that begins with none."""
    hidden = parse_hidden("256,256" if args.hidden is None else args.hidden)
    options = {name: getattr(args, name) for name in OPTIONS}
    return Policy(args.backbone or "mlp", hidden, args.action_repeat or 3, args.frame_delay or 0, **options)


def fill_in(args: Args, policy: Policy) -> None:
    """What was not given, or is the policy's own: the one place that changes arguments after they were parsed."""
    args.timesteps = 3_500_000 if args.timesteps is None else args.timesteps
    begins = "scratch" if not args.pretrained else "best response" if args.opponent else "pretrained"
    for flag, value in DEFAULTS[begins].items():
        if getattr(args, flag) is None:
            setattr(args, flag, "" if flag == "target_entropy" and not args.entropy_coef else value)
    args.rollout_length = args.rollout_length or min(1024, max(16, ROLLOUT_DECISIONS // args.num_games))
    names = ["backbone", "hidden", *OPTIONS, "action_repeat", "frame_delay"]
    own = network_flags(policy, **{name: getattr(args, name) for name in names})
    vars(args).update({name: own[name] for name in names})
    args.gamma = .99 ** (args.action_repeat / 3) if args.gamma is None else args.gamma
    args.gae_lambda = .95 ** (args.action_repeat / 3) if args.gae_lambda is None else args.gae_lambda
    if args.update_interval != "batch_ready":
        if not (args.update_interval.isdecimal() and int(args.update_interval) > 0):
            raise UserError(f"--update-interval {args.update_interval}: give batch_ready or game frames, e.g. 10000")
        args.rollout_length = max(1, round(int(args.update_interval) / (args.num_games * args.action_repeat)))
    for flag in ("pretrained", "opponent", "held_out"):                     # of a run folder its best checkpoint
        setattr(args, flag, str(best_checkpoint(getattr(args, flag))) if getattr(args, flag) else "")
    args.checkpoint = args.checkpoint and str(Path(args.checkpoint).resolve())      # --resume may start elsewhere


def line_at(text: str, halvings: float) -> float:
    """Where the line "START:END" of --target-entropy is after so many half-lives."""
    try:
        start, end = (float(part) for part in text.split(":"))
    except ValueError:
        start = end = math.nan
    if not (0 < end <= start <= MAX_ENTROPY):
        raise UserError(f"--target-entropy {text}: give two numbers of nats up to {MAX_ENTROPY}, START:END, the "
                        "larger one first, both above 0, e.g. 6:.2")
    return max(end, start * .5 ** halvings)


def same_policy(*files: str) -> bool:
    a, b = (load_checkpoint(file)["policy"] for file in files)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def history_prob(args: Args) -> float:
    return HISTORY_PROB[args.matchmaking] if args.history_prob is None else args.history_prob


def check(args: Args, resumed: bool = False) -> None:
    """One line for what cannot work. resumed: a run that --held-out may have been lost to goes on without it."""
    check_ranges(args)
    parse_matchups(args.character, args.opponent_character, args.stage)
    parse_names(args.eval_opponents, BOTS, "bot")
    bots = parse_names(args.opponent_bots, BOTS, "bot") if args.opponent_bots else []
    if args.target_entropy:
        line_at(args.target_entropy, 0)
    computer, parallel = args.opponent in CPU_LEVELS, args.train_order == "parallel"
    rollout = 2 * args.num_games * args.rollout_length * args.train_interval
    games = args.num_games * (args.population_size if parallel else 1)
    learns_from_others = history_prob(args) or args.opponent or bots and args.bot_prob
    for flag, wrong, rule in (
            (f"--num-workers {args.num_workers}", args.num_workers > games, f"must lie between 0 and {games}"),
            (f"--frame-delay {args.frame_delay}", args.frame_delay % args.action_repeat,
             f"must be a multiple of --action-repeat ({args.action_repeat}), as all controllers change together"),
            (f"--eval-games {args.eval_games}", args.eval_games % 2, "must be even: half are played from either port"),
            (f"--max-buffer-size {args.max_buffer_size}", 0 < args.max_buffer_size < rollout,
             f"must hold at least one rollout, {rollout} agent frames"),
            (f"--opponent-bots {args.opponent_bots}", args.held_out in bots,
             f"{args.held_out} is --held-out, which training must not meet"),
            (f"--opponent {args.opponent}", computer and args.game_type != "dolphin",
             "needs Dolphin, with --game-type dolphin, --dolphin and --iso"),
            (f"--opponent {args.opponent}",
             computer and "sheik" in parse_characters(args.opponent_character or args.character),
             "a computer player cannot be made to choose sheik; give it another --opponent-character"),
            ("--vtrace", args.vtrace and not args.async_learning, "needs --async-learning"),
            ("--max-buffer-size", args.max_buffer_size and not args.async_learning, "needs --async-learning"),
            ("--teacher-kl", args.teacher_kl and not args.pretrained, "needs --pretrained"),
            ("--target-entropy", args.target_entropy and not args.entropy_coef, "needs an --entropy-coef above 0"),
            ("--parallel-training", args.parallel_training and not parallel, "needs --train-order parallel"),
            ("--pbt", args.pbt and (args.league or not parallel),
             "not together with --league or --train-order round-robin, whose learners cannot be compared"),
            ("--pbt", args.pbt and not learns_from_others,
             "needs results against others, so not --matchmaking self or --history-prob 0"),
            ("--league", args.league and args.population_size < 3, "needs --population-size 3 or more"),
            ("--pbt", args.pbt and args.population_size < 2, "needs --population-size 2 or more"),
            ("--matchmaking population", args.matchmaking == "population" and args.population_size < 2,
             "needs --population-size 2 or more")):
        if wrong:
            raise UserError(f"{flag}: {rule}")
    if world_size() > 1:
        check_ranks(args)
    files = [flag for flag, names in (("opponent", CPU_LEVELS), ("held_out", BOTS))
             if getattr(args, flag) not in {"", *names}]
    for flag in [flag for flag in files if not (resumed and flag == "held_out")]:
        try:
            load_opponent(getattr(args, flag), args.action_repeat, as_flag(flag), args.frame_delay)
        except UserError as error:
            raise UserError(f"{error}; this run trains against it: put it back" if resumed else str(error)) from None
    for flag in ("opponent", "pretrained"):                                # whom training meets
        file = getattr(args, flag)
        if not resumed and "held_out" in files and Path(file).is_file() and same_policy(file, args.held_out):
            raise UserError(f"--held-out {args.held_out}: the policy of {as_flag(flag)}, which training meets; choose "
                            "another")
    if args.game_type == "dolphin":
        check_dolphin(args.live)
    if args.checkpoint:
        check_writable("--checkpoint", Path(args.checkpoint))


def check_ranks(args: Args) -> None:
    """One line for what several ranks (torchrun) do not do."""
    for flag, wrong in (
            (f"--population-size {args.population_size}", args.population_size > 1),
            ("--train-order round-robin", args.train_order == "round-robin"),
            ("--parallel-training", args.parallel_training), ("--async-learning", args.async_learning),
            (f"--num-workers {args.num_workers}", args.num_workers),
            ("--game-type dolphin", args.game_type == "dolphin")):
        if wrong:
            raise UserError(f"{flag}: not with several ranks; leave it out, or start without torchrun")
    if args.num_games % world_size():
        raise UserError(f"--num-games {args.num_games}: must be a multiple of the number of ranks ({world_size()}), "
                        "each of which plays as many")


# ---------------------------------------------------------------------------------------------------------------------
# Opponents: whom a learner meets, for how long, and from which port
# ---------------------------------------------------------------------------------------------------------------------

class Matchmaker:
    """Draws opponents by id: MIRROR, another learner, a checkpoint of the pool, a scripted bot, or OPPONENT."""

    def __init__(self, args: Args, learners: list[str], pool: Pool, ratings: Ratings):
        self.args, self.learners, self.pool, self.ratings = args, learners, pool, ratings
        self.history_prob = history_prob(args)
        self.bots = parse_names(args.opponent_bots, BOTS, "bot") if args.opponent_bots else []
        self.league = League(learners, pool, ratings, self.pfsp, args.league_reset_frames) if args.league else None

    def draw(self, me: str, rng: np.random.Generator) -> str:
        """The opponent of learner `me` in its next game, as the strategy wants it."""
        if self.args.opponent:
            return self.args.opponent if self.args.opponent in CPU_LEVELS else OPPONENT
        weights = self.bot_weights(me)
        if self.bots and rng.random() < self.args.bot_prob * weights.max():
            return self.bots[rng.choice(len(self.bots), p=weights / weights.sum())]
        names, weights = self.league.candidates(me, rng) if self.league else self.candidates(me, rng)
        if not names:
            return MIRROR
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(names), 1 / len(names))
        if names[0] in self.learners:
            return names[rng.choice(len(names), p=weights)]
        return self.pool.sample(rng, names, weights) or MIRROR         # a checkpoint that cannot be read is passed over

    def bot_weights(self, me: str) -> np.ndarray:
        """A ladder: who is about as strong is worth most, who is beaten fades, nobody goes."""
        p = np.array([self.ratings.winrate(me, bot) for bot in self.bots])
        return np.maximum(4 * p * (1 - p), BOT_FLOOR) if self.args.bot_weighting == "even" else np.ones(len(p))

    def candidates(self, me: str, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """Ids and weights of whom --matchmaking may draw; none for a mirror match."""
        if rng.random() >= self.history_prob:
            return [], np.zeros(0)
        if self.args.matchmaking == "population":
            others = [name for name in self.learners if name != me]
            return others, np.ones(len(others))
        names = self.pool.ids()
        if self.args.matchmaking == "pfsp":
            return names, self.pfsp(me, names, self.args.pfsp_weighting)
        if self.args.matchmaking == "league":
            return names, self.near(me, names)
        return names, np.ones(len(names))

    def pfsp(self, me: str, names: list[str], weighting: str) -> np.ndarray:
        """Prioritised fictitious self-play: weights from the decayed win rate against each, with a floor: a tenth of
        the games go to all of them alike, so that nobody is forgotten for having been beaten once."""
        p = np.array([self.ratings.winrate(me, name) for name in names])
        weights = (1 - p) ** 2 if weighting == "hard" else p * (1 - p)
        return .9 * weights / weights.sum() + .1 / len(names) if weights.sum() > 0 else np.ones(len(names))

    def near(self, me: str, names: list[str], tier: float = 200.) -> np.ndarray:
        """Weights by Elo: tiers of 200 points; one's own and the two beside it, the closer the likelier; else all."""
        own, elo = self.ratings.elo(me), np.array([self.ratings.elo(name) for name in names])
        weights = np.exp(-((elo - own) / tier) ** 2)
        return np.where(np.abs(elo // tier - own // tier) <= 1, weights, 0)


def assign_opponents(selfplay: SelfPlay, matchmaker: Matchmaker, args: Args) -> None:
    """Games that begin with the next frame get their opponents, who stay to the end. The learner plays at port (slot +
    episode) % 2, as often from either side, and characters and stages go through their lists likewise; against Melee's
    computer player, who keeps its port, at (slot + 1) % 2."""
    begun, episode = selfplay.begin_games(), selfplay.envs.games.episode
    slots = begun + rank() * selfplay.envs.num_games                        # among the games of all ranks
    changes_sides = args.opponent not in CPU_LEVELS
    selfplay.port[begun] = (slots + (episode[begun] if changes_sides else 1)) % 2
    for g in begun[selfplay.may_change[begun]]:
        selfplay.set_opponent(g, matchmaker.draw(selfplay.names[selfplay.learner_of[g]], selfplay.rng))
        selfplay.may_change[g] = args.opponent_swap == "reset"
    selfplay.look_up_policies(begun)
    if len(begun):                                                          # a game is set up as the one before it ends
        combinations = parse_matchups(args.character, args.opponent_character, args.stage)
        next_port = selfplay.port[begun] ^ changes_sides
        selfplay.envs.set_matchup(begun, *matchups(combinations, slots + 2 * (episode[begun] + 1), next_port))


# ---------------------------------------------------------------------------------------------------------------------
# Rollout
# ---------------------------------------------------------------------------------------------------------------------

@torch.inference_mode()
def collect(selfplay: SelfPlay, matchmaker: Matchmaker, args: Args, clock: dict[str, float]) -> dict[str, dict]:
    """Plays --rollout-length decisions of all games -> by learner its rollout: arrays [T, N, 2, ...] or [T, N]."""
    T, M, envs = args.rollout_length, selfplay.envs.num_games, selfplay.envs
    floats = np.empty((T, M, 2, num_floats(args.frame_delay)), np.float32)
    ints = np.empty((T, M, 2, NUM_INTS), np.int16)
    actions, told = np.empty((T, M, 2, ACTION_SIZE), np.int8), np.zeros((T, 2, M, 2), np.float32)
    rewards, bootstrap = np.zeros((2, T, M, 2), np.float32)
    starts, terminated, truncated, broken = np.zeros((4, T, M), bool)       # starts: this observation begins a game
    learns = np.empty((T, M, 2), bool)                                 # rows of the learner itself, not of its opponent
    first_states, pending = selfplay.states, selfplay.pending

    def value_of(learner: Learner, obs: Observation, games: np.ndarray) -> np.ndarray:          # of n games: [n, 2]
        slots = torch.from_numpy(np.stack([2 * games, 2 * games + 1], 1).ravel())
        seen = Observation(*(torch.from_numpy(x[games]).flatten(0, 1) for x in obs))
        seen = Observation(*(x.to(learner.acts_on) for x in seen))
        features, _ = learner.acting.features(seen, tuple(part[slots] for part in selfplay.states[learner.name]))
        return learner.acting.value(features).view(-1, 2).cpu().numpy()

    for t in range(T):
        tick = time.perf_counter()
        if t == 0 or selfplay.dones.any():
            assign_opponents(selfplay, matchmaker, args)
        obs = observe(envs.frames, envs.controllers, pending.frames)        # floats [M, 2, F], ints [M, 2, I]
        floats[t], ints[t], starts[t] = obs.floats, obs.ints, selfplay.dones
        actions[t] = selfplay.act(obs, told[t])
        clock["policy"] += time.perf_counter() - tick
        tick = time.perf_counter()

        before = np.frombuffer(envs.frames.tobytes(), FRAME)             # .copy() goes field by field: 100 times slower
        controllers = pending.push(decode_actions(actions[t], mirrored(envs.frames)))   # what acts now
        terminated[t], truncated[t], broken[t] = envs.step(controllers)
        ended = terminated[t] | truncated[t]
        after = np.where(ended, envs.final_frames, envs.frames) if ended.any() else envs.frames
        terms = reward_terms(before, after, args.rewards, terminated[t], args.gamma)
        paid = np.array(list(terms.values()), np.float32).reshape(-1, M, 2)
        rewards[t] = paid.sum(0)

        learns[t] = selfplay.assignment == selfplay.learner_of[:, None]
        selfplay.record(terminated[t], truncated[t], broken[t], after, paid)
        if truncated[t].any():                                              # the value of the frame that was cut off
            last = observe(after, controllers, pending.frames)
            for k in set(selfplay.learner_of[truncated[t]].tolist()):
                cut = np.flatnonzero(truncated[t] & (selfplay.learner_of == k))
                bootstrap[t, cut] = value_of(selfplay.learners[k], last, cut)
        clock["env"] += time.perf_counter() - tick

    learns &= acted(starts, terminated, args.frame_delay // args.action_repeat)[..., None]
    next_obs, rollouts = observe(envs.frames, envs.controllers, pending.frames), {}
    for k in sorted(set(selfplay.learner_of.tolist())):                     # a learner's games lie side by side
        learner, games = selfplay.learners[k], slice(*np.searchsorted(selfplay.learner_of, [k, k + 1]).tolist())
        rollouts[learner.name] = {
            "obs": Observation(floats[:, games], ints[:, games]), "actions": actions[:, games],
            "logprobs": told[:, 0, games], "values": told[:, 1, games], "rewards": rewards[:, games],
            "bootstrap": bootstrap[:, games], "last_value": value_of(learner, next_obs, np.arange(M)[games]),
            "starts": starts[:, games], "terminated": terminated[:, games], "truncated": truncated[:, games],
            "broken": broken[:, games], "learns": learns[:, games],
            "state": tuple(s[2 * games.start:2 * games.stop] for s in first_states[learner.name])}
    return rollouts


def acted(starts: np.ndarray, terminated: np.ndarray, late: int) -> np.ndarray:
    """[T, N] did what was decided then come to act? Not the last `late` decisions of a game that ended. (One that was
    cut off, or goes on after the rollout, has a value that knows of them.)"""
    lost, ending = np.zeros_like(terminated), terminated
    for _ in range(late):
        lost |= ending
        earlier = ending[1:] & ~starts[1:]                                  # one decision before, in the same game
        ending = np.concatenate([earlier, np.zeros_like(ending[:1])])
    return ~lost


def drop_broken_games(rollouts: list[dict]) -> None:
    """One after the other in time: no row of a game that broke is learnt from, in none of these rollouts."""
    starts, broken = (np.concatenate([rollout[name] for rollout in rollouts]) for name in ("starts", "broken"))
    learns = np.concatenate([rollout["learns"] for rollout in rollouts])
    for t, game in np.argwhere(broken):
        learns[max(np.flatnonzero(starts[:t + 1, game]), default=0):t + 1, game] = False
    for rollout, part in zip(rollouts, np.split(learns, len(rollouts)), strict=True):
        rollout["learns"] = part


# ---------------------------------------------------------------------------------------------------------------------
# Advantages
# ---------------------------------------------------------------------------------------------------------------------

def compute_gae(rewards, values, next_values, terminated, truncated, gamma: float, gae_lambda: float, rho=None):
    """Generalised advantages and value targets. All arrays [T, ...]; next_values[t] is the value of the state that
    followed step t: where a game was truncated the value of its last frame, otherwise values[t + 1] or the bootstrap
    after the rollout. Termination has no next value; neither kind of ending lets advantage flow over into the next
    game.

    rho [T, ...]: V-trace's truncated importance weights min(1, learner's probability / actor's) for rollouts of an
    older policy (Espeholt et al. 2018, with lambda; an action's own weight is left to the PPO ratio). None is weights
    of 1: GAE."""
    advantages, targets = np.zeros_like(rewards), np.zeros_like(rewards)
    running = np.zeros_like(rewards[0])
    rho = np.ones_like(rewards) if rho is None else rho
    alive = 1 - terminated.astype(np.float32)
    same_game = alive * (1 - truncated.astype(np.float32))
    deltas = rewards + gamma * next_values * alive - values
    for t in reversed(range(len(rewards))):
        advantages[t] = deltas[t] + gamma * gae_lambda * same_game[t] * running
        running = rho[t] * advantages[t]
        targets[t] = values[t] + running
    return advantages, targets


@torch.no_grad()
def prepare(learner: Learner, rollout: dict, args: Args, teacher: Policy | None) -> dict[str, torch.Tensor]:
    """Advantages and value targets: tensors [T, B, ...], B = games x ports. Values and log-probabilities are what the
    actor thought as it acted; when it is the policy that learns, the first minibatch's ratio is 1 but for rounding."""
    (T, N), device = rollout["starts"].shape, learner.policy.device

    def rows(x):                                                            # [T, 2N, ...], where it is learnt from
        return torch.from_numpy(np.ascontiguousarray(x).reshape(T, 2 * N, *x.shape[3:])).to(device)

    obs, actions = Observation(*map(rows, rollout["obs"])), rows(rollout["actions"])
    starts, memory = rows(np.repeat(rollout["starts"][..., None], 2, 2)), [s.to(device) for s in rollout["state"]]
    rho = None
    if args.vtrace:                                                         # asynchronous: an older policy has acted
        _, newlogprobs = evaluate_actions(learner.policy, obs, memory, starts, actions)
        rho = np.minimum(1, np.exp(newlogprobs.view(T, N, 2).cpu().numpy() - rollout["logprobs"]))
    teacher_logits = torch.empty(T, 2 * N, 0, device=device)
    if teacher is not None:
        state = learner.teacher_state or teacher.initial_state(2 * N)
        features, learner.teacher_state = teacher.unroll(obs, state, starts)
        teacher_logits = teacher.logits(features, actions)

    values = rollout["values"]
    next_values = np.concatenate([values[1:], rollout["last_value"][None]])
    next_values = np.where(rollout["truncated"][..., None], rollout["bootstrap"], next_values)
    terminated, truncated = (rollout[name][..., None].repeat(2, -1) for name in ("terminated", "truncated"))
    advantages, returns = compute_gae(rollout["rewards"], values, next_values, terminated, truncated, args.gamma,
                                      args.gae_lambda, rho)
    return {"floats": obs.floats, "ints": obs.ints, "actions": actions, "starts": starts,
            "learns": rows(rollout["learns"]), "logprobs": rows(rollout["logprobs"]), "values": rows(values),
            "advantages": rows(advantages), "returns": rows(returns), "teacher": teacher_logits,
            **{f"state_{k}": s[None] for k, s in enumerate(memory)}}        # as the rollout began


# ---------------------------------------------------------------------------------------------------------------------
# Update
# ---------------------------------------------------------------------------------------------------------------------

def update(learner: Learner, batches: list[dict], args: Args, step: int) -> dict[str, float]:
    """PPO over all that the learner itself did in these prepared rollouts -> a row of metrics. step: game frames of the
    whole run before them, so that the learning rate begins at its full value and the last update still learns. Entropy
    and teacher go by the learner's own frames since it began, or began anew.

    Of several ranks each has its own rows, and a minibatch is made of rows of them all: so are gradients, advantages'
    mean and deviation, and metrics. All make the same steps."""
    b = batches[0]
    if len(batches) > 1:
        b = {key: torch.cat([batch[key] for batch in batches], 1) for key in b}
    policy, optimizer, hyper, learns = learner.policy, learner.optimizer, learner.hyper, b["learns"]
    lr = hyper["learning_rate"] * (max(0., 1 - step / args.timesteps) if args.anneal_lr else 1.)
    optimizer.param_groups[0]["lr"] = lr
    age = learner.updates * frames_per_update(args)
    teacher_coef = args.teacher_kl * .5 ** (age / args.teacher_kl_half_life)
    burning_in = learner.updates < args.value_burn_in
    began_with = entropy_coef = hyper["entropy_coef"]
    if args.target_entropy and not burning_in:
        entropy_coef = hold_entropy(hyper, all_rows(b["logprobs"][learns]), args, age)
    memory = tuple(b[key][0] for key in b if key.startswith("state_"))      # [B, H] each, at the start
    recurrent = bool(memory)
    # What a minibatch is made of: columns, whole games in time, for a policy that remembers; else single rows of T x B.
    units = np.flatnonzero((learns.any(0) if recurrent else learns).cpu().numpy())
    per_minibatch = max(1, args.batch_size // (len(b["actions"]) if recurrent else 1))
    num_minibatches = -(-sum(all_gather(len(units))) // per_minibatch)

    def pick(key, mb):                                               # [T, B, ...] -> the rows that the learner acted in
        return b[key][:, mb].flatten(0, 1)[learns[:, mb].flatten()] if recurrent else b[key].flatten(0, 1)[mb]

    def unroll(mb):                                                         # -> features [rows, H]
        if not recurrent:
            return policy.unroll(Observation(pick("floats", mb), pick("ints", mb)), (), None)[0]
        obs, state = Observation(b["floats"][:, mb], b["ints"][:, mb]), tuple(s[mb] for s in memory)
        features, _ = policy.unroll(obs, state, b["starts"][:, mb])
        return features.flatten(0, 1)[learns[:, mb].flatten()]

    def all_logprobs():
        obs = Observation(b["floats"], b["ints"])
        return evaluate_actions(policy, obs, memory, b["starts"], b["actions"])[1][learns]

    stats, kls, before = [], [], all_logprobs() if args.target_kl else None
    for epoch in range(args.ppo_epochs if num_minibatches else 0):          # none: every worker was broken
        undo = copy.deepcopy((policy.state_dict(), optimizer.state_dict())) if args.target_kl else None
        order = learner.rng.permutation(units)                              # recurrent: games are permuted, never time
        parts = np.array_split(order, num_minibatches)                      # equal parts: no tail of one row
        everyones = all_gather([pick("advantages", torch.from_numpy(part)).cpu() for part in parts])
        for part, *b_advantages in zip(parts, *everyones, strict=True):
            b_advantages = torch.cat([x.to(policy.device) for x in b_advantages])
            mean, std, n = b_advantages.mean(), b_advantages.std(correction=0) + 1e-8, len(b_advantages)
            optimizer.zero_grad()
            minibatch_stats = []
            for mb in map(torch.from_numpy, np.array_split(part, min(args.grad_accum, len(part)) or 1)):
                if not len(mb):                                             # all of this minibatch is other ranks'
                    minibatch_stats.append(torch.zeros(12, device=policy.device))
                    continue
                features = unroll(mb)
                if burning_in:
                    features = features.detach()                            # the value head alone learns
                mb_actions, mb_advantages = pick("actions", mb), (pick("advantages", mb) - mean) / std
                logits = policy.logits(features, mb_actions)
                logprob, entropy = action_logprobs(logits, mb_actions)
                logratio = logprob.sum(-1) - pick("logprobs", mb)           # [B]
                ratio = logratio.exp()
                clipped = ratio.clamp(1 - hyper["ppo_clip"], 1 + hyper["ppo_clip"])

                policy_loss = torch.max(-mb_advantages * ratio, -mb_advantages * clipped).mean()
                value_loss = 0.5 * ((policy.value(features) - pick("returns", mb)) ** 2).mean()
                entropies = entropy.mean(0)                                # [6]
                teacher_loss = policy_loss.new_zeros(())
                if teacher_coef:
                    teacher_loss = action_kl(pick("teacher", mb), logits).sum(-1).mean()
                loss = policy_loss - entropy_coef * entropies.sum() + teacher_coef * teacher_loss
                loss = (0 if burning_in else loss) + args.value_coef * value_loss
                share = len(mb_actions) / n
                (loss * share).backward()

                with torch.no_grad():
                    approx_kl = ((ratio - 1) - logratio).mean()             # http://joschu.net/blog/kl-approx.html
                    clipfrac = ((ratio - 1).abs() > hyper["ppo_clip"]).float().mean()
                    ratio_error = (ratio - 1).abs().max()
                    minibatch_stats.append(share * torch.stack(
                        [policy_loss, value_loss, teacher_loss, approx_kl, clipfrac, ratio_error, *entropies]))
            minibatch = all_reduce_gradients(policy.parameters(), torch.stack(minibatch_stats).sum(0))
            grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
            stats.append(torch.cat([minibatch, grad_norm[None]]))
            optimizer.step()
        if args.target_kl:
            moved = all_rows(all_logprobs() - before)
            kls.append((moved.exp() - 1 - moved).mean().item())
            if not kls[-1] <= args.target_kl:                               # too far, or NaN: this epoch is taken back
                policy.load_state_dict(undo[0])
                optimizer.load_state_dict(undo[1])
                hyper["entropy_coef"] = began_with if epoch == 0 else hyper["entropy_coef"]
                break
    learnt, predicted = all_rows(b["returns"][learns]), all_rows(b["values"][learns])
    learner.updates += 1
    learner.agent_frames += len(learnt)

    s = torch.stack(stats) if stats else torch.zeros(1, 13)
    if s[0, 5] > .01 and not args.async_learning:
        raise RuntimeError(f"the policy that learns is not the one that acted: probability ratio off by {s[0, 5]:.3f}")
    policy_loss, value_loss, teacher_loss, _, clipfrac, _, *entropies, grad_norm = s.mean(0).tolist()
    variance = learnt.var().item() if len(learnt) > 1 else 0.
    explained = 1 - (learnt - predicted).var().item() / variance if variance else 0.
    return {                                                             # a schedule's value stands after hyper's own
        "charts/agent_frames": learner.agent_frames, **{f"charts/{k}": v for k, v in hyper.items()},
        "charts/learning_rate": lr, "charts/entropy_coef": entropy_coef, "losses/policy_loss": policy_loss,
        "losses/value_loss": value_loss, "losses/entropy": sum(entropies),
        **{f"losses/entropy_{group}": sum(entropies[heads]) for group, heads in HEAD_GROUPS.items()},
        "losses/teacher_kl": teacher_loss, "losses/approx_kl": s[-1, 3].item(), "losses/clipfrac": clipfrac,
        "losses/grad_norm": grad_norm,
        **({"losses/update_kl": kls[-1], "losses/reverted": float(not kls[-1] <= args.target_kl)} if kls else {}),
        "losses/explained_variance": explained, "losses/first_ratio_error": s[0, 5].item(),
        "losses/minibatches": len(stats)}


def hold_entropy(hyper: dict[str, float], logprobs: torch.Tensor, args: Args, age: int) -> float:
    """--target-entropy's controller -> the weight of this update's entropy bonus. It is pulled at once, and
    hyper["entropy_coef"], where it begins the next time, moves slowly. logprobs [B]: of what was chosen; age: game
    frames of the learner."""
    if not len(logprobs):                                                   # every worker was broken
        return hyper["entropy_coef"]
    has = max(-logprobs.mean().item(), 1e-3)                                # a sample of it, which may be below 0
    missing = math.log(line_at(args.target_entropy, age / args.entropy_half_life) / has)
    within = lambda weight: min(max(weight, args.entropy_coef / ENTROPY_RANGE), args.entropy_coef * ENTROPY_RANGE)
    hyper["entropy_coef"] = within(hyper["entropy_coef"] * math.exp(ENTROPY_STEP * missing))
    return within(hyper["entropy_coef"] * math.exp(ENTROPY_PULL * missing))


# ---------------------------------------------------------------------------------------------------------------------
# The run
# ---------------------------------------------------------------------------------------------------------------------

def resume_run(args: Args) -> tuple[Path, Args, object, dict]:
    """--resume: -> run folder, the arguments it was started with, its lock (hold on to it) and its checkpoint."""
    run = Path(args.resume)
    args = resumed_args(run, args, may_change={"resume", "timesteps", "device"})
    lock = lock_run(run) if rank() == 0 else None
    saved = load_latest(
        run, args.checkpoint or run / "checkpoints" / "latest.pt", to_flags(args), stage="ppo_selfplay",
        action_repeat=args.action_repeat, frames=steps_per_iteration(args), save_interval=args.save_interval)
    keep_opponents(args, run)
    return run, args, lock, saved


def frames_per_update(args: Args) -> int:
    """Game frames of a learner in an iteration."""
    return args.rollout_length * args.num_games * args.action_repeat * args.train_interval


def steps_per_iteration(args: Args) -> int:
    """Game frames of all learners in an iteration."""
    return frames_per_update(args) * (args.population_size if args.train_order == "parallel" else 1)


def keep_opponents(args: Args, run: Path) -> None:
    """Points --opponent and --held-out at copies in the run folder, since their files may change or go."""
    for flag in ("opponent", "held_out"):
        if getattr(args, flag) not in {*BOTS, *CPU_LEVELS}:
            setattr(args, flag, keep_copy(getattr(args, flag), run / "checkpoints" / f"{flag}.pt"))


def evaluation_settings(args: Args) -> dict:
    """The keyword arguments of measure_strength."""
    return {"seed": args.seed, "games": args.eval_games, "opponents": parse_names(args.eval_opponents, BOTS, "bot"),
            "held_out": args.held_out, "target": "" if args.opponent in CPU_LEVELS else args.opponent,
            "max_episode_frames": args.max_episode_frames,
            "combinations": parse_matchups(args.character, args.opponent_character, args.stage)}


def main(args: Args) -> None:
    first = rank() == 0                                                     # the one that writes and speaks
    console = Terminal(quiet=not first)

    # ---------------------------------------------------------------------------------------------------------- set-up
    check_ranges(args)
    run, args, lock, saved = resume_run(args) if args.resume else (None, args, None, None)
    device = choose_device(args.device)
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    if saved or args.pretrained:
        initial, _ = load_policy(run / "checkpoints" / "initial.pt" if saved else args.pretrained)
    else:
        initial = from_scratch(args)
    fill_in(args, initial)
    check(args, resumed=bool(saved))
    tracker = Tracker(args.wandb if first else WandbArgs())
    if first and not saved:
        warm_up(), kernels()                                                # while they compile there is no folder yet
        name = f"ppo_{args.character}_seed{args.seed}_{time.strftime('%Y%m%d_%H%M%S')}"
        run, lock = start_run(args.runs_dir, args.run_name, name, to_flags(args), __file__, launcher())
        args.run_name = run.name
        keep_opponents(args, run)
        save_checkpoint(run / "checkpoints" / "initial.pt", initial)
    run, args = broadcast((run, args))
    checkpoint_path = Path(args.checkpoint) if args.checkpoint else run / "checkpoints" / "latest.pt"

    # Worker processes are forked from this one: before torch starts threads, and before anything else does.
    P, T = args.population_size, args.rollout_length
    M = args.num_games * (P if args.train_order == "parallel" else 1) // world_size()
    slots, seed = rank() * M + np.arange(M), rank_seed(args.seed)           # of this rank's games
    combinations = parse_matchups(args.character, args.opponent_character, args.stage)
    characters, stages = matchups(combinations, slots + 2, (slots + 1) % 2)
    cpu_levels = np.zeros((M, 2), int)
    cpu_levels[np.arange(M), slots % 2] = CPU_LEVELS.get(args.opponent, 0)
    envs = VecEnv(
        M, characters, stages, seed=seed, num_workers=args.num_workers, use_threads=args.use_threads,
        max_episode_frames=args.max_episode_frames, action_repeat=args.action_repeat, timeout=args.worker_timeout,
        max_restarts=args.max_restarts, cpu_levels=cpu_levels, log=console.print, scattered=args.scattered,
        dolphin=args.live if args.game_type == "dolphin" else None)
    envs.stagger()
    hyper = {"learning_rate": args.learning_rate, "entropy_coef": args.entropy_coef, "ppo_clip": args.ppo_clip}
    varied = [name for name in hyper if args.pbt and not (name == "entropy_coef" and args.target_entropy)]
    learners = make_learners(
        initial, hyper, seed=seed, size=P, league=args.league, same_start=bool(args.pretrained), varied=varied,
        asynchronous=args.async_learning, device=device, acts_on=device if 2 * M // P > FEW_ROWS else "cpu")
    pool = Pool(run / "pool", args.history_size, args.prune, args.keep_retired, args.action_repeat, args.frame_delay)
    ratings = Ratings()
    frozen = args.opponent and args.opponent not in CPU_LEVELS
    matchmaker = Matchmaker(args, [learner.name for learner in learners], pool, ratings)
    selfplay = SelfPlay(envs, learners, pool, ratings, seed=seed, reward_terms=active_terms(args.rewards),
                        one_at_a_time=args.train_order == "round-robin", most_opponents=args.opponents_per_iteration,
                        stack=args.parallel_actions,
                        load_others=({OPPONENT: load_opponent(args.opponent)} if frozen else {}).get)
    turn = Turn(winrate=args.turn_winrate, games=args.turn_games, patience=args.turn_patience, frames=args.turn_frames,
                learners=learners)
    parts = {"envs": envs, "ratings": ratings, **{f"learner_{learner.name}": learner for learner in learners},
             "selfplay": selfplay, "turn": turn}
    iteration, global_step = 0, 0
    if saved:
        iteration, global_step = restore(run, saved, parts, to_flags(args))
        if first:
            pool.forget_after(global_step, agents={learner.name for learner in learners})
    teacher = initial.to(device) if args.teacher_kl else None

    def strongest() -> Policy:                                              # whom play.py will see
        return max(learners, key=lambda learner: ratings.elo(learner.name)).policy

    def freeze(learner: Learner) -> None:
        name = broadcast(pool.add(learner.policy, learner.name, global_step, ratings=ratings) if first else None)
        ratings.row(name)[0] = ratings.elo(learner.name)                    # a frozen copy is as strong as its original

    def save() -> None:
        states = states_of_all_ranks(parts)
        if first:
            save_checkpoint(checkpoint_path, strongest(), stage="ppo_selfplay", step=global_step, iteration=iteration,
                            args=to_flags(args), **states)

    def publish(row: dict) -> None:                                         # what an evaluation has found
        tracker.log_evaluation(run, row, [learner.name for learner in learners], ratings.payoff)

    def learn(learner: Learner, rollouts: list[dict], step: int) -> dict[str, float]:
        tick = time.perf_counter()
        drop_broken_games(rollouts)
        batches = [prepare(learner, rollout, args, teacher) for rollout in rollouts]
        with memory_for(args.batch_size, args.grad_accum):
            metrics = update(learner, batches, args, step)
        if not args.async_learning:                                         # there whoever collects decides when
            learner.publish()
        return metrics | {"time/update": time.perf_counter() - tick}

    tracker.start(run, run.name, to_flags(args))
    stop = stop_on_interrupt(console.print)
    frames = steps_per_iteration(args)                                      # in an iteration
    num_iterations = -(-args.timesteps // frames)
    held = f" to hold {args.target_entropy} nats" if args.target_entropy else ""
    half_life = math.log(.5) / math.log(args.gamma) * args.action_repeat / 60 if 0 < args.gamma < 1 else math.inf
    parameters = sum(p.numel() for p in initial.parameters())
    console.print(
        f"CleanMelee self-play PPO  {args.character} on {args.stage} ({args.game_type})  {args.backbone} "
        f"{args.hidden} ({parameters:,} parameters, {device})\n{num_iterations} iterations of {frames} game frames "
        f"({M * world_size()} games x {T * args.train_interval} decisions x {args.action_repeat} frames"
        f"{f', on {world_size()} ranks' if world_size() > 1 else ''}); a reward's half-life is "
        f"{half_life:.1f} s; learning rate {args.learning_rate:g}, entropy bonus {args.entropy_coef:g}{held}, teacher "
        f"KL {args.teacher_kl:g}, value burn-in {args.value_burn_in}; run folder {run}")
    evaluator = Evaluator(run, evaluation_settings(args), global_step, in_background=args.eval_in_background,
                          log=console.print, on_row=publish, film_every=args.watch_interval) if first else None
    if not saved:                                                           # somebody to meet, and something to resume
        if args.eval_interval and first:
            evaluator.submit(learners[0].policy, 0)
        for learner in learners:
            freeze(learner)
        save()
        if first:
            has_begun(run)
    parallel = None
    if args.async_learning or args.parallel_training:
        buffered = max(1, args.max_buffer_size // (2 * T * args.num_games * args.train_interval))
        parallel = ParallelUpdates(learn, learners, side_by_side=args.parallel_training,
                                   asynchronous=args.async_learning, buffered=buffered, log=console.print)

    def every(interval: int) -> bool:
        return bool(interval) and (iteration % interval == 0 or iteration == num_iterations)

    start, first_step, stopping = None, 0, any(all_gather(bool(stop)))
    progress, task = iteration_progress(console, num_iterations, iteration)
    try:
        while iteration < num_iterations and not stopping:
            # ------------------------------------------------------------------------------------------------- collect
            clock, processor = {"env": 0., "policy": 0., "learn": 0.}, time.process_time()
            selfplay.begin_iteration()
            rollouts = [collect(selfplay, matchmaker, args, clock) for _ in range(args.train_interval)]
            begun, iteration, global_step = global_step, iteration + 1, global_step + frames
            stopping = any(all_gather(bool(stop)))                          # asked once, so that all below agree
            selfplay.end_iteration()
            row = {"global_step": global_step, "iteration": iteration, "charts/games_finished": selfplay.finished,
                   "charts/games_truncated": selfplay.truncated, "selfplay/opponents": len(selfplay.policy_ids) - P}
            played = {name: selfplay.results(name) for name in rollouts[0]}

            # ------------------------------------------------------------------------------------- prepare and update
            tick = time.perf_counter()
            if parallel is None:
                metrics = {learner.name: learn(learner, [rollout[learner.name] for rollout in rollouts], begun)
                           for learner in learners if learner.name in rollouts[0]}
                finished = [(row, played, metrics)]
            else:                                                   # who keeps or changes weights waits for all updates
                halt = stopping or any(map(every, (args.save_interval, args.pool_interval, args.eval_interval,
                                                   args.pbt_interval if args.pbt else 0)))
                finished = parallel.run((row, played), rollouts, begun, wait=halt)
            clock["learn"] = time.perf_counter() - tick
            row["time/processor"] = sum(all_gather(time.process_time() - processor))    # of all threads

            # ----------------------------------------------------------------------------------------------------- log
            now = time.perf_counter()
            if start is None:                                           # SPS counts from the end of the first iteration
                start, first_step, sps = now, global_step, frames / sum(clock.values())
            else:
                sps = (global_step - first_step) / (now - start)
            for row, played, metrics in finished:
                row |= {"charts/SPS": round(sps), **{f"time/{name}": seconds for name, seconds in clock.items()}}
                for name, learnt in metrics.items():
                    learnt |= played[name] | {"selfplay/elo": ratings.elo(name)}
                    row |= {key if P == 1 else f"{name}/{key}": value for key, value in learnt.items()}
                    policy_loss, value_loss, entropy, kl = (
                        learnt[f"losses/{key}"] for key in ("policy_loss", "value_loss", "entropy", "approx_kl"))
                    console.print(
                        f"{row['iteration']:5d}  {name if P > 1 else ''}  collected {frames}  steps "
                        f"{row['global_step']:,}  SPS {sps:,.0f}  policy {policy_loss:.4f}  value {value_loss:.4f}  "
                        f"entropy {entropy:.4f}  KL {kl:.4f}")
                if first:
                    append_jsonl(run / "metrics.jsonl", row)
                    tracker.log(row, row["global_step"])
            progress.update(task, completed=iteration)

            # -------------------------------------------------------- population, pool, evaluation and checkpoints
            active = learners if args.train_order == "parallel" else [learners[turn.learner]]
            if args.train_order == "round-robin":
                others = selfplay.scores[learners[turn.learner].name].items()
                turn.scores += sum((scores for opponent, scores in others if opponent not in BOTS), [])
            if args.pbt and iteration % args.pbt_interval == 0:
                for event in pbt_round(learners, ratings, varied):
                    selfplay.forget(event["learner"])
                    append_jsonl(run / "pbt.jsonl", {"global_step": global_step, **event})
            if iteration % args.pool_interval == 0:
                for learner in active:
                    freeze(learner)
                    age = global_step - learner.born
                    if args.league and matchmaker.league.starts_anew(learner.name, age, selfplay.rng):
                        learner.start_anew(initial.state_dict(), hyper, global_step)
                        ratings.forget(learner.name)
                        selfplay.forget(learner.name)
                if args.train_order == "round-robin" and turn.over(active[0], global_step):
                    selfplay.hand_over(turn.pass_on(learners, global_step))
            if first and every(args.eval_interval):
                evaluator.submit(strongest(), global_step)
            if first:
                evaluator.report()
            if every(args.save_interval):
                save()
                playing = {name for names in all_gather(selfplay.opponents) for name in names if name}
                if first:
                    pool.prune(playing, ratings)
        if stopping:
            save()
        elif first:
            evaluator.report(wait=True, stop=stop)
            stopping = bool(stop and evaluator.jobs)
    finally:
        progress.stop()
        envs.close()
        if parallel is not None:
            parallel.close()
        if first:
            evaluator.close()
            lock.release()
        tracker.finish()

    if not first:
        sys.exit(130 if stopping else 0)
    if args.track_elo:
        print_elo(ratings, [x.name for x in learners], [*pool.ids(), OPPONENT, args.opponent, *BOTS])
    if stopping:
        again = f"{launcher()} {Path(__file__).name} --resume {run}"
        console.print(f"stopped at step {global_step:,}; continue with: {again}")
        sys.exit(130)
    console.print(*filter(None, ("done:", checkpoint_path, plot_winrates(run))))


if __name__ == "__main__":
    run_script(distributed(main), Args)
