"""Self-play PPO: a policy learns Melee against itself, its own past and others.

    python ppo_selfplay.py --num-games 8                                 # from scratch on the embedded game
    python ppo_selfplay.py --pretrained runs/bc/checkpoints/best.pt      # from a cloned policy
    python ppo_selfplay.py --population-size 4 --pbt --matchmaking population
    python ppo_selfplay.py --resume runs/NAME                            # go on as if never stopped

One iteration: every game is played for `--rollout-length` steps (collect), advantages are computed per game (prepare), and PPO
runs `--ppo-epochs` over what the learner itself did (update). In three of four games the learner plays both sides and learns
from both; in the others it meets a frozen checkpoint of the pool, whose rows never enter a batch. Results of those games move
the Elo table. Strength is measured apart (eval.jsonl). All else, from populations to asynchronous learning, is off by default.
"""

import copy
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console

from melee_common import (
    ACTION_SIZE, BOTS, DOLPHIN_LIMITS, FRAME, NUM_FLOATS, NUM_INTS, OPPONENT, Arena, DolphinArgs, Evaluator, Learner,
    MatchArgs, Observation, Policy, Pool, PopulationArgs, Ratings, RewardArgs, StrengthArgs, Turn, UserError, VecEnv,
    action_kl, action_logprobs, append_jsonl, check_dolphin, check_matchmaking, check_numbers, check_writable, compute_gae,
    compute_rewards, computer_levels, decode_actions, evaluate_actions, iteration_progress, keep_opponents, load_policy,
    lock_run, make_learners, matchups, mirrored, observe, parse_hidden, pbt_round, plot_winrates, print_elo, restore, resume_run,
    run_script, save_checkpoint, start_run, stop_on_interrupt,
)


@dataclass
class Args(MatchArgs, PopulationArgs, StrengthArgs, RewardArgs, DolphinArgs):
    pretrained: str = ""
    """checkpoint to start from; its network sizes and action repeat are used (off: empty, start from scratch)"""
    resume: str = ""
    """run folder to continue, with the arguments it was started with; only --timesteps may change (off: empty)"""
    game_type: Literal["mock", "dolphin"] = "mock"
    """the embedded game, or Slippi Dolphin with --dolphin and --iso, one for each game; evaluations are on the embedded game"""
    num_games: int = 4
    """games played side by side, for each learner"""
    num_workers: int = 0
    """processes that step the games (off: 0, in this process, which is fastest for the embedded game)"""
    use_threads: bool = False
    """--num-workers threads instead of processes: no fault isolation (off: False)"""
    worker_timeout: float = 1.0
    """seconds that a worker may take for a step of embedded games before it is replaced; for Dolphin see --step-timeout"""
    max_restarts: int = 100
    """workers that may fail within an hour (off: 0, none); one more ends the run, to be continued with --resume"""
    max_episode_frames: int = 3600
    """game frames after which a game is truncated; 3600 is a minute (off: 0, games run to the last stock or 8:00)"""
    action_repeat: int = 3
    """game frames for which a chosen controller is held (off: 1, chosen anew on every frame)"""

    timesteps: int | None = None
    """game frames to play in total, frames x games (default: 100000; for a resumed run what it was started with)"""
    rollout_length: int = 128
    """steps of every game in an iteration"""
    update_interval: str = "batch_ready"
    """batch_ready: learn when --rollout-length steps are there (off); or after so many game frames of a learner, e.g. 10000"""
    train_interval: int = 1
    """iterations between two updates; each learns from all of them (off: 1)"""
    batch_size: int = 2048
    """agent frames in a minibatch; a smaller rollout is one minibatch (off: as large as the rollout)"""
    grad_accum: int = 1
    """parts of a minibatch whose gradients are summed before a step: less memory, the same result (off: 1)"""
    ppo_epochs: int = 4
    """passes over each rollout"""
    ppo_clip: float = 0.2
    """clip range of the probability ratio (off: 1e9)"""
    learning_rate: float = 3e-4
    """Adam's step size"""
    anneal_lr: bool = False
    """let it fall to 0 in a straight line, until --timesteps (off: False, constant)"""
    gamma: float | None = None
    """discount a step (default: .99 at --action-repeat 3, .9967 at 1, a half-life of 3.4 seconds of game time; off: 1)"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation (off: 1, whole returns)"""
    entropy_coef: float = 0.0007
    """weight of the entropy bonus (off: 0)"""
    value_coef: float = 0.5
    """weight of the value loss (off: 0)"""
    value_burn_in: int = 0
    """first updates that train the value head alone, after --pretrained (off: 0)"""
    max_grad_norm: float = 0.5
    """gradients are scaled down to this norm (off: 1e9)"""
    target_kl: float = 0.0
    """KL of the whole update, measured on all its rows after each epoch, past which that epoch is taken back, in Adam's state
    too, and the update ends; if losses/reverted stays at 1, lower --learning-rate (off: 0)"""
    teacher_kl: float = 0.0
    """weight of KL(pretrained policy || policy), which keeps a cloned policy from forgetting (off: 0)"""
    teacher_kl_half_life: float = 2_000_000
    """game frames after which --teacher-kl has halved (off: 1e18, it stays)"""

    backbone: Literal["mlp", "gru"] = "mlp"
    """network between embedding and heads; the gru remembers"""
    hidden: str = "512,512"
    """layer sizes, the last one is the gru's state"""

    parallel_actions: bool = False
    """one batched forward for all games, ports and networks instead of one forward a network (off: False)"""
    parallel_training: bool = False
    """the learners of a population learn side by side, in threads (off: False)"""
    async_learning: bool = False
    """collect the next rollout with a copy of the policy while it learns from the last one (off: False)"""
    vtrace: bool = False
    """correct --async-learning's rollouts for the policy having moved on since (off: False)"""
    max_buffer_size: int = 0
    """--async-learning: agent frames that may wait to be learnt from, whole rollouts (off: 0, one rollout)"""

    seed: int = 1
    """same seed, same machine: same learning curve"""
    save_interval: int = 10
    """iterations between two checkpoints"""
    checkpoint: str = ""
    """file of the checkpoint (default: checkpoints/latest.pt in the run folder)"""
    run_name: str = ""
    """folder inside --runs-dir (default: made of character, seed and time)"""
    runs_dir: str = "runs"
    """where runs are kept"""
    track: bool = False
    """log to Weights & Biases too; WANDB_MODE=offline works without an account (off: False)"""


