"""A policy plays: matches against a bot, another policy or itself on the embedded game, in Dolphin a computer or a person, too.

    python play.py --policy policy.pt --opponent attacker                     # ten full games, a few seconds
    python play.py --policy policy.onnx --opponent other.pt --num-games 100
    python play.py --policy policy.pt --opponent policy.pt                    # the control: must come out even
    python play.py --policy policy.pt --character fox,marth --stage battlefield,final_destination
    python play.py --tournament runs/NAME/pool --tournament-bots level1,level5 --max-episode-frames 3600
    python play.py --policy policy.pt --opponent idle --record recordings     # a .slp file of every game
    python play.py --policy policy.pt --async-inference --num-games 1         # 60 frames a second, whatever inference takes
    python play.py --policy policy.pt --game-type dolphin --dolphin EXECUTABLE --iso ISO --opponent cpu9
    python play.py --policy policy.pt --game-type dolphin --dolphin EXECUTABLE --iso ISO --opponent human --port 2
    python play.py --policy policy.pt --game-type dolphin --dolphin EXECUTABLE --iso ISO --opponent human \
                   --connect-code ABCD#123 --user-json user.json              # a person online who agreed

On the embedded game every slot plays one game to its end, all side by side, with one forward per policy and frame: no game
counts for being short. The policy sits at port 1 in every other game. A draw is half a win, and the interval of the win rate
is Wilson's. Each policy decides as often, and acts as late, as it was trained to.
"""

import collections
import concurrent.futures
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cleanmelee.cli import UserError, check_numbers, lookup, parse_names, run_script
from cleanmelee.dolphin import CPU_LEVELS, DOLPHIN_LIMITS, HUMAN, DolphinArgs, check_dolphin, check_netplay
from cleanmelee.evaluation import wilson_interval
from cleanmelee.files import append_jsonl, atomic_write, check_writable
from cleanmelee.frame import CHARACTERS, CONTROLLER, STAGES, outcomes
from cleanmelee.game import BOTS
from cleanmelee.pool import Pool, Ratings, fit_elo
from cleanmelee.recording import Recorder
from cleanmelee.runs import plot_payoff
from melee_common import (
    BOT_SLOT, NUM_BUTTONS, NUM_FLOATS, NUM_INTS, NUM_LOGITS, Observation, Policy, VecEnv, act, decode_actions,
    load_policy, mirrored, observe, onnx_session, schema_hash,
)

FRAME_TIME = 1 / 60                                                         # seconds; Melee's 59.94 Hz, near enough
FRAMES_PER_MINUTE = 3600
MOST_LIKELY = torch.full((NUM_LOGITS,), 1 / np.e)                           # uniform numbers that become noise of 0: Gumbel at
MOST_LIKELY[:NUM_BUTTONS] = .5                                              # 1/e, logistic at .5 (all that an export can be told)


@dataclass
class Args(DolphinArgs):
    policy: str = ""
    """the policy that plays: a checkpoint (.pt) or an exported policy (.onnx); needed but for a tournament"""
    opponent: str = "attacker"
    """a bot (idle, random, attacker, level1 to level9), another policy's file, or in Dolphin cpu1 to cpu9 and human"""
    game_type: Literal["mock", "dolphin"] = "mock"
    """the embedded game, or Slippi Dolphin with --dolphin and --iso"""
    port: int = 0
    """the policy's controller port, 1 or 2 (off: 0, each in half of the games, in Dolphin 1)"""
    opponent_port: int = 0
    """the opponent's controller port (off: 0, the other one)"""
    tournament: str = ""
    """folder of a pool, e.g. runs/NAME/pool: its active checkpoints play each other, --num-games a pair, half from either port;
    the folder gets tournament.json and tournament.png (off: empty)"""
    tournament_bots: str = ""
    """bots of the embedded game that enter the tournament, separated by commas (off: empty)"""
    max_pairs: int = 100
    """pairs that the tournament plays at most; of more, a random choice that connects everybody"""
    num_games: int = 10
    """games of each matchup; on the embedded game all side by side (0: until Ctrl-C, one after the other)"""
    on_game_end: Literal["restart", "stop"] = "restart"
    """after a game: the next one, until --num-games are played, or stop"""
    character: str = "mewtwo"
    """the policy's character; several, separated by commas, are played one by one"""
    opponent_character: str = ""
    """the opponent's character, or several (off: empty, the same as the policy's)"""
    stage: str = "final_destination"
    """stage, or several"""
    max_episode_frames: int = 0
    """game frames after which the side ahead by stocks, then percent, wins; 3600 is a minute (off: 0, full games)"""
    async_inference: bool = False
    """60 frames a second: inference runs beside the game, which takes the last action where the next one is late"""
    frame_delay: int = -1
    """frames between a decision and its effect, for the policy; refused if it was not trained for it (off: -1, as trained)"""
    action_repeat: int = 0
    """frames that the policy holds an action (off: 0, as trained)"""
    deterministic: bool = False
    """policies take their most likely action; sampling usually plays better"""
    record: str = ""
    """folder for a .slp file of every game (off: empty)"""
    results: str = "results.jsonl"
    """file to which a line of JSON is appended for every matchup (off: empty)"""
    seed: int = 1
    """seed of games and sampling"""
    num_workers: int = 0
    """processes that step the games (off: 0, in this process, which is fastest for the embedded game)"""
    connect_code: str = ""
    """whom to meet online, by Slippi's Direct code as ABCD#123, with --opponent human; only who agreed (off: empty)"""
    user_json: str = ""
    """user.json of the Slippi account that plays online; needed with --connect-code"""
    max_restarts: int = 20
    """workers, or Dolphins, that may fail within an hour; with one more the match ends, and the finished games count"""


