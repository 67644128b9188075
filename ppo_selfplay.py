"""Self-play PPO: a policy learns Melee against itself and against its own past.

    python ppo_selfplay.py --num-games 8                                 # from scratch on the embedded game
    python ppo_selfplay.py --pretrained runs/bc/checkpoints/best.pt      # from a cloned policy
    python ppo_selfplay.py --resume runs/NAME                            # go on as if never stopped

One iteration: every game is played for `--rollout-length` steps, advantages are computed per game, and PPO runs
`--ppo-epochs` over what the learner itself did. In three of four games the learner plays both sides and learns from both;
in the others it meets a frozen checkpoint of the pool, whose rows never enter a batch. Results of those games move the Elo
table. Strength is measured apart, by win rates against three scripted opponents (eval.jsonl).
"""

import json
import math
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from melee_common import (
    ACTION_SIZE, BOT_SLOT, BOTS, CHARACTERS, FRAME, NUM_FLOATS, NUM_INTS, STAGES, Observation, Policy, Pool, Ratings, UserError,
    VecEnv, act, action_logprobs, append_jsonl, atomic_write, check_numbers, check_writable, compute_gae, compute_rewards,
    decode_actions, keep_jsonl, load_checkpoint, load_policy, lock_run, lookup, observe, outcomes, parse_hidden, play_games,
    plot_winrates, run_script, save_checkpoint, start_run, to_torch, wilson_interval,
)

EVAL_OPPONENTS = ("idle", "random", "attacker")


@dataclass
class Args:
    pretrained: str = ""
    """checkpoint to start from; its network sizes and action repeat are used (off: empty, start from scratch)"""
    resume: str = ""
    """run folder to continue, with the arguments it was started with; only --timesteps may change (off: empty)"""
    game_type: Literal["mock"] = "mock"
    """where the games are played: mock, the embedded game"""
    character: str = "mewtwo"
    """character of both players"""
    stage: str = "final_destination"
    """stage of every game"""
    num_games: int = 4
    """games played side by side"""
    num_workers: int = 0
    """processes that step the games (off: 0, in this process, which is fastest for the embedded game)"""
    max_episode_frames: int = 3600
    """game frames after which a game is truncated; 3600 is a minute (off: 0, games run to the last stock or 8:00)"""
    action_repeat: int = 3
    """game frames for which a chosen controller is held; 1 chooses anew on every frame"""

    timesteps: int | None = None
    """game frames to play in total, frames x games (default: 100000; for a resumed run what it was started with)"""
    rollout_length: int = 128
    """steps of every game in an iteration"""
    batch_size: int = 2048
    """agent frames in a minibatch; a smaller rollout is one minibatch"""
    ppo_epochs: int = 4
    """passes over each rollout"""
    ppo_clip: float = 0.2
    """clip range of the probability ratio"""
    learning_rate: float = 3e-4
    """Adam's step size, constant"""
    gamma: float = 0.99
    """discount a step; with --action-repeat 3 its half-life is 3.4 seconds of game time"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation"""
    entropy_coef: float = 0.003
    """weight of the entropy bonus (off: 0)"""
    value_coef: float = 0.5
    """weight of the value loss"""
    max_grad_norm: float = 0.5
    """gradients are scaled down to this norm"""
    target_kl: float = 0.0
    """an iteration's epochs stop when the approximate KL passes this (off: 0)"""
    reward_stock: float = 1.0
    """reward for taking a stock, and its negative for losing one (off: 0)"""
    reward_damage: float = 0.01
    """reward for each percent dealt, and its negative for each taken (off: 0)"""

    backbone: Literal["mlp", "gru"] = "mlp"
    """network between embedding and heads; the gru remembers"""
    hidden: str = "512,512"
    """layer sizes, the last one is the gru's state"""

    history_prob: float = 0.25
    """share of games against a past checkpoint from the pool (off: 0, always against itself)"""
    history_size: int = 20
    """checkpoints kept in the pool"""
    pool_interval: int = 25
    """iterations between two additions to the pool"""
    track_elo: bool = False
    """print the Elo table at the end"""

    seed: int = 1
    """same seed, same machine: same learning curve"""
    eval_interval: int = 200
    """iterations between two evaluations, also before the first and after the last iteration (off: 0)"""
    eval_games: int = 32
    """games against each scripted opponent in an evaluation, half of them from either port"""
    save_interval: int = 10
    """iterations between two checkpoints"""
    checkpoint: str = ""
    """file of the checkpoint (default: checkpoints/latest.pt in the run folder)"""
    run_name: str = ""
    """folder inside --runs-dir (default: made of character, seed and time)"""
    runs_dir: str = "runs"
    """where runs are kept"""
    track: bool = False
    """log to Weights & Biases too; WANDB_MODE=offline works without an account"""