def check(args: Args) -> None:
    """One line for each value that cannot work."""
    ever, many, together = math.inf, 10 ** 9, args.population_size if args.train_order == "parallel" else 1
    check_matchmaking(args)
    if args.game_type == "dolphin":
        check_dolphin(args)
    check_numbers(
        args, num_games=(1, 65536), num_workers=(0, args.num_games * together), max_episode_frames=(0, many),
        worker_timeout=(.05, 3600), max_restarts=(0, many), action_repeat=(1, 3600), timesteps=(1, ever),
        rollout_length=(1, 10 ** 6), train_interval=(1, many), batch_size=(1, many), grad_accum=(1, many), ppo_epochs=(1, many),
        ppo_clip=(1e-6, ever), learning_rate=(0, 1), gamma=(0, 1), gae_lambda=(0, 1), entropy_coef=(0, ever),
        value_coef=(0, ever), value_burn_in=(0, many), max_grad_norm=(1e-9, ever), target_kl=(0, ever), teacher_kl=(0, ever),
        teacher_kl_half_life=(1, ever), max_buffer_size=(0, many), save_interval=(1, many), **DOLPHIN_LIMITS)
    for flag, needs, there in (
            ("vtrace", "--async-learning", args.async_learning), ("max_buffer_size", "--async-learning", args.async_learning),
            ("teacher_kl", "--pretrained", args.pretrained),
            ("parallel_training", "--train-order parallel", args.train_order == "parallel")):
        if getattr(args, flag) and not there:
            raise UserError(f"--{flag.replace('_', '-')}: needs {needs}")
    if args.update_interval != "batch_ready":
        if not (args.update_interval.isdecimal() and int(args.update_interval) > 0):
            raise UserError(f"--update-interval {args.update_interval}: give batch_ready or game frames, e.g. 10000")
        args.rollout_length = max(1, round(int(args.update_interval) / (args.num_games * args.action_repeat)))
    if 0 < args.max_buffer_size < (rollout := 2 * args.num_games * args.rollout_length * args.train_interval):
        raise UserError(f"--max-buffer-size {args.max_buffer_size}: must hold at least one rollout, {rollout} agent frames")