# ---------------------------------------------------------------------------------------------------------------- players

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


@dataclass
class Player:
    """A policy, and how it was trained to act: every `action_repeat` frames, `frame_delay` frames late."""
    name: str
    policy: Policy | OnnxPolicy
    action_repeat: int = 1
    frame_delay: int = 0


def load_player(file: str) -> Player:
    path = Path(file)
    if path.suffix == ".onnx":
        policy = OnnxPolicy(path)
        facts = policy.metadata
    else:
        policy, facts = load_policy(path)
    return Player(path.name, policy, int(facts.get("action_repeat", 1)), int(facts.get("frame_delay", 0)))


def warm_up(players: list[Player], rows: int) -> None:
    """The first forwards take a hundred times longer than the others: not within a game."""
    obs = Observation(torch.zeros(rows, NUM_FLOATS), torch.zeros(rows, NUM_INTS, dtype=torch.int16))
    for player in players:
        for _ in range(10):
            player.policy.step(obs, player.policy.initial_state(rows), torch.full((rows, NUM_LOGITS), .5))


# ------------------------------------------------------------------------------------------------------------- the games

@dataclass
class Game:
    """One game that came to its end."""
    slot: int
    final: np.ndarray                                                       # FRAME
    frames: int                                                             # its length
    damage: np.ndarray                                                      # [2] percent that each player took
    stocks: np.ndarray                                                      # [2] at the start


@dataclass
class Pace:
    """How well decisions kept up with the game."""
    inference: collections.deque = field(default_factory=lambda: collections.deque(maxlen=100_000))  # seconds, the last ones
    frames: int = 0
    missed: int = 0                                                         # frames whose decision had not come in time
    seconds: float = 0.

    def row(self) -> dict:
        p50, p99 = np.percentile(self.inference, (50, 99)) * 1000 if self.inference else (0., 0.)
        return {"inference_ms_p50": float(p50), "inference_ms_p99": float(p99), "frames": self.frames,
                "frames_missed": self.missed, "frames_per_second": self.frames / max(self.seconds, 1e-9)}