def check(args: Args) -> None:
    """One line for each value that cannot work."""
    ever, many = math.inf, 10 ** 9
    check_numbers(
        args, num_games=(1, 65536), num_workers=(0, args.num_games), max_episode_frames=(0, many), action_repeat=(1, 3600),
        timesteps=(1, ever), rollout_length=(1, 10 ** 6), batch_size=(1, many), ppo_epochs=(1, many), ppo_clip=(1e-6, ever),
        learning_rate=(0, 1), gamma=(0, 1), gae_lambda=(0, 1), entropy_coef=(0, ever), value_coef=(0, ever), max_grad_norm=(1e-9, ever),
        target_kl=(0, ever), history_prob=(0, 1), history_size=(1, many), pool_interval=(1, many), save_interval=(1, many),
        eval_interval=(0, many), eval_games=(2, 65536))
    if args.eval_games % 2:
        raise UserError(f"--eval-games {args.eval_games}: must be even, since half of the games are played from either port")
    lookup(CHARACTERS, args.character, "character"), lookup(STAGES, args.stage, "stage")


def evaluate(policy: Policy, args: Args, step: int) -> dict[str, float]:
    """Win rate against each scripted opponent with its 95 % interval. All randomness is its own, keyed by seed and step."""
    n = args.eval_games
    assignment = np.zeros((len(EVAL_OPPONENTS) * n, 2), np.int64)
    bot_kinds = np.zeros_like(assignment)
    for k, name in enumerate(EVAL_OPPONENTS):
        for port, games in ((1, slice(k * n, k * n + n // 2)), (0, slice(k * n + n // 2, (k + 1) * n))):
            assignment[games, port], bot_kinds[games, port] = BOT_SLOT, BOTS[name]
    with VecEnv(len(assignment), CHARACTERS[args.character], STAGES[args.stage], seed=args.seed + 1_000_003 * (step + 1),
                bot_kinds=bot_kinds, max_episode_frames=args.max_episode_frames, action_repeat=args.action_repeat) as envs:
        final = play_games([policy], envs, assignment, torch.Generator().manual_seed(args.seed + 1_000_003 * (step + 1)))
    mine = (assignment != BOT_SLOT).argmax(1)                               # the learner's port in each game
    scores = (outcomes(final) * np.where(mine == 0, 1, -1) + 1) / 2         # 1 won, .5 draw, 0 lost
    row = {"global_step": step, "games": n}
    for k, name in enumerate(EVAL_OPPONENTS):
        wins = float(scores[k * n:(k + 1) * n].sum())
        low, high = wilson_interval(wins, n)
        row |= {f"eval/winrate_{name}": wins / n, f"eval/winrate_{name}_low": low, f"eval/winrate_{name}_high": high}
    return row


def main(args: Args) -> None:
    console = Console(highlight=False, soft_wrap=True)

    # ------------------------------------------------------------------------------------------------------- set-up
    saved = None
    if args.resume:
        run = Path(args.resume)
        args_file = run / "args.json"
        if not args_file.is_file():
            raise UserError(f"{run}: not a run folder (no args.json in it); give the folder of a run, e.g. runs/NAME")
        given = {k for k, v in vars(args).items() if v != getattr(Args, k)} - {"resume", "timesteps"}
        if given:
            raise UserError(f"--resume goes on with the run's own arguments; only --timesteps may change, not "
                            f"{', '.join('--' + name.replace('_', '-') for name in sorted(given))}")
        timesteps = args.timesteps
        try:
            args = Args(**json.loads(args_file.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{args_file}: damaged ({error}); restore it") from None
        args.timesteps = args.timesteps if timesteps is None else timesteps
        lock = lock_run(run)  # noqa: F841 (held until main returns)
        saved = load_checkpoint(args.checkpoint or run / "checkpoints" / "latest.pt")
        if saved.get("stage") != "ppo_selfplay" or saved["action_repeat"] != args.action_repeat:
            raise UserError(f"{run}: its checkpoint is not of this run; use --pretrained to start a run from a checkpoint")
    args.timesteps = 100_000 if args.timesteps is None else args.timesteps
    check(args)
    torch.manual_seed(args.seed)
    if saved:
        policy, _ = load_policy(args.checkpoint or run / "checkpoints" / "latest.pt")
    elif args.pretrained:
        policy, source = load_policy(args.pretrained)
        if source["frame_delay"]:
            raise UserError(f"{args.pretrained}: trained for a delay of {source['frame_delay']} frames; this game has none")
        args.action_repeat = source["action_repeat"]
    else:
        policy = Policy(args.backbone, parse_hidden(args.hidden))
    args.backbone, args.hidden = policy.config["backbone"], ",".join(map(str, policy.config["hidden"]))
    if args.checkpoint:
        args.checkpoint = str(Path(args.checkpoint).resolve())              # a resumed run may start from another folder
        check_writable("--checkpoint", Path(args.checkpoint))
    if not saved:
        args.run_name = args.run_name or f"ppo_{args.character}_seed{args.seed}_{time.strftime('%Y%m%d_%H%M%S')}"
        run = start_run(args, args.runs_dir, args.run_name)
        lock = lock_run(run)  # noqa: F841 (held until main returns)
    checkpoint_path = Path(args.checkpoint) if args.checkpoint else run / "checkpoints" / "latest.pt"

    # Worker processes are forked from this one: before torch starts threads, and before anything else does.
    T, N = args.rollout_length, args.num_games
    envs = VecEnv(N, CHARACTERS[args.character], STAGES[args.stage], seed=args.seed, num_workers=args.num_workers,
                  max_episode_frames=args.max_episode_frames, action_repeat=args.action_repeat, log=console.print)
    optimizer = torch.optim.Adam(policy.parameters(), lr=args.learning_rate, eps=1e-5)
    pool = Pool(run / "pool", args.history_size)
    ratings = Ratings()
    rng = np.random.default_rng(args.seed)                                  # opponents and minibatches
    noise = torch.Generator().manual_seed(args.seed)                        # action sampling
    recurrent = bool(policy.initial_state(1))

    # Who plays each slot: opponents[g] is None in a mirror match, else the id of the frozen policy in port frozen_port[g].
    opponents: list[str | None] = [None] * N
    frozen_port = np.zeros(N, np.int64)
    states = {None: policy.initial_state(2 * N)}                            # recurrent state of all 2N slots, per policy
    resets = np.ones(N, bool)                                               # the next observation begins a game
    iteration, global_step, agent_frames = 0, 0, 0

    if saved:
        try:
            optimizer.load_state_dict(saved["optimizer"])
            envs.load_state_dict(saved["envs"])
            ratings = Ratings(saved["ratings"])
            rng.bit_generator.state = json.loads(saved["rng"])
            noise.set_state(saved["noise"])
            opponents, frozen_port = list(saved["opponents"]), saved["frozen_port"].numpy()
            states = {name or None: tuple(state) for name, state in saved["states"].items()}
            resets = saved["resets"].numpy()
            iteration, global_step, agent_frames = int(saved["iteration"]), int(saved["step"]), int(saved["agent_frames"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            envs.close()
            raise UserError(f"{run}: its checkpoint cannot be resumed ({type(error).__name__}: {error})") from None
        for log in ("metrics.jsonl", "eval.jsonl"):                         # forget what came after the checkpoint
            keep_jsonl(run / log, global_step)
        pool.forget_after(global_step)
        atomic_write(run / "args.json", (json.dumps(vars(args), indent=1) + "\n").encode())

    def save() -> None:
        save_checkpoint(
            checkpoint_path, policy, stage="ppo_selfplay", step=global_step, iteration=iteration, agent_frames=agent_frames,
            args=vars(args), action_repeat=args.action_repeat, optimizer=optimizer.state_dict(), envs=envs.state_dict(),
            ratings=ratings.table, rng=json.dumps(rng.bit_generator.state), noise=noise.get_state(), opponents=opponents,
            frozen_port=torch.from_numpy(frozen_port), states={name or "": list(s) for name, s in states.items()},
            resets=torch.from_numpy(resets))

    if args.track:
        import wandb
        wandb.init(project="cleanmelee", name=args.run_name, config=vars(args), dir=str(run), resume="allow",
                   id=args.run_name)

    stop = []                                                               # filled by Ctrl-C; a second one kills
    def on_interrupt(signum, frame):
        if stop:
            raise KeyboardInterrupt
        stop.append(signum)
        console.print("stopping after this iteration; press Ctrl-C again to stop at once, back to the last checkpoint")
    signal.signal(signal.SIGINT, on_interrupt)
    signal.signal(signal.SIGTERM, on_interrupt)

    steps_per_iteration = T * N * args.action_repeat
    num_iterations = -(-args.timesteps // steps_per_iteration)
    half_life = math.log(.5) / math.log(args.gamma) * args.action_repeat / 60 if 0 < args.gamma < 1 else math.inf
    console.print(f"[bold]CleanMelee[/] self-play PPO  {args.character} on {args.stage} ({args.game_type})  {policy.config['backbone']} {args.hidden}"
                  f" ({sum(p.numel() for p in policy.parameters()):,} parameters)\n{num_iterations} iterations of "
                  f"{steps_per_iteration} game frames ({N} games x {T} steps x {args.action_repeat} frames); a reward's half-life is {half_life:.1f} s; "
                  f"run folder {run}")
    if 2 * T * N < args.batch_size:
        console.print(f"a rollout holds at most {2 * T * N} agent frames, fewer than --batch-size {args.batch_size}: "
                      "every epoch is one minibatch")

    def report(row: dict) -> None:
        append_jsonl(run / "eval.jsonl", row)
        console.print(f"[green]eval[/] at {row['global_step']:,}: " + ", ".join(
            f"{name} {row[f'eval/winrate_{name}']:.0%} [{row[f'eval/winrate_{name}_low']:.0%}, "
            f"{row[f'eval/winrate_{name}_high']:.0%}]" for name in EVAL_OPPONENTS))
        if args.track:
            wandb.log(row, step=row["global_step"])

    if args.eval_interval and iteration == 0:
        report(evaluate(policy, args, 0))

    # rollout storage
    obs_floats = np.zeros((T, N, 2, NUM_FLOATS), np.float32)
    obs_ints = np.zeros((T, N, 2, NUM_INTS), np.int16)
    actions = np.zeros((T, N, 2, ACTION_SIZE), np.int8)
    rewards, bootstrap = np.zeros((2, T, N, 2), np.float32)
    starts, terminated, truncated = np.zeros((3, T, N), bool)               # starts: this observation begins a game
    learns = np.zeros((T, N, 2), bool)                                      # rows the learner itself acted in
    started, first_step = None, 0

    progress = Progress(TextColumn("iteration"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), console=console,
                        disable=not console.is_terminal)
    task = progress.add_task("train", total=num_iterations, completed=iteration)
    progress.start()
    try:
        while iteration < num_iterations and not stop:
            clock = {"env": 0., "policy": 0., "learn": 0.}
            policy.eval()
            state_at_start = states[None]
            finished, truncated_games, history_scores = 0, 0, []

            # ----------------------------------------------------------------------------------------------- rollout
            with torch.inference_mode():
                for t in range(T):
                    tick = time.perf_counter()

                    # a game that begins draws its opponent; it stays until that game ends
                    for g in np.flatnonzero(resets):
                        drawn = pool.sample(rng) if rng.random() < args.history_prob else None
                        opponents[g], frozen_port[g] = drawn, rng.integers(2)
                    if resets.any() or t == 0:
                        names = [None, *sorted({name for name in opponents if name})]
                        policies = [policy, *map(pool.load, names[1:])]
                        states = {name: states[name] if name in states else player.initial_state(2 * N)
                                  for name, player in zip(names, policies, strict=True)}
                        assignment = np.zeros((N, 2), np.int64)
                        assignment[np.arange(N), frozen_port] = [names.index(name) for name in opponents]

                    obs = observe(envs.frames, envs.controllers)            # floats [N, 2, F], ints [N, 2, I]
                    obs_floats[t], obs_ints[t], starts[t] = obs.floats, obs.ints, resets
                    state_list = [states[name] for name in names]
                    actions[t] = act(policies, assignment, obs, state_list, resets, noise)
                    states = dict(zip(names, state_list, strict=True))
                    clock["policy"] += time.perf_counter() - tick
                    tick = time.perf_counter()

                    before = np.frombuffer(envs.frames.tobytes(), FRAME)    # .copy() goes field by field: 100 times slower
                    controllers = decode_actions(actions[t])
                    terminated[t], truncated[t], broken = envs.step(controllers)
                    resets = terminated[t] | truncated[t]
                    after = np.where(resets, envs.final_frames, envs.frames) if resets.any() else envs.frames
                    rewards[t] = compute_rewards(before, after, args.reward_stock, args.reward_damage)
                    learns[t] = (assignment == 0) & ~broken[:, None]

                    if truncated[t].any():                                  # the value of the frame that was cut off
                        last = to_torch(observe(after, controllers))
                        flat = Observation(last.floats.flatten(0, 1), last.ints.flatten(0, 1))
                        features, _ = policy.features(flat, states[None])
                        bootstrap[t] = policy.value(features).view(N, 2).numpy()
                    for g in np.flatnonzero(resets & ~broken):              # credit to the ids that started the game
                        finished += 1
                        truncated_games += int(truncated[t, g])
                        if opponents[g] is not None:
                            score = (1 + float(outcomes(after[g:g + 1])[0]) * (1 if frozen_port[g] == 1 else -1)) / 2
                            ratings.record("latest", opponents[g], score)
                            history_scores.append(score)
                    clock["env"] += time.perf_counter() - tick

            # --------------------------------------------------------------- values, log-probabilities and advantages
            # Both come out of one forward over the whole rollout, with the numbers that learning starts from: the first
            # minibatch's ratio is then 1 but for rounding.
            tick = time.perf_counter()
            b_obs = to_torch(Observation(obs_floats.reshape(T, 2 * N, -1), obs_ints.reshape(T, 2 * N, -1)))
            b_actions = torch.from_numpy(actions.reshape(T, 2 * N, -1))
            b_starts = torch.from_numpy(np.repeat(starts, 2, 1))            # [T, 2N]
            with torch.inference_mode():
                features, _ = policy.unroll(b_obs, state_at_start, b_starts)
                values = policy.value(features)                             # [T, 2N]
                logprobs = action_logprobs(policy.logits(features, b_actions), b_actions)[0].sum(-1)
                after_rollout = to_torch(observe(envs.frames, envs.controllers))
                flat = Observation(after_rollout.floats.flatten(0, 1), after_rollout.ints.flatten(0, 1))
                last_value = policy.value(policy.features(flat, states[None])[0]).view(N, 2)
            values_np = values.view(T, N, 2).numpy()
            next_values = np.concatenate([values_np[1:], last_value.numpy()[None]])
            next_values = np.where(truncated[..., None], bootstrap, next_values)
            both = np.ones((1, 1, 2), bool)
            advantages = compute_gae(rewards, values_np, next_values, terminated[..., None] & both,
                                     truncated[..., None] & both, args.gamma, args.gae_lambda)
            returns = advantages + values_np

            # ------------------------------------------------------------------------------------------------ update
            policy.train()
            b_learns = torch.from_numpy(learns.reshape(T, 2 * N))
            b_advantages, b_returns = (torch.from_numpy(x.reshape(T, 2 * N)) for x in (advantages, returns))
            b_logprobs = logprobs.clone()
            rows = np.flatnonzero(b_learns.numpy())                         # into T * 2N
            columns = np.flatnonzero(b_learns.any(0).numpy())               # games and ports with something to learn
            units, unit_rows = (columns, T) if recurrent else (rows, 1)
            per_minibatch = max(1, args.batch_size // unit_rows)
            stats, stop_epochs = [], False
            for epoch in range(args.ppo_epochs):
                order = rng.permutation(units)                              # recurrent: games are permuted, never time
                for part in np.array_split(order, -(-len(order) // per_minibatch)):  # equal parts: no tail of one row
                    mb = torch.from_numpy(part)
                    if recurrent:
                        take = lambda x: x[:, mb]
                        mask = b_learns[:, mb].flatten()
                        mb_features, _ = policy.unroll(Observation(*map(take, b_obs)), tuple(s[mb] for s in state_at_start),
                                                       take(b_starts))
                        pick = lambda x: x[:, mb].flatten(0, 1)[mask]
                        mb_features = mb_features.flatten(0, 1)[mask]       # [B, H]
                    else:
                        pick = lambda x: x.flatten(0, 1)[mb]
                        mb_features, _ = policy.unroll(Observation(*map(pick, b_obs)), (), None)
                    mb_actions, mb_advantages, mb_returns = pick(b_actions), pick(b_advantages), pick(b_returns)
                    logprob, entropy = action_logprobs(policy.logits(mb_features, mb_actions), mb_actions)
                    logratio = logprob.sum(-1) - pick(b_logprobs)           # [B]
                    ratio = logratio.exp()

                    mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std(correction=0) + 1e-8)
                    policy_loss = torch.max(-mb_advantages * ratio, -mb_advantages * ratio.clamp(
                        1 - args.ppo_clip, 1 + args.ppo_clip)).mean()
                    mb_values = policy.value(mb_features)
                    value_loss = 0.5 * ((mb_values - mb_returns) ** 2).mean()
                    entropy_loss = entropy.sum(-1).mean()
                    loss = policy_loss + args.value_coef * value_loss - args.entropy_coef * entropy_loss

                    optimizer.zero_grad()
                    loss.backward()
                    grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
                    with torch.no_grad():
                        approx_kl = ((ratio - 1) - logratio).mean()         # http://joschu.net/blog/kl-approx.html
                        clipfrac = ((ratio - 1).abs() > args.ppo_clip).float().mean()
                        stats.append(torch.stack([policy_loss, value_loss, entropy_loss, approx_kl, clipfrac, grad_norm,
                                                  (ratio - 1).abs().max()]).detach())
                    if args.target_kl and approx_kl > args.target_kl:       # this step is not taken
                        stop_epochs = True
                        break
                    optimizer.step()
                if stop_epochs:
                    break
            clock["learn"] = time.perf_counter() - tick

            # ----------------------------------------------------------------------------------------------- logging
            iteration += 1
            global_step += steps_per_iteration
            agent_frames += len(rows)
            s = torch.stack(stats)
            mean = s.mean(0).tolist()
            learnt = learns.nonzero()
            variance = returns[learnt].var()
            explained = 1 - (returns[learnt] - values_np[learnt]).var() / variance if variance > 0 else float("nan")
            now = time.perf_counter()
            if started is None:                                             # SPS counts from the end of the first iteration
                started, first_step, sps = now, global_step, steps_per_iteration / sum(clock.values())
            else:
                sps = (global_step - first_step) / (now - started)
            row = {
                "global_step": global_step, "iteration": iteration, "charts/SPS": round(sps), "charts/agent_frames": agent_frames,
                "charts/learning_rate": args.learning_rate, "charts/reward_abs": float(np.abs(rewards).mean()),
                "charts/games_finished": finished, "charts/games_truncated": truncated_games,
                "losses/policy_loss": mean[0], "losses/value_loss": mean[1], "losses/entropy": mean[2],
                "losses/approx_kl": s[-1, 3].item(), "losses/clipfrac": mean[4], "losses/grad_norm": mean[5],
                "losses/explained_variance": float(explained), "losses/first_ratio_error": s[0, 6].item(),
                "selfplay/history_games": len(history_scores), "selfplay/opponents": len(names) - 1,
                **({"selfplay/history_score": float(np.mean(history_scores))} if history_scores else {}),
                **{f"time/{name}": seconds for name, seconds in clock.items()}}
            append_jsonl(run / "metrics.jsonl", row)
            if args.track:
                wandb.log(row, step=global_step)
            console.print(f"{iteration:5d}  collected {steps_per_iteration}  steps {global_step:,}  SPS {sps:,.0f}  policy "
                          f"{mean[0]:+.4f}  value {mean[1]:.4f}  entropy {mean[2]:.2f}  KL {row['losses/approx_kl']:.4f}")
            progress.update(task, completed=iteration)

            # ------------------------------------------------------------------- history, checkpoints and evaluation
            if iteration % args.pool_interval == 0:
                name = pool.add(policy, "main", global_step, action_repeat=args.action_repeat)
                ratings.table[name] = [ratings.row("latest")[0], 0, 0, 0]   # a frozen copy is as strong as its original
            if args.eval_interval and (iteration % args.eval_interval == 0 or iteration == num_iterations):
                tick = time.perf_counter()
                report(evaluate(policy.eval(), args, global_step))
                started += time.perf_counter() - tick                       # SPS is that of training
            if iteration % args.save_interval == 0 or iteration == num_iterations:
                save()
                pool.prune({name for name in opponents if name})
        if stop:
            save()
    finally:
        progress.stop()
        envs.close()
        lock.close()
        if args.track:
            wandb.finish()

    if args.track_elo:
        table = Table("Rank", "Policy", "Elo", "W", "L", "D", title="Elo (start 1500)")
        for rank, (name, elo, wins, losses, draws) in enumerate(ratings.ranking(), 1):
            table.add_row(str(rank), name, f"{elo:.0f}", str(wins), str(losses), str(draws))
        console.print(table)
    if stop:
        console.print(f"stopped at step {global_step:,}; continue with: python ppo_selfplay.py --resume {run}")
        sys.exit(130)
    picture = plot_winrates(run)
    console.print(f"done: {checkpoint_path}" + (f", {picture}" if picture else ""))


if __name__ == "__main__":
    run_script(main, Args)