@torch.inference_mode()
def collect(arena: Arena, args: Args, clock: dict[str, float]) -> dict[str, dict]:
    """Plays --rollout-length steps of all games -> by learner its rollout: arrays [T, N, 2, ..] or [T, N]."""
    T, M, envs = args.rollout_length, arena.envs.num_games, arena.envs
    obs_floats, obs_ints = np.empty((T, M, 2, NUM_FLOATS), np.float32), np.empty((T, M, 2, NUM_INTS), np.int16)
    actions, learns = np.empty((T, M, 2, ACTION_SIZE), np.int8), np.empty((T, M, 2), bool)
    rewards, bootstrap = np.zeros((2, T, M, 2), np.float32)
    starts, terminated, truncated = np.zeros((3, T, M), bool)               # starts: this observation begins a game
    states_at_start = arena.states

    def value_of(learner, obs):
        flat = Observation(*(torch.from_numpy(x).flatten(0, 1) for x in obs))
        return learner.acting.value(learner.acting.features(flat, arena.states[learner.name])[0]).view(M, 2).numpy()

    for t in range(T):
        tick = time.perf_counter()
        if t == 0 or arena.resets.any():
            arena.seat()
        obs = observe(envs.frames, envs.controllers)                        # floats [M, 2, F], ints [M, 2, I]
        obs_floats[t], obs_ints[t], starts[t] = obs.floats, obs.ints, arena.resets
        actions[t] = arena.act(obs)
        clock["policy"] += time.perf_counter() - tick
        tick = time.perf_counter()

        before = np.frombuffer(envs.frames.tobytes(), FRAME)                # .copy() goes field by field: 100 times slower
        controllers = decode_actions(actions[t], mirrored(envs.frames))
        terminated[t], truncated[t], broken = envs.step(controllers)
        ended = terminated[t] | truncated[t]
        after = np.where(ended, envs.final_frames, envs.frames) if ended.any() else envs.frames
        rewards[t] = compute_rewards(before, after, args, terminated[t], args.gamma)
        learns[t] = arena.assignment == arena.owner[:, None]
        for g in np.flatnonzero(broken):                                    # no row of that game, of those not yet learnt from
            learns[max(np.flatnonzero(starts[:t + 1, g]), default=0):t + 1, g] = False
        arena.settle(terminated[t], truncated[t], broken, after)
        if truncated[t].any():                                              # the value of the frame that was cut off
            last = observe(after, controllers)
            for k in set(arena.owner[truncated[t]].tolist()):
                cut = truncated[t] & (arena.owner == k)
                bootstrap[t, cut] = value_of(arena.learners[k], last)[cut]
        clock["env"] += time.perf_counter() - tick

    after_rollout, rollouts = observe(envs.frames, envs.controllers), {}
    for k in sorted(set(arena.owner.tolist())):                             # a learner's games lie side by side
        learner, mine = arena.learners[k], slice(*np.searchsorted(arena.owner, [k, k + 1]).tolist())
        rollouts[learner.name] = {
            "actor": learner.acting, "obs": Observation(obs_floats[:, mine], obs_ints[:, mine]), "actions": actions[:, mine],
            "rewards": rewards[:, mine], "bootstrap": bootstrap[:, mine], "starts": starts[:, mine], "learns": learns[:, mine],
            "terminated": terminated[:, mine], "truncated": truncated[:, mine],
            "last_value": value_of(learner, after_rollout)[mine],
            "state": tuple(s[2 * mine.start:2 * mine.stop] for s in states_at_start[learner.name])}
    return rollouts