class Inference:
    """The policies' decisions: made at once, or (asynchronous) in a thread of its own, which skips to the newest frame."""

    def __init__(self, players: list[Player], assignment: np.ndarray, generator: torch.Generator | None, pace: Pace,
                 asynchronous: bool):
        self.policies, self.assignment, self.generator, self.pace = [p.policy for p in players], assignment, generator, pace
        self.states = [policy.initial_state(assignment.size) for policy in self.policies]
        self.begins = np.zeros(len(assignment), bool)                       # games that began since the last decision
        self.thread = concurrent.futures.ThreadPoolExecutor(1) if asynchronous else None
        self.asked, self.futures = -1, collections.deque()

    def ask(self, tick: int, obs: Observation, mirror: np.ndarray, turn: np.ndarray, begins: np.ndarray) -> None:
        """tick: the question's number. mirror [N, 2]: who sees this frame `mirrored`. turn [N, 2]: who decides. begins [N]: games
        that begin with this frame."""
        self.asked = tick
        if self.thread:
            self.futures.append(self.thread.submit(self._decide, tick, obs, mirror, turn, begins))
        else:
            self.futures.append(concurrent.futures.Future())
            self.futures[-1].set_result(self._decide(tick, obs, mirror, turn, begins))

    def answers(self, until: float) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(tick, turn [N, 2], controllers [N, 2]) of the decisions made since the last call. Waits for the last question's,
        but no longer than `until`, in time.perf_counter's seconds."""
        concurrent.futures.wait(list(self.futures)[-1:], max(0., until - time.perf_counter()))
        while self.futures and self.futures[0].done():
            answer = self.futures.popleft().result()
            if answer is not None:
                yield answer

    def close(self) -> None:
        if self.thread:
            self.thread.shutdown(cancel_futures=True)

    def _decide(self, tick, obs, mirror, turn, begins):
        self.begins |= begins
        if tick < self.asked:                                               # a newer frame is waiting
            return None
        start = time.perf_counter()
        with torch.inference_mode():                                        # a setting of each thread
            deciding = np.where(turn, self.assignment, BOT_SLOT)
            actions = act(self.policies, deciding, obs, self.states, self.begins, self.generator)
        self.begins[:] = False
        self.pace.inference.append(time.perf_counter() - start)
        return tick, turn, decode_actions(actions, mirror)


def play(envs: VecEnv, players: list[Player], assignment: np.ndarray, num_games: int, generator: torch.Generator | None,
         pace: Pace, recorder: Recorder | None = None, asynchronous: bool = False, own_clock: bool = True) -> Iterator[Game]:
    """Plays `num_games` (0: without end) in every slot of `envs`, and yields each as it ends.

    assignment [N, 2]: which of `players` plays a slot; BOT_SLOT: the game itself does. generator None: likeliest actions.
    A decision from frame t makes frame t + 1 + delay; until the first has come, a game's controllers are neutral.
    asynchronous: 60 frames a second, and a decision that is late acts when it comes; the controller holds until then.
    own_clock: the game is as fast as we let it be; a Dolphin with a window keeps time itself."""
    N, sides = envs.num_games, np.arange(2)
    slots = np.arange(N)[:, None]
    repeat = np.array([*(p.action_repeat for p in players), 1])[assignment]     # [N, 2] frames; BOT_SLOT is the last entry
    delay = np.array([*(p.frame_delay for p in players), 0])[assignment]
    size = int(delay.max()) + 1
    queue = np.zeros((size, N, 2), CONTROLLER)                              # what acts at clock c lies at c % size
    newest = np.zeros((N, 2), CONTROLLER)                                   # the last decision, held until the next
    due = np.zeros((size, N, 2), bool)                                      # is a decision for that clock still to come?

    left = np.full(N, num_games or np.iinfo(np.int64).max)
    clock, damage = np.zeros(N, int), np.zeros((N, 2))                      # of the game that is on; percent taken
    stocks = envs.frames["players"]["stocks"].copy()
    begins, began_at = np.ones(N, bool), np.zeros(N, int)
    inference = Inference(players, assignment, generator, pace, asynchronous)
    tick, start = 0, time.perf_counter() - pace.seconds
    deadline = time.perf_counter()
    try:
        while (live := left > 0).any():
            if begins.any():
                queue[:, begins], newest[begins], due[:, begins] = np.zeros((), CONTROLLER), np.zeros((), CONTROLLER), False
                clock[begins], damage[begins], began_at[begins] = 0, 0, tick
                stocks[begins] = envs.frames["players"]["stocks"][begins]
                if recorder:
                    recorder.begin(np.flatnonzero(begins & live), envs.frames, envs.controllers)

            # policies decide where it is their turn; everyone else holds the controller
            turn = (assignment != BOT_SLOT) & live[:, None] & (clock[:, None] % repeat == 0)
            latest = (clock[:, None] + delay) % size
            queue[latest, slots, sides], due[latest, slots, sides] = newest, turn
            if turn.any():
                inference.ask(tick, observe(envs.frames, envs.controllers), mirrored(envs.frames), turn, begins)
            now = until = time.perf_counter()
            if asynchronous:                                                # a game that keeps time itself, or is late already,
                deadline = max(deadline + FRAME_TIME, now)                  # waits for half of a frame, Dolphin needs the other
                until = deadline if own_clock and deadline > now else now + FRAME_TIME / 2
            for asked_at, who, controllers in inference.answers(until):
                age = tick - asked_at
                who = who & (asked_at >= began_at)[:, None]                 # nothing from a game that is over
                newest[who] = controllers[who]
                for ahead in range(size):                                   # from its own time on, if that has not passed
                    now = (who & (ahead >= delay - age) & (ahead <= delay)).nonzero()
                    at = (clock[now[0]] + ahead) % size
                    queue[at, *now] = controllers[now]
                    due[at, *now] &= ahead != (delay - age)[now]
            if asynchronous and own_clock:
                time.sleep(max(0., deadline - time.perf_counter()))

            before = envs.frames["players"]["percent"].copy()
            acting = clock[:, None] % size
            pace.missed += int((due[acting, slots, sides] & (assignment == 0)).any(1).sum())
            terminated, truncated, broken = envs.step(queue[acting, slots, sides])
            begins = terminated | truncated
            frames = np.where(begins, envs.final_frames, envs.frames)
            controllers = np.where(begins[:, None], envs.final_controllers, envs.controllers)  # those of bots, too
            clock += 1
            tick += 1
            damage += np.maximum(frames["players"]["percent"] - before, 0)
            pace.frames, pace.seconds = pace.frames + int((live & ~broken).sum()), time.perf_counter() - start

            if recorder:
                for g in np.flatnonzero(broken & live):                     # a worker died, or in Dolphin somebody left
                    recorder.end(g, "NoContest") if envs.dolphin and clock[g] > 1 else recorder.drop(g)
                recorder.add(np.flatnonzero(live & ~broken), frames, controllers)
            for g in np.flatnonzero(begins & live & ~broken):
                if recorder:
                    recorder.end(g)
                left[g] -= 1
                yield Game(int(g), frames[g].copy(), int(clock[g]), damage[g].copy(), stocks[g].copy())
    finally:
        inference.close()
        if recorder:
            recorder.close()


