"""A policy plays: games on the embedded game against a scripted bot, another policy, or itself.

    python play.py --policy policy.pt --opponent attacker                     # ten full games, a few seconds
    python play.py --policy policy.onnx --opponent other.pt --num-games 100
    python play.py --policy policy.pt --opponent policy.pt                    # the control: must come out even
    python play.py --policy policy.pt --opponent idle --record recordings     # a .slp file of every game

Every slot plays one game to its end, all side by side, with one forward per policy and frame: no game counts for being
short. The policy sits at port 1 in every other game. A draw is half a win, and the interval of the win rate is Wilson's.
Each policy decides as often as it was trained to (its action repeat) and holds its controller in between.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from melee_common import (
    BOT_SLOT, BOTS, CHARACTERS, CONTROLLER, FRAME, NUM_BUTTONS, NUM_LOGITS, STAGES, Observation, UserError, VecEnv, act,
    append_jsonl, check_numbers, check_writable, decode_actions, load_policy, lookup, observe, onnx_session, outcomes, run_script, schema_hash, wilson_interval, write_slp,
)

FRAMES_PER_MINUTE = 3600
MOST_LIKELY = torch.full((NUM_LOGITS,), 1 / np.e)                           # uniform numbers that become noise of 0: Gumbel at
MOST_LIKELY[:NUM_BUTTONS] = .5                                              # 1/e, logistic at .5 (all that an export can be told)


@dataclass
class Args:
    policy: str
    """the policy that plays: a checkpoint (.pt) or an exported policy (.onnx)"""
    opponent: str = "attacker"
    """a bot of the embedded game (idle, random, attacker) or another policy's file"""
    num_games: int = 10
    """games to play, all side by side"""
    character: str = "mewtwo"
    """the policy's character"""
    opponent_character: str = ""
    """the opponent's character (off: empty, the same)"""
    stage: str = "final_destination"
    """stage of every game"""
    max_episode_frames: int = 0
    """game frames after which the side ahead by stocks, then percent, wins; 3600 is a minute (off: 0, full games)"""
    record: str = ""
    """folder for a .slp file of every game (off: empty)"""
    results: str = ""
    """file to which the result is appended as a line of JSON (off: empty; with --record: results.jsonl in its folder)"""
    deterministic: bool = False
    """policies take their most likely action; sampling usually plays better"""
    seed: int = 1
    """seed of games and sampling"""
    num_workers: int = 0
    """processes that step the games (off: 0, in this process, which is fastest for the embedded game)"""