@torch.no_grad()
def prepare(learner: Learner, rollout: dict, args: Args, teacher: Policy | None) -> dict[str, torch.Tensor]:
    """Values, log-probabilities and advantages: tensors [T, B, ..], B = games x ports. The first two come out of forwards
    over the whole rollout, with the numbers that learning starts from: the first minibatch's ratio is 1 but for rounding."""
    T, N = rollout["starts"].shape
    rows = lambda x: torch.from_numpy(np.ascontiguousarray(x).reshape(T, 2 * N, *x.shape[3:]))          # [T, 2N, ..]
    obs, actions = Observation(*map(rows, rollout["obs"])), rows(rollout["actions"])
    starts = torch.from_numpy(np.repeat(rollout["starts"], 2, 1))
    values, logprobs = evaluate_actions(learner.policy, obs, rollout["state"], starts, actions)         # [T, 2N]
    rho = None
    if rollout["actor"] is not learner.policy:                              # asynchronous: an older policy has acted
        now, logprobs = logprobs, evaluate_actions(rollout["actor"], obs, rollout["state"], starts, actions)[1]
        if args.vtrace:
            rho = (now - logprobs).exp().clamp(max=1).view(T, N, 2).numpy()
    teacher_logits = torch.empty(T, 2 * N, 0)
    if teacher is not None:
        features, learner.teacher_state = teacher.unroll(obs, learner.teacher_state or teacher.initial_state(2 * N), starts)
        teacher_logits = teacher.logits(features, actions)
    v, both = values.view(T, N, 2).numpy(), np.ones((1, 1, 2), bool)
    next_values = np.concatenate([v[1:], rollout["last_value"][None]])
    next_values = np.where(rollout["truncated"][..., None], rollout["bootstrap"], next_values)
    advantages, returns = compute_gae(rollout["rewards"], v, next_values, rollout["terminated"][..., None] & both,
                                      rollout["truncated"][..., None] & both, args.gamma, args.gae_lambda, rho)
    return {"floats": obs.floats, "ints": obs.ints, "actions": actions, "starts": starts, "learns": rows(rollout["learns"]),
            "logprobs": logprobs, "values": values, "advantages": rows(advantages), "returns": rows(returns),
            "teacher": teacher_logits, **{f"state_{k}": s[None] for k, s in enumerate(rollout["state"])}}       # at the start