# --------------------------------------------------------------------------------------------------------------- results

def poisson_interval(events: int, minutes: float) -> tuple[float, float]:
    """95 % interval of a rate per minute. Byar's approximation (Breslow and Day 1987)."""
    low = events * (1 - 1 / (9 * events) - 1.96 / (3 * events ** .5)) ** 3 if events else 0.
    high = (events + 1) * (1 - 1 / (9 * (events + 1)) + 1.96 / (3 * (events + 1) ** .5)) ** 3
    return low / minutes, high / minutes


def ratio_interval(values: np.ndarray, sizes: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of sum(values) / sum(sizes), at least 0, from how games differ; one game says nothing of that."""
    n = len(values)
    if n < 2:
        return None, None
    ratio = values.sum() / sizes.sum()
    error = 1.96 * float(np.sqrt(((values - ratio * sizes) ** 2).sum() * n / (n - 1)) / sizes.sum())
    return max(0., float(ratio) - error), float(ratio) + error


def statistics(games: list[Game], sides: list[int]) -> dict:
    """What the games of one matchup say. sides: the policy's player index in each."""
    side, all_games = np.array(sides), np.arange(len(games))
    score = outcomes(np.stack([game.final for game in games])) * (1 - 2 * side)  # +1 win, 0 draw, -1 loss
    wins, losses, draws = (int((score == s).sum()) for s in (1, -1, 0))
    lost = np.stack([game.stocks - game.final["players"]["stocks"].astype(int) for game in games])  # [games, 2]
    damage, lengths = np.stack([game.damage for game in games]), np.array([game.frames for game in games])
    mine, theirs = (all_games, side), (all_games, 1 - side)
    minutes = lengths.sum() / FRAMES_PER_MINUTE
    row = {"games": len(games), "wins": wins, "losses": losses, "draws": draws, "win_rate": (wins + draws / 2) / len(games)}
    row["win_rate_low"], row["win_rate_high"] = wilson_interval(wins + draws / 2, len(games))
    row |= {"stocks_taken": float(lost[theirs].mean()), "stocks_lost": float(lost[mine].mean()),
            "damage_dealt_per_minute": float(damage[theirs].sum() / minutes),
            "damage_taken_per_minute": float(damage[mine].sum() / minutes)}
    for name, values, sizes in (("stocks_taken", lost[theirs], lengths ** 0), ("stocks_lost", lost[mine], lengths ** 0),
                                ("damage_dealt_per_minute", damage[theirs], lengths / FRAMES_PER_MINUTE),
                                ("damage_taken_per_minute", damage[mine], lengths / FRAMES_PER_MINUTE)):
        row[f"{name}_low"], row[f"{name}_high"] = ratio_interval(values, sizes)
    for name, who in (("kos", theirs), ("deaths", mine)):
        row[f"{name}_per_minute"] = float(lost[who].sum() / minutes)
        row[f"{name}_per_minute_low"], row[f"{name}_per_minute_high"] = poisson_interval(int(lost[who].sum()), minutes)
    return row | {"seconds_per_game": float(lengths.mean() / 60)}


def print_table(title: str, rows: list[dict]) -> None:
    table = Table("own", "opponent", "stage", "games", "W/L/D", "win rate [95 %]", "stocks +/-", "damage/min +/-",
                  "KOs/min [95 %]", "deaths/min [95 %]", "length", title=title)
    for row in rows:
        rates = (f"{row[rate]:.2f} [{row[f'{rate}_low']:.2f}, {row[f'{rate}_high']:.2f}]"
                 for rate in ("kos_per_minute", "deaths_per_minute"))
        table.add_row(
            row["character"], row["opponent_character"], row["stage"], str(row["games"]),
            f"{row['wins']}/{row['losses']}/{row['draws']}",
            f"{row['win_rate']:.0%} [{row['win_rate_low']:.0%}, {row['win_rate_high']:.0%}]",
            f"{row['stocks_taken']:.1f}/{row['stocks_lost']:.1f}",
            f"{row['damage_dealt_per_minute']:.0f}/{row['damage_taken_per_minute']:.0f}", *rates,
            f"{row['seconds_per_game']:.0f} s")
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)        # a file has no width of its own