class OnnxPolicy:
    """An exported policy with `initial_state` and `step` of Policy, so that `act` does not know the difference."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise UserError(f"{path}: no such file; check the path, or write it with export_onnx.py")
        try:
            self.session = onnx_session(path.read_bytes())
        except Exception:  # onnxruntime has an exception type for each way a file can be bad
            raise UserError(f"{path}: not a readable ONNX file; export the checkpoint again with export_onnx.py") from None
        self.metadata = self.session.get_modelmeta().custom_metadata_map
        if self.metadata.get("program") != "CleanMelee":
            raise UserError(f"{path}: an ONNX file, but no CleanMelee policy; write one with export_onnx.py")
        if self.metadata["schema"] != schema_hash():
            raise UserError(f"{path}: exported for frame schema {self.metadata['schema']}, this code has {schema_hash()}; "
                            "export a checkpoint of this revision")
        self.state_shapes = [i.shape[1:] for i in self.session.get_inputs() if i.name.startswith("state_")]

    def initial_state(self, batch: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.zeros(batch, *shape) for shape in self.state_shapes)

    def step(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple[torch.Tensor, tuple]:
        if noise is None:
            noise = MOST_LIKELY.repeat(len(obs.floats), 1)
        feed = {"floats": obs.floats.numpy(), "ints": obs.ints.numpy(), "noise": noise.numpy(),
                **{f"state_{k}": s.numpy() for k, s in enumerate(state)}}
        actions, *state = self.session.run(None, feed)                      # [B, 13], [B, H] ...
        return torch.from_numpy(actions), tuple(map(torch.from_numpy, state))


def load_player(file: str):
    """-> policy, its action repeat."""
    path = Path(file)
    if path.suffix == ".onnx":
        policy = OnnxPolicy(path)
        facts = policy.metadata
    else:
        policy, facts = load_policy(path)
    if int(facts.get("frame_delay", 0)):
        raise UserError(f"{path}: trained for a delay of {facts['frame_delay']} frames; this game has none")
    return policy, int(facts.get("action_repeat", 1))


def main(args: Args) -> None:
    opponent_character = args.opponent_character or args.character
    own, other = (lookup(CHARACTERS, name, "character") for name in (args.character, opponent_character))
    stage = lookup(STAGES, args.stage, "stage")
    check_numbers(args, num_games=(1, 65536), num_workers=(0, args.num_games), max_episode_frames=(0, 10 ** 9))
    bot = args.opponent in BOTS
    if not bot and not Path(args.opponent).is_file():
        raise UserError(f"unknown opponent {args.opponent!r}: choose one of {', '.join(BOTS)}, or the file of a policy")
    itself = not bot and Path(args.opponent).resolve() == Path(args.policy).resolve()

    policy, repeat = load_player(args.policy)
    policies, repeats = [policy], [repeat]
    if not bot and not itself:
        policy, repeat = load_player(args.opponent)
        policies, repeats = [*policies, policy], [*repeats, repeat]
    results = Path(args.results) if args.results else Path(args.record) / "results.jsonl" if args.record else None
    if args.record:
        check_writable("--record", Path(args.record) / "game.slp")
        numbers = [path.name.split("_")[1] for path in Path(args.record).glob("game_*_*.slp")]
        first_number = 1 + max((int(n) for n in numbers if n.isdigit()), default=0)  # older recordings stay
    if results:
        check_writable("--results", results)
    if args.deterministic:
        print("warning: --deterministic: a cloned policy that always takes its most likely action tends to stand still; "
              "sampling usually plays better", file=sys.stderr)
    torch.set_num_threads(1)                                                # a batch this small only waits for other threads

    # ----------------------------------------------------------------------------------------------------- who sits where
    N = args.num_games
    slots = np.arange(N)
    side = slots % 2                                                        # the policy's player index, game by game
    characters, bot_kinds = np.full((N, 2), other), np.zeros((N, 2), int)
    assignment = np.full((N, 2), BOT_SLOT if bot else len(policies) - 1)    # against itself: 0 on both sides
    characters[slots, side], assignment[slots, side] = own, 0
    if bot:
        bot_kinds[slots, 1 - side] = BOTS[args.opponent]
    decides_every = np.array([*repeats, 1])[assignment]                     # [N, 2] frames; BOT_SLOT is the last entry
    generator = None if args.deterministic else torch.Generator().manual_seed(args.seed)
    name, opponent_name = Path(args.policy).name, args.opponent if bot else "itself" if itself else Path(args.opponent).name
    names = {int(k): short for short, k in CHARACTERS.items()}

    # -------------------------------------------------------------------------------------------------------------- games
    finished, lengths = np.zeros(N, bool), np.zeros(N, int)
    final, damage = np.zeros(N, FRAME), np.zeros((N, 2))                    # damage taken
    recordings = [[] for _ in slots]                                        # bytes of (frame, its controllers), game by game
    interrupted = False
    progress = Progress(TextColumn("games"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(),
                        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with progress, torch.inference_mode(), VecEnv(
            N, characters, stage, seed=args.seed, num_workers=args.num_workers, bot_kinds=bot_kinds,
            max_episode_frames=args.max_episode_frames) as envs:
        task = progress.add_task("games", total=N)
        states, begins = [p.initial_state(2 * N) for p in policies], np.ones(N, bool)
        stocks = envs.frames["players"]["stocks"].copy()                    # [N, 2] at the start
        try:
            while not finished.all():
                if args.record:
                    for g in np.flatnonzero(begins & ~finished):
                        recordings[g] = [(envs.frames[g].tobytes(), envs.controllers[g].tobytes())]

                # policies decide where it is their turn; everyone else holds the controller
                turn = (assignment != BOT_SLOT) & ~finished[:, None] & (envs.games.episode_frames[:, None] % decides_every == 0)
                before, controllers = envs.frames["players"]["percent"].copy(), envs.controllers.copy()
                if turn.any():
                    actions = act(policies, np.where(turn, assignment, BOT_SLOT), observe(envs.frames, envs.controllers),
                                  states, begins, generator)
                    controllers[turn] = decode_actions(actions[turn])

                terminated, truncated, broken = envs.step(controllers)
                begins = terminated | truncated
                frames = np.where(begins, envs.final_frames, envs.frames)
                controllers = np.where(begins[:, None], envs.final_controllers, envs.controllers)  # those of bots, too

                playing = ~finished
                lengths += playing
                damage += np.maximum(frames["players"]["percent"] - before, 0) * playing[:, None]
                if broken.any():                                            # its worker died: the game starts over
                    lengths[broken & playing], damage[broken & playing] = 0, 0
                if args.record:
                    for g in np.flatnonzero(playing):
                        recordings[g].append((frames[g].tobytes(), controllers[g].tobytes()))
                for g in np.flatnonzero(begins & playing & ~broken):
                    final[g], finished[g] = frames[g], True
                    progress.advance(task)
                    if args.record:
                        who = "_vs_".join(names[int(k)] for k in characters[g])
                        players = (name, opponent_name) if side[g] == 0 else (opponent_name, name)
                        game = [np.frombuffer(b"".join(part), dtype) for part, dtype in zip(
                            zip(*recordings[g], strict=True), (FRAME, CONTROLLER), strict=True)]
                        path = Path(args.record) / f"game_{first_number + g:03d}_{who}.slp"
                        write_slp(path, game[0], game[1].reshape(-1, 2), names=players)
                        recordings[g] = []
        except KeyboardInterrupt:
            interrupted = True
        except OSError as error:
            raise UserError(f"--record {args.record}: cannot write a recording ({error.strerror}); "
                            "make room or choose another folder") from None

    # ------------------------------------------------------------------------------------------------------------- result
    done = np.flatnonzero(finished)
    if not len(done):
        print("interrupted before the first game ended: no result", file=sys.stderr)
        sys.exit(130)
    mine, theirs = (done, side[done]), (done, 1 - side[done])
    score = outcomes(final)[done] * (1 - 2 * side[done])                    # +1 win, 0 draw, -1 loss
    wins, losses, draws = (int((score == s).sum()) for s in (1, -1, 0))
    lost = stocks - final["players"]["stocks"]
    minutes = lengths[done].sum() / FRAMES_PER_MINUTE
    low, high = wilson_interval(wins + draws / 2, len(done))
    row = {
        "policy": name, "opponent": opponent_name, "character": args.character, "opponent_character": opponent_character,
        "stage": args.stage, "games": len(done), "wins": wins, "losses": losses, "draws": draws,
        "win_rate": (wins + draws / 2) / len(done), "win_rate_low": low, "win_rate_high": high,
        "stocks_taken": float(lost[theirs].mean()), "stocks_lost": float(lost[mine].mean()),
        "damage_dealt_per_minute": float(damage[theirs].sum() / minutes),
        "damage_taken_per_minute": float(damage[mine].sum() / minutes),
        "seconds_per_game": float(lengths[done].mean() / 60), "deterministic": args.deterministic, "seed": args.seed,
        "action_repeat": repeats[0], "max_episode_frames": args.max_episode_frames}
    table = Table("games", "W/L/D", "win rate [95 %]", "stocks +/-", "damage/min +/-", "length", title=(
        f"{name} ({args.character}) against {opponent_name} ({opponent_character}) on {args.stage}"))
    table.add_row(
        str(len(done)), f"{wins}/{losses}/{draws}", f"{row['win_rate']:.0%} [{low:.0%}, {high:.0%}]",
        f"{row['stocks_taken']:.1f}/{row['stocks_lost']:.1f}",
        f"{row['damage_dealt_per_minute']:.0f}/{row['damage_taken_per_minute']:.0f}", f"{row['seconds_per_game']:.0f} s")
    Console().print(table)
    if results:
        append_jsonl(results, row)
    if interrupted:
        print(f"interrupted: {N - len(done)} of {N} games did not end and do not count", file=sys.stderr)
        sys.exit(130)
    if args.record:
        print(f"recorded {N} games in {args.record}")


if __name__ == "__main__":
    run_script(main, Args)