def update(learner: Learner, rollouts: list[dict], args: Args, teacher: Policy | None, step: int) -> dict[str, float]:
    """PPO over all that the learner itself did in these rollouts -> a row of metrics."""
    began = time.perf_counter()
    batches = [prepare(learner, rollout, args, teacher) for rollout in rollouts]
    b = {key: torch.cat([batch[key] for batch in batches], 1) if len(batches) > 1 else x for key, x in batches[0].items()}
    policy, optimizer, hyper = learner.policy, learner.optimizer, learner.hyper
    optimizer.param_groups[0]["lr"] = lr = hyper["learning_rate"] * max(0., 1 - step / args.timesteps if args.anneal_lr else 1.)
    memory = tuple(b[key][0] for key in b if key.startswith("state_"))     # [B, H] each, at the start
    burning_in, recurrent = learner.updates < args.value_burn_in, bool(memory)
    teacher_coef = args.teacher_kl * .5 ** (step / args.teacher_kl_half_life)
    units = np.flatnonzero((b["learns"].any(0) if recurrent else b["learns"]).numpy())      # columns, or rows of T x B
    per_minibatch = max(1, args.batch_size // (len(b["actions"]) if recurrent else 1))

    def pick(key, mb):                                                      # [T, B, ..] -> the rows that the learner acted in
        return b[key][:, mb].flatten(0, 1)[b["learns"][:, mb].flatten()] if recurrent else b[key].flatten(0, 1)[mb]

    everything = Observation(b["floats"], b["ints"]), memory, b["starts"], b["actions"]
    all_logprobs = lambda: evaluate_actions(policy, *everything)[1][b["learns"]]
    stats, kls, before = [], [], all_logprobs() if args.target_kl else None
    for epoch in range(args.ppo_epochs if len(units) else 0):               # no units: every worker was broken
        undo = copy.deepcopy((policy.state_dict(), optimizer.state_dict())) if args.target_kl else None
        order = learner.rng.permutation(units)                              # recurrent: games are permuted, never time
        for part in np.array_split(order, -(-len(order) // per_minibatch)):  # equal parts: no tail of one row
            b_advantages = pick("advantages", torch.from_numpy(part))
            mean, std, n = b_advantages.mean(), b_advantages.std(correction=0) + 1e-8, len(b_advantages)
            optimizer.zero_grad()
            minibatch_stats = []
            for mb in map(torch.from_numpy, np.array_split(part, min(args.grad_accum, len(part)))):
                if recurrent:
                    state, starts = tuple(s[mb] for s in memory), b["starts"][:, mb]
                    features, _ = policy.unroll(Observation(b["floats"][:, mb], b["ints"][:, mb]), state, starts)
                    features = features.flatten(0, 1)[b["learns"][:, mb].flatten()]         # [B, H]
                else:
                    features, _ = policy.unroll(Observation(pick("floats", mb), pick("ints", mb)), (), None)
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
                entropy_loss = entropy.sum(-1).mean()
                teacher_loss = action_kl(pick("teacher", mb), logits).mean() if teacher_coef else torch.zeros(())
                loss = policy_loss - hyper["entropy_coef"] * entropy_loss + teacher_coef * teacher_loss
                loss = (0 if burning_in else loss) + args.value_coef * value_loss
                share = len(mb_actions) / n
                (loss * share).backward()
                with torch.no_grad():
                    approx_kl = ((ratio - 1) - logratio).mean()             # http://joschu.net/blog/kl-approx.html
                    clipfrac = ((ratio - 1).abs() > hyper["ppo_clip"]).float().mean()
                    minibatch_stats.append(share * torch.stack(
                        [policy_loss, value_loss, entropy_loss, teacher_loss, approx_kl, clipfrac, (ratio - 1).abs().max()]))
            grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
            stats.append(torch.cat([torch.stack(minibatch_stats).sum(0), grad_norm[None]]))
            optimizer.step()
        if args.target_kl:
            moved = all_logprobs() - before
            kls.append((moved.exp() - 1 - moved).mean().item())
            if not kls[-1] <= args.target_kl:                               # too far, or NaN: this epoch is taken back
                policy.load_state_dict(undo[0]), optimizer.load_state_dict(undo[1])
                break
    learner.updates += 1
    learner.agent_frames += int(b["learns"].sum())
    s = torch.stack(stats) if stats else torch.zeros(1, 8)
    if s[0, 6] > .01 and not args.async_learning:
        raise RuntimeError(f"the policy that learns is not the one that acted: probability ratio off by {s[0, 6]:.3f}")
    mean, learnt = s.mean(0).tolist(), b["returns"][b["learns"]]
    variance = learnt.var().item() if len(learnt) > 1 else 0.
    explained = 1 - (learnt - b["values"][b["learns"]]).var().item() / variance if variance else 0.
    return {
        "charts/agent_frames": learner.agent_frames, **{f"charts/{k}": v for k, v in hyper.items()}, "charts/learning_rate": lr,
        "losses/policy_loss": mean[0], "losses/value_loss": mean[1], "losses/entropy": mean[2], "losses/teacher_kl": mean[3],
        "losses/approx_kl": s[-1, 4].item(), "losses/clipfrac": mean[5], "losses/grad_norm": mean[7],
        **({"losses/update_kl": kls[-1], "losses/reverted": float(not kls[-1] <= args.target_kl)} if kls else {}),
        "losses/explained_variance": explained, "losses/first_ratio_error": s[0, 6].item(), "losses/minibatches": len(stats),
        "time/update": time.perf_counter() - began}


def main(args: Args) -> None:
    console = Console(highlight=False, soft_wrap=True)

    # ------------------------------------------------------------------------------------------------------- set-up
    saved = None
    if args.resume:
        run, args, lock, saved = resume_run(args, Args)
    args.timesteps = 100_000 if args.timesteps is None else args.timesteps
    torch.manual_seed(args.seed)
    if saved or args.pretrained:
        initial, source = load_policy(run / "checkpoints" / "initial.pt" if saved else args.pretrained)
    else:
        initial = Policy(args.backbone, parse_hidden(args.hidden))
        source = {"frame_delay": 0, "action_repeat": args.action_repeat}
    if source["frame_delay"]:
        raise UserError(f"{args.pretrained}: trained for a delay of {source['frame_delay']} frames; this game has none")
    args.action_repeat = source["action_repeat"]
    args.gamma = .99 ** (args.action_repeat / 3) if args.gamma is None else args.gamma
    args.backbone, args.hidden = initial.config["backbone"], ",".join(map(str, initial.config["hidden"]))
    check(args)
    if args.checkpoint:
        args.checkpoint = str(Path(args.checkpoint).resolve())              # a resumed run may start from another folder
        check_writable("--checkpoint", Path(args.checkpoint))
    if not saved:
        args.run_name = args.run_name or f"ppo_{args.character}_seed{args.seed}_{time.strftime('%Y%m%d_%H%M%S')}"
        run = start_run(args, args.runs_dir, args.run_name)
        lock = lock_run(run)                                                # held until the end
        keep_opponents(args, run)
        save_checkpoint(run / "checkpoints" / "initial.pt", initial, action_repeat=args.action_repeat)
    checkpoint_path = Path(args.checkpoint) if args.checkpoint else run / "checkpoints" / "latest.pt"

    # Worker processes are forked from this one: before torch starts threads, and before anything else does.
    P, T = args.population_size, args.rollout_length
    M = args.num_games * (P if args.train_order == "parallel" else 1)
    envs = VecEnv(M, *matchups(args, np.arange(M) + 2, np.arange(1, M + 1) % 2), seed=args.seed, num_workers=args.num_workers,
                  use_threads=args.use_threads, max_episode_frames=args.max_episode_frames, action_repeat=args.action_repeat,
                  timeout=args.worker_timeout, max_restarts=args.max_restarts, cpu_levels=computer_levels(args, M),
                  dolphin=args if args.game_type == "dolphin" else None, log=console.print)
    learners = make_learners(initial, args)
    names = [learner.name for learner in learners]
    teacher = initial if args.teacher_kl else None
    pool, ratings = Pool(run / "pool", args.history_size, args.prune, args.keep_retired, args.action_repeat), Ratings()
    arena, turn = Arena(args, envs, learners, pool, ratings), Turn(args)
    parts = {"envs": envs, "ratings": ratings, "arena": arena, "turn": turn, **{f"learner_{x.name}": x for x in learners}}
    iteration, global_step = restore(run, args, saved, parts, pool) if saved else (0, 0)

    strongest = lambda: max(learners, key=lambda learner: ratings.elo(learner.name)).policy  # whom play.py will see

    def freeze(learner: Learner) -> None:
        name = pool.add(learner.policy, learner.name, global_step, ratings=ratings, action_repeat=args.action_repeat)
        ratings.row(name)[0] = ratings.elo(learner.name)                    # a frozen copy is as strong as its original

    def save() -> None:
        save_checkpoint(checkpoint_path, strongest(), stage="ppo_selfplay", step=global_step, iteration=iteration,
                        args=vars(args), action_repeat=args.action_repeat,
                        **{name: part.state_dict() for name, part in parts.items()})

    if args.track:
        import wandb
        wandb.init(project="cleanmelee", name=args.run_name, config=vars(args), dir=str(run), resume="allow", id=args.run_name)
    stop = stop_on_interrupt(console.print)
    steps_per_iteration = T * M * args.action_repeat * args.train_interval
    num_iterations = -(-args.timesteps // steps_per_iteration)
    half_life = math.log(.5) / math.log(args.gamma) * args.action_repeat / 60 if 0 < args.gamma < 1 else math.inf
    console.print(f"[bold]CleanMelee[/] self-play PPO  {args.character} on {args.stage} ({args.game_type})  {args.backbone} "
                  f"{args.hidden} ({sum(p.numel() for p in initial.parameters()):,} parameters)\n{num_iterations} iterations "
                  f"of {steps_per_iteration} game frames ({M} games x {T * args.train_interval} steps x {args.action_repeat} "
                  f"frames); a reward's half-life is {half_life:.1f} s; run folder {run}")
    evaluator = Evaluator(run, args, global_step, console.print)
    if not saved:                                                           # somebody to meet, and something to resume
        if args.eval_interval:
            evaluator.submit(learners[0].policy, 0)
        for learner in learners:
            freeze(learner)
        save()

    # Updates run here, or in threads: one for each learner (parallel), or one that learns while games go on (asynchronous).
    pending, threads, background = [], ThreadPoolExecutor(P), ThreadPoolExecutor(1)
    if args.async_learning or args.parallel_training:
        torch.set_num_threads(max(1, torch.get_num_threads() // (P if args.parallel_training else 2)))
    buffered = max(1, args.max_buffer_size // (2 * T * args.num_games * args.train_interval))    # rollouts, asynchronous

    def train(rollouts: list[dict], step: int) -> tuple[dict[str, dict], list[Policy]]:
        job = lambda name: update(learners[names.index(name)], [part[name] for part in rollouts], args, teacher, step)
        rows = dict(zip(rollouts[0], (threads.map if args.parallel_training else map)(job, rollouts[0]), strict=True))
        return rows, [copy.deepcopy(learner.policy) for learner in learners] if args.async_learning else []

    started, first_step, stopping = None, 0, bool(stop)
    progress, task = iteration_progress(console, num_iterations, iteration)
    try:
        while iteration < num_iterations and not stopping:
            # --------------------------------------------------------------------------------------- rollout and update
            clock = {"env": 0., "policy": 0., "learn": 0.}
            arena.begin_iteration()
            rollouts = [collect(arena, args, clock) for _ in range(args.train_interval)]
            iteration, global_step, tick = iteration + 1, global_step + steps_per_iteration, time.perf_counter()
            every = lambda interval: interval and (iteration % interval == 0 or iteration == num_iterations)
            stopping = bool(stop)                                           # asked once, so that all below agree
            halt = stopping or any(map(every, (args.save_interval, args.pool_interval, args.eval_interval,
                                               args.pbt and args.pbt_interval)))
            row = {"global_step": global_step, "iteration": iteration, "charts/games_finished": arena.finished,
                   "charts/games_truncated": arena.truncated, "selfplay/opponents": len(arena.networks) - P}
            scores = {name: list(arena.scores[name]) for name in rollouts[0]}
            if not args.async_learning:
                done = [(row, scores, train(rollouts, global_step))]
            else:                                                           # they are learnt from while the next are collected
                pending.append((row, scores, background.submit(train, rollouts, global_step)))
                ready = len(pending) - (0 if halt else buffered)            # who keeps or changes weights waits for all
                done = [(row, scores, future.result()) for row, scores, future in pending[:max(0, ready)]]
                pending = pending[len(done):]
                if done:
                    for learner, policy in zip(learners, done[-1][2][1], strict=True):
                        learner.acting = policy
            clock["learn"] = time.perf_counter() - tick

            # ----------------------------------------------------------------------------------------------- logging
            now = time.perf_counter()
            if started is None:                                             # SPS counts from the end of the first iteration
                started, first_step, sps = now, global_step, steps_per_iteration / sum(clock.values())
            else:
                sps = (global_step - first_step) / (now - started)
            for row, scores, (learnt, _) in done:
                row |= {"charts/SPS": round(sps), **{f"time/{name}": seconds for name, seconds in clock.items()}}
                for name, metrics in learnt.items():
                    metrics |= {"selfplay/history_games": len(scores[name]), "selfplay/elo": ratings.elo(name),
                                **({"selfplay/history_score": float(np.mean(scores[name]))} if scores[name] else {})}
                    row |= {key if P == 1 else f"{name}/{key}": value for key, value in metrics.items()}
                    policy_loss, value_loss, entropy, kl = (
                        f"{metrics[f'losses/{key}']:.4f}" for key in ("policy_loss", "value_loss", "entropy", "approx_kl"))
                    console.print(f"{row['iteration']:5d}  {name if P > 1 else ''}  collected {steps_per_iteration}  steps "
                                  f"{row['global_step']:,}  SPS {sps:,.0f}  policy {policy_loss}  value {value_loss}  entropy "
                                  f"{entropy}  KL {kl}")
                append_jsonl(run / "metrics.jsonl", row)
                if args.track:
                    wandb.log(row, step=row["global_step"])
            progress.update(task, completed=iteration)

            # ------------------------------------------------------- population, history, checkpoints and evaluation
            active = learners if args.train_order == "parallel" else [learners[turn.learner]]
            turn.scores += arena.scores[names[turn.learner]]
            if args.pbt and iteration % args.pbt_interval == 0:
                for event in pbt_round(learners, ratings):
                    append_jsonl(run / "pbt.jsonl", {"global_step": global_step, **event})
            if iteration % args.pool_interval == 0:
                for learner in active:
                    freeze(learner)
                    if args.league and arena.matchmaker.starts_anew(learner.name, global_step - learner.born, arena.rng):
                        learner.become(initial.state_dict(), None)
                        learner.born = global_step
                        ratings.forget(learner.name)
                if args.train_order == "round-robin" and turn.over(active[0], global_step):
                    arena.hand_over(turn.pass_on(learners, global_step))
            if every(args.eval_interval):
                evaluator.submit(strongest(), global_step)
            evaluator.report()
            if every(args.save_interval):
                save()
                pool.prune({name for name in arena.opponents if name}, ratings)
        if stopping:
            save()
        else:
            evaluator.report(wait=True)
    finally:
        progress.stop()
        evaluator.close()
        envs.close()
        background.shutdown(cancel_futures=True), threads.shutdown()
        lock.close()
        if args.track:
            wandb.finish()

    if args.track_elo:
        print_elo(console, ratings, names, [*pool.ids(), OPPONENT, args.opponent, *BOTS])
    if stopping:
        console.print(f"stopped at step {global_step:,}; continue with: python ppo_selfplay.py --resume {run}")
        sys.exit(130)
    console.print(*filter(None, ("done:", checkpoint_path, plot_winrates(run))))


if __name__ == "__main__":
    run_script(main, Args)