# ------------------------------------------------------------------------------------------------------------ tournament

def draw_pairs(entrants: int, limit: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """At most `limit` of all pairs: a chain through everybody in random order, since strengths can be compared only where games
    connect them, then any others."""
    order = rng.permutation(entrants).tolist()
    chain = [(min(pair), max(pair)) for pair in zip(order, order[1:], strict=False)]
    others = sorted(set(combinations(range(entrants), 2)) - set(chain))
    return sorted(chain + [others[k] for k in rng.permutation(len(others))[:limit - len(chain)]])


def load_entrants(pool: Pool, bots: list[str]) -> tuple[list[str], list[Player]]:
    """-> names of all entrants, the policies first, and the policies. A checkpoint that cannot be read stays away."""
    names, players = [], []
    for name in pool.ids():
        try:
            players.append(load_player(str(pool.path(name))))
            names.append(name)
        except UserError as error:
            print(f"warning: does not take part: {error}", file=sys.stderr)
    if len(names) + len(bots) < 2:
        raise UserError(f"--tournament {pool.directory}: {len(names) + len(bots)} entrants, and at least two are needed; train "
                        "longer, or let bots enter with --tournament-bots")
    return names + bots, players


def print_standings(standings: list[dict], ratings: Ratings, title: str) -> None:
    """Strengths, and who scored how much against whom: the row's score against the column's number, in percent."""
    names = [row["id"] for row in standings]
    table = Table("#", "entrant", "Elo [95 %]", "games", "W/L/D", *map(str, range(1, len(names) + 1)), title=title)
    for rank, row in enumerate(standings, 1):
        scores = (ratings.payoff[row["id"]].get(other) for other in names)
        table.add_row(
            str(rank), row["id"], f"{row['elo']:.0f} [{row['elo_low']:.0f}, {row['elo_high']:.0f}]", str(row["games"]),
            f"{row['wins']}/{row['losses']}/{row['draws']}",
            *("" if cell is None else f"{100 * (cell[0] + cell[1] / 2) / sum(cell):.0f}" for cell in scores))
    console = Console()
    Console(width=None if console.is_terminal else 120 + 6 * len(names)).print(table)


def tournament(args: Args) -> None:
    folder = Path(args.tournament)
    check_numbers(args, num_games=(2, 65536), max_pairs=(1, 65536), num_workers=(0, 65536), max_episode_frames=(0, 10 ** 9))
    used = {"tournament", "tournament_bots", "max_pairs", "num_games", "character", "stage", "max_episode_frames",
            "deterministic", "seed", "num_workers"}
    for name, value in vars(args).items():
        if name not in used and value != getattr(Args, name):
            raise UserError(f"--{name.replace('_', '-')} {value}: means nothing in a tournament; leave it out")
    if args.num_games % 2:
        raise UserError(f"--num-games {args.num_games}: must be even in a tournament, since half are played from either port")
    character, stage = lookup(CHARACTERS, args.character, "character"), lookup(STAGES, args.stage, "stage")
    bots = parse_names(args.tournament_bots, BOTS, "bot") if args.tournament_bots else []
    if len(set(bots)) < len(bots):
        raise UserError(f"--tournament-bots {args.tournament_bots}: names a bot twice")
    if not folder.is_dir() or not any(folder.glob("*_*.pt")):
        raise UserError(f"--tournament {folder}: no pool with checkpoints; give the folder of one, e.g. runs/NAME/pool")
    check_writable("--tournament", folder / "tournament.json")
    torch.set_num_threads(1)                                                # a batch this small only waits for other threads
    names, players = load_entrants(Pool(folder), bots)
    if args.max_pairs < len(names) - 1:
        raise UserError(f"--max-pairs {args.max_pairs}: {len(names)} entrants are connected by {len(names) - 1} pairs or more")
    pairs = draw_pairs(len(names), args.max_pairs, np.random.default_rng(args.seed))
    N = len(pairs) * args.num_games
    if N > 65536:
        raise UserError(f"--num-games {args.num_games}: {len(pairs)} pairs are {N} games, and at most 65536 are possible; play "
                        "fewer, or lower --max-pairs")

    # ---------------------------------------------------------------------------------------------------- who sits where
    seats = np.repeat(pairs, args.num_games, 0)                             # [N, 2] entrants, by port
    seats[1::2] = seats[1::2, ::-1]
    assignment = np.where(seats < len(players), seats, BOT_SLOT)
    bot_kinds = np.array([0] * len(players) + [BOTS[name] for name in bots])[seats]
    generator = None if args.deterministic else torch.Generator().manual_seed(args.seed)
    ratings, pace, interrupted = Ratings(), Pace(), False
    progress = Progress(TextColumn("games"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(),
                        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    try:
        with progress, VecEnv(N, character, stage, seed=args.seed, num_workers=min(args.num_workers, N), bot_kinds=bot_kinds,
                              max_episode_frames=args.max_episode_frames) as envs:
            task = progress.add_task("games", total=N)
            for game in play(envs, players, assignment, 1, generator, pace):
                one, two = (names[k] for k in seats[game.slot])
                ratings.record(one, two, (1 + float(outcomes(game.final[None])[0])) / 2)
                progress.advance(task)
    except KeyboardInterrupt:
        interrupted = True
    done = sum(row[1] + row[2] + row[3] for row in ratings.table.values()) // 2
    if not done:
        print("interrupted before the first game ended: no result", file=sys.stderr)
        sys.exit(130)

    # ------------------------------------------------------------------------------------------------------------- result
    strengths, standings = fit_elo(ratings.payoff), []
    for name in sorted(strengths, key=lambda name: -strengths[name][0]):
        (elo, low, high), (_, wins, losses, draws) = strengths[name], ratings.table[name]
        standings.append({"id": name, "elo": elo, "elo_low": low, "elo_high": high, "games": wins + losses + draws,
                          "wins": wins, "losses": losses, "draws": draws})
    print_standings(standings, ratings, f"{len(names)} entrants, {len(pairs)} pairs, {done} games of {args.character} on "
                                        f"{args.stage}")
    if interrupted:
        print(f"interrupted: {N - done} of {N} games did not end and do not count; nothing is written", file=sys.stderr)
        sys.exit(130)
    facts = {"num_games": args.num_games, "character": args.character, "stage": args.stage, "seed": args.seed,
             "max_episode_frames": args.max_episode_frames, "deterministic": args.deterministic}
    result = {**facts, "standings": standings, "payoff": ratings.payoff}
    plot_payoff(folder / "tournament.png", [row["id"] for row in standings], ratings.payoff)
    atomic_write(folder / "tournament.json", (json.dumps(result, indent=1) + "\n").encode())
    print(f"{folder / 'tournament.json'}, {folder / 'tournament.png'}; {pace.row()['frames_per_second']:,.0f} frames/s")


# ------------------------------------------------------------------------------------------------------------------ main

def main(args: Args) -> None:
    if args.tournament:
        return tournament(args)
    if not args.policy:
        raise UserError("--policy is missing: name the checkpoint or exported policy that plays, or a pool with --tournament")
    check_numbers(args, port=(0, 2), opponent_port=(0, 2), num_games=(0, 65536), num_workers=(0, 65536),
                  max_episode_frames=(0, 10 ** 9), max_restarts=(0, 10 ** 9), frame_delay=(-1, 3600), action_repeat=(0, 3600),
                  **DOLPHIN_LIMITS)
    live = args.game_type == "dolphin"
    if args.opponent_port and args.opponent_port == args.port:
        raise UserError(f"--opponent-port {args.opponent_port}: the policy sits there; give it another --port")
    port = args.port or args.opponent_port and 3 - args.opponent_port or int(live)
    split = [[name.strip() for name in names.split(",")] for names in (args.character, args.opponent_character, args.stage)]
    matchups = [(own, other or own, stage) for own, other, stage in product(*split)]
    for own, other, stage in matchups:
        lookup(CHARACTERS, own, "character"), lookup(CHARACTERS, other, "character"), lookup(STAGES, stage, "stage")
    num_games = 1 if args.on_game_end == "stop" else args.num_games
    if not num_games and len(matchups) > 1:
        raise UserError(f"--num-games 0 plays one matchup without end, and here are {len(matchups)}; say how many games of "
                        "each")
    if len(matchups) * num_games > 65536:
        raise UserError(f"--num-games {num_games}: {len(matchups)} matchups are {len(matchups) * num_games} games, and at most "
                        "65536 are possible; play fewer")
    level = HUMAN if args.opponent == "human" else CPU_LEVELS.get(args.opponent, 0)
    if level and not live:
        raise UserError(f"--opponent {args.opponent}: needs Dolphin, with --game-type dolphin, --dolphin and --iso")
    bot = bool(level) or args.opponent in BOTS
    if not bot and not Path(args.opponent).is_file():
        raise UserError(f"unknown opponent {args.opponent!r}: choose one of {', '.join(BOTS)}, in Dolphin cpu1 to cpu9 or "
                        "human, or the file of a policy")
    if live and args.instant_restart:
        raise UserError("--instant-restart: it takes stages at random, and a match has one; leave it out")
    args.headless &= level != HUMAN                                         # a person wants to see something
    if args.connect_code:
        for wrong, rule in ((level != HUMAN, "the other side is a person: it needs --opponent human"),
                            (args.port == 2 or args.opponent_port, "Slippi decides who sits where: leave the ports out"),
                            (len(matchups) > 1, "one character and one stage at a time"),
                            (args.character == "zelda", "libmelee cannot choose zelda online")):
            if wrong:
                raise UserError(f"--connect-code {args.connect_code}: {rule}")
        check_netplay(args)
    elif args.user_json:
        raise UserError(f"--user-json {args.user_json}: needs --connect-code")
    if live:
        check_dolphin(args)

    players = [load_player(args.policy)]
    itself = not bot and Path(args.opponent).resolve() == Path(args.policy).resolve()
    if args.frame_delay not in (-1, players[0].frame_delay):
        raise UserError(f"--frame-delay {args.frame_delay}: {args.policy} was trained for a delay of {players[0].frame_delay} "
                        "frames and plays with no other; leave the flag out, or train a policy for it")
    players[0].action_repeat = args.action_repeat or players[0].action_repeat
    if not bot and not itself:
        players.append(load_player(args.opponent))
    name, opponent_name = players[0].name, args.opponent if bot else "itself" if itself else players[1].name
    if args.results:
        check_writable("--results", Path(args.results))
    if args.deterministic:
        print("warning: --deterministic: a cloned policy that always takes its most likely action tends to stand still; "
              "sampling usually plays better", file=sys.stderr)
    torch.set_num_threads(1)                                                # a batch this small only waits for other threads

    # ---------------------------------------------------------------------------------------------------- who sits where
    # fixtures: (matchup, the policy's player index). All are played side by side, or in real time one after the other.
    seats = [port - 1] if port else [0, 1]
    fixtures = [(m, seats[k % len(seats)]) for m in range(len(matchups)) for k in range(max(1, num_games))]
    if live or args.async_inference or not num_games:
        sessions = [([fixture], num_games and fixtures.count(fixture)) for fixture in dict.fromkeys(fixtures)]
    else:
        sessions = [(fixtures, 1)]
    recorder = Recorder(args.record, len(sessions[0][0])) if args.record else None
    warm_up(players, 2 * len(sessions[0][0]))

    generator = None if args.deterministic else torch.Generator().manual_seed(args.seed)
    played = [[] for _ in matchups]                                         # of each matchup: (Game, the policy's side)
    paces = [Pace() for _ in matchups] if len(sessions) > 1 else [Pace()] * len(matchups)  # side by side they share one
    interrupted, failure = False, None
    progress = Progress(TextColumn("games"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(),
                        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    try:
        with progress:
            task = progress.add_task("games", total=len(fixtures) if num_games else None)
            for fixtures, games in sessions:
                N, side = len(fixtures), np.array([side for _, side in fixtures])
                slots = np.arange(N)
                characters, stages = np.zeros((N, 2), int), np.zeros(N, int)
                bot_kinds, levels = np.zeros((N, 2), int), np.zeros((N, 2), int)
                for g, (m, mine) in enumerate(fixtures):
                    characters[g, [mine, 1 - mine]] = [CHARACTERS[who] for who in matchups[m][:2]]
                    stages[g] = STAGES[matchups[m][2]]
                assignment = np.full((N, 2), BOT_SLOT if bot else len(players) - 1)  # against itself: 0 on both sides
                assignment[slots, side] = 0
                bot_kinds[slots, 1 - side], levels[slots, 1 - side] = BOTS.get(args.opponent, 0), level
                if recorder:
                    recorder.names = [(name, opponent_name)[::1 - 2 * mine] for mine in side]
                    recorder.cpu_levels = np.maximum(levels, 0).tolist()    # a person is none
                with VecEnv(N, characters, stages, seed=args.seed, num_workers=min(args.num_workers, N), bot_kinds=bot_kinds,
                            cpu_levels=levels, max_episode_frames=args.max_episode_frames, max_restarts=args.max_restarts,
                            dolphin=args if live else None) as envs:
                    for game in play(envs, players, assignment, games, generator, paces[fixtures[0][0]], recorder,
                                     args.async_inference, own_clock=args.headless or not live):
                        played[fixtures[game.slot][0]].append((game, fixtures[game.slot][1]))
                        progress.advance(task)
    except KeyboardInterrupt:
        interrupted = True
    except UserError as error:                                              # Dolphin is gone for good: what was played counts
        failure = error

    # ------------------------------------------------------------------------------------------------------------- result
    done = sum(map(len, played))
    if failure and not done:
        raise failure
    if not done:
        print("interrupted before the first game ended: no result", file=sys.stderr)
        sys.exit(130)
    facts = {"game_type": args.game_type, "deterministic": args.deterministic, "seed": args.seed,
             "action_repeat": players[0].action_repeat, "frame_delay": players[0].frame_delay,
             "async_inference": args.async_inference, "max_episode_frames": args.max_episode_frames}
    rows = [{"policy": name, "opponent": opponent_name, "character": own, "opponent_character": other, "stage": stage,
             **statistics(*zip(*games, strict=True)), **facts,
             **(pace.row() if len(sessions) > 1 or len(matchups) == 1 else {})}  # a pace that is the matchup's own
            for (own, other, stage), games, pace in zip(matchups, played, paces, strict=True) if games]
    if level == HUMAN:                                                      # who chose a character, and online maybe the stage
        for row, games in zip(rows, filter(None, played), strict=True):
            finals, theirs = np.stack([game.final for game, _ in games]), [1 - side for _, side in games]
            chosen = finals["players"]["character"][np.arange(len(games)), theirs]
            row["opponent_character"] = ", ".join(name for name, k in CHARACTERS.items() if k in chosen) or "other"
            row["stage"] = ", ".join(name for name, k in STAGES.items() if k in finals["stage"])
    print_table(f"{name} against {opponent_name}", rows)
    whole = Pace()
    for pace in {id(pace): pace for pace in paces}.values():
        whole.inference.extend(pace.inference)
        whole.frames, whole.missed, whole.seconds = (
            whole.frames + pace.frames, whole.missed + pace.missed, whole.seconds + pace.seconds)
    speed = whole.row()
    print(f"inference {speed['inference_ms_p50']:.2f} ms (99th percentile {speed['inference_ms_p99']:.2f}), "
          f"{speed['frames_missed']:,} of {speed['frames']:,} frames missed, {speed['frames_per_second']:,.1f} frames/s")
    if args.results:
        for row in rows:
            append_jsonl(Path(args.results), row)
    if recorder:
        print(f"recorded {recorder.recorded} games in {args.record}")
    if interrupted:
        unplayed = f"{num_games * len(matchups) - done} of {num_games * len(matchups)} games did not end and do not count"
        print(f"interrupted: {unplayed if num_games else 'the game that was on does not count'}", file=sys.stderr)
        sys.exit(130)
    if failure:
        raise failure
    if recorder and recorder.failed:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main, Args)
