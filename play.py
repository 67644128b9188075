"""A policy plays: matches against a bot, another policy or itself, a person at a page, a computer or person in Dolphin.

    python play.py --policy policy.pt --opponent attacker                     # ten full games, a few seconds
    python play.py --policy policy.onnx --opponent other.pt --num-games 100
    python play.py --policy policy.pt --opponent policy.pt                    # the control: must come out even
    python play.py --policy policy.pt --character fox,marth --stage battlefield,final_destination
    python play.py --tournament runs/NAME/pool --tournament-bots level1,level5 --max-episode-frames 3600
    python play.py --policy policy.pt --opponent idle --record recordings     # a .slp file of every game
    python play.py --policy policy.pt --async-inference --num-games 1         # 60 frames a second, come what may
    python play.py --policy policy.pt --game-type dolphin --dolphin EXECUTABLE --iso ISO --opponent cpu9
    python play.py --policy policy.pt --game-type dolphin --dolphin EXECUTABLE --iso ISO --opponent human --port 2
    python play.py --policy policy.pt --game-type dolphin --dolphin EXECUTABLE --iso ISO --opponent human \
                   --connect-code ABCD#123 --user-json user.json              # a person online who agreed
    python play.py --serve policy.pt                                          # play against it in a browser
    python play.py --watch recordings --policy policy.pt                      # see games there, and what it thinks

On the embedded game every slot plays one game to its end, all side by side, with one forward per policy and frame: no
game counts for being short. The policy sits at port 1 in every other game. A draw is half a win, and the interval of
the win rate is Wilson's. Each policy decides as often, and acts as late, as it was trained to.
"""

if __name__ == "__main__":
    import cleanmelee.startup                               # before the imports that take seconds

import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cleanmelee.cli import (
    COUNT_OR_OFF, PATH, SEEDS, Range, UserError, as_flag, check_ranges, lookup, parse_matchups, parse_names,
    run_script, to_flags,
)
from cleanmelee.controller import mirrored
from cleanmelee.dolphin import CPU_LEVELS, HUMAN, DolphinArgs, NetplayArgs, check_dolphin, check_netplay
from cleanmelee.files import append_jsonl, check_writable
from cleanmelee.frame import CHARACTERS, STAGES, outcomes
from cleanmelee.game import BOTS, warm_up as warm_up_game
from cleanmelee.games import BOT_SLOT, VecEnv
from cleanmelee.inference import Hands, Pace, warm_up
from cleanmelee.observation import observe
from cleanmelee.onnx import load_player
from cleanmelee.recording import Recorder
from cleanmelee.runs import best_checkpoint
from cleanmelee.statistics import Game, print_matchups, summarise
from cleanmelee.terminal import Terminal

FRAME_TIME = 1 / 60                                                         # seconds; Melee's 59.94 Hz, near enough
RUNS, RECORDINGS = Path("runs"), "recordings"                               # where `latest` looks, --serve records
MAX_GAMES = 65536                                                           # of one run, all matchups together


@dataclass
class Args:
    policy: Annotated[str, PATH] = ""
    """the policy that plays: a checkpoint (.pt), a run's folder or an exported policy (.onnx); needed but for a
    tournament and the page"""
    opponent: Annotated[str, PATH] = "attacker"
    """a bot (idle, random, attacker, level1 to level12), another policy, or in Dolphin cpu1 to cpu9 and human"""
    num_games: Annotated[int, Range(0, MAX_GAMES)] = 10
    """games of each matchup; on the embedded game all side by side (0: until Ctrl-C, one after the other)"""
    character: str = "mewtwo"
    """the policy's character; several, separated by commas, or low_tiers, top_tiers, all are played one by one"""
    opponent_character: str = ""
    """the opponent's character, or several (off: empty, the same as the policy's)"""
    stage: str = "final_destination"
    """stage, several, or all"""
    max_episode_frames: Annotated[int, COUNT_OR_OFF] = 0
    """game frames after which the side ahead by stocks, then percent, wins; 3600 is a minute; not in Dolphin (off: 0,
    full games)"""
    deterministic: bool = False
    """policies take their most likely action; sampling usually plays better"""
    seed: Annotated[int, SEEDS] = 1
    """seed of games and sampling"""
    results: Annotated[str, PATH] = "results.jsonl"
    """file to which a line of JSON is appended for every matchup (off: empty)"""
    record: Annotated[str, PATH] = ""
    """folder for a .slp file of every game (off: empty)"""

    port: Annotated[int, Range(0, 2)] = 0
    """the policy's controller port, 1 or 2 (off: 0, each in half of the games; in Dolphin, and with --num-games 0,
    always 1)"""
    opponent_port: Annotated[int, Range(0, 2)] = 0
    """the opponent's controller port (off: 0, the other one)"""
    on_game_end: Literal["restart", "stop"] = "restart"
    """after a game: the next one, until --num-games are played, or stop"""
    async_inference: bool = False
    """60 frames a second: inference runs beside the game, which takes the last action where the next one is late"""
    action_repeat: Annotated[int, Range(0, 3600)] = 0
    """frames that the policy holds an action (off: 0, as trained)"""
    frame_delay: Annotated[int, Range(-1, 3600)] = -1
    """frames between a decision and its effect, for the policy; refused if it was not trained for it (off: -1, as
    trained)"""
    target_return: Annotated[float | None, Range(-100, 100)] = None
    """discounted return, in stocks, that a policy cloned with --return-conditioning plays for (default: as its
    checkpoint says)"""
    player: str = ""
    """as whom a policy cloned with --player plays: a name that it was told there (default: as its file says)"""
    num_workers: Annotated[int, Range(0, 65536)] = 0
    """processes that step the games (off: 0, in this process, which is fastest for the embedded game)"""
    max_restarts: Annotated[int, COUNT_OR_OFF] = 20
    """workers, or Dolphins, that may fail within an hour; with one more the match ends, and the finished games count"""

    tournament: Annotated[str, PATH] = ""
    """folder of a pool, e.g. runs/NAME/pool: its active checkpoints play each other, --num-games a pair, half from
    either port; the folder gets tournament.json and tournament.png (off: empty)"""
    tournament_bots: str = ""
    """bots of the embedded game that enter the tournament, separated by commas (off: empty)"""
    max_pairs: Annotated[int, Range(1, 65536)] = 100
    """pairs that the tournament plays at most; of more, a random choice that connects everybody"""

    serve: Annotated[str, PATH] = ""
    """a page to play against this: a policy's file, the folder of a run (its checkpoints and pool), latest for the
    newest of runs/, or a bot; games are recorded to --record, by default recordings (off: empty)"""
    watch: Annotated[str, PATH] = ""
    """a page that shows a .slp file, or those in a folder and below, latest for the newest of runs/; with --policy,
    what that checkpoint thinks of each frame (off: empty)"""
    host: str = ""
    """the address at which the page is to be had, for other machines too, with a token in the link (off: empty, for
    this machine alone)"""
    web_port: Annotated[int, Range(0, 65535)] = 8060
    """the page's TCP port (off: 0, any that is free)"""

    game_type: Literal["mock", "dolphin"] = "mock"
    """the embedded game, or Slippi Dolphin with --dolphin and --iso"""
    connect_code: str = ""
    """whom to meet online, by Slippi's Direct code as ABCD#123, with --opponent human; only who agreed (off: empty)"""
    user_json: Annotated[str, PATH] = ""
    """user.json of the Slippi account that plays online; needed with --connect-code"""
    live: Annotated[DolphinArgs, tyro.conf.arg(name="")] = field(default_factory=DolphinArgs)


# ------------------------------------------------------------------------------------------------------------ the games

def play(envs: VecEnv, policies: list, assignment: np.ndarray, num_games: int, rng: np.random.Generator | None,
         pace: Pace, recorder: Recorder | None = None, asynchronous: bool = False, own_clock: bool = True
         ) -> Iterator[Game]:
    """Plays `num_games` (0: without end) in every slot of `envs`, and yields each as it ends.

    assignment [N, 2]: which of `policies` plays a slot; BOT_SLOT: the game itself does
    rng: of the noise, None for likeliest actions
    asynchronous: 60 frames a second; a decision that is late acts when it comes, the controller holds until then
    own_clock: the game is as fast as we let it be; a Dolphin with a window keeps time itself"""
    N = envs.num_games
    left = np.full(N, num_games or np.iinfo(np.int64).max)
    damage = np.zeros((N, 2))                                               # percent taken in the game that is on
    stocks = envs.frames["players"]["stocks"].copy()                        # at its start
    begins = np.ones(N, bool)
    hands = Hands(policies, assignment, rng, pace, asynchronous)
    start = time.perf_counter() - pace.seconds
    deadline = time.perf_counter()
    try:
        while (live := left > 0).any():
            # ----------------------------------------------------------------------------------------- games that begin
            hands.advance(begins)
            if begins.any():
                damage[begins] = 0
                stocks[begins] = envs.frames["players"]["stocks"][begins]
                if recorder:
                    recorder.begin(np.flatnonzero(begins & live), envs.frames, envs.controllers)

            # -------------------- decisions: policies decide where it is their turn; everyone else holds the controller
            turn = hands.turn(live)
            if turn.any():
                hands.ask(observe(envs.frames, envs.controllers, hands.pending()), mirrored(envs.frames), turn, begins)
            now = until = time.perf_counter()
            if asynchronous:
                # a game that keeps time itself, or is late already, waits for half a frame; Dolphin needs the other
                deadline = max(deadline + FRAME_TIME, now)
                until = deadline if own_clock and deadline > now else now + FRAME_TIME / 2
            acting = hands.take(until)
            if asynchronous and own_clock:
                time.sleep(max(0., deadline - time.perf_counter()))

            # ------------------------------------------------------------------------------------------- the next frame
            before = envs.frames["players"]["percent"].copy()
            terminated, truncated, broken = envs.step(acting)
            begins = terminated | truncated
            frames = np.where(begins, envs.final_frames, envs.frames)
            controllers = np.where(begins[:, None], envs.final_controllers, envs.controllers)  # those of bots, too
            damage += np.maximum(frames["players"]["percent"] - before, 0)
            pace.frames += int((live & ~broken).sum())
            pace.seconds = time.perf_counter() - start

            # ------------------------------------------------------------------------------------------- games that end
            if recorder:
                for g in np.flatnonzero(broken & live):                     # a worker died, or in Dolphin somebody left
                    if envs.dolphin and hands.clock[g] > 0:
                        recorder.end(g, "NoContest")
                    else:
                        recorder.drop(g)
                recorder.add(np.flatnonzero(live & ~broken), frames, controllers)
            for g in np.flatnonzero(begins & live & ~broken):
                if recorder:
                    recorder.end(g)
                left[g] -= 1
                yield Game(int(g), frames[g].copy(), int(hands.clock[g]) + 1, damage[g].copy(), stocks[g].copy())
    finally:
        hands.close()
        if recorder:
            recorder.close()


def progress_bar() -> Progress:
    return Progress(TextColumn("games"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(),
                    console=Terminal(stderr=True), transient=True, disable=not sys.stderr.isatty())


def check_games(flags: str, games: int) -> None:
    """Raises UserError for more games than one run may have; `flags` says where they come from."""
    if games > MAX_GAMES:
        raise UserError(f"{flags} are {games} games, and at most {MAX_GAMES} are possible; play fewer")


# ----------------------------------------------------------------------------------------------------------- tournament

TOURNAMENT_FLAGS = {"tournament", "tournament_bots", "max_pairs", "num_games", "character", "stage",
                    "max_episode_frames", "deterministic", "seed", "num_workers"}


def tournament(args: Args) -> None:
    """Everybody in the pool against everybody, or against as many as --max-pairs allows: strengths on one scale."""
    from cleanmelee.pool import Ratings                                     # here, as in `page`: these take torch
    from cleanmelee.tournament import enter, print_standings, standings, write_tournament
    only_known(args, TOURNAMENT_FLAGS, "in a tournament")
    if args.num_games < 2 or args.num_games % 2:
        raise UserError(f"--num-games {args.num_games}: must be even in a tournament, and 2 or more, since half are "
                        "played from either port")
    character = lookup(CHARACTERS, args.character, "character")
    stage = lookup(STAGES, args.stage, "stage")
    bots = parse_names(args.tournament_bots, BOTS, "bot") if args.tournament_bots else []
    folder = Path(args.tournament)
    policies, names, pairs = enter(folder, bots, args.max_pairs, args.seed)
    check_games(f"--num-games {args.num_games}: {len(pairs)} pairs", len(pairs) * args.num_games)

    # ------------------------------------------------------------------------------------------------------- the games
    seats = np.repeat(pairs, args.num_games, 0)                             # [N, 2] entrants, by port
    seats[1::2] = seats[1::2, ::-1]
    N = len(seats)
    assignment = np.where(seats < len(policies), seats, BOT_SLOT)
    bot_kinds = np.array([0] * len(policies) + [BOTS[name] for name in bots])[seats]
    rng = None if args.deterministic else np.random.default_rng(args.seed)
    ratings = Ratings()
    pace = Pace()
    done = 0
    interrupted = False
    try:
        with progress_bar() as progress, VecEnv(
                N, character, stage, seed=args.seed, num_workers=min(args.num_workers, N), bot_kinds=bot_kinds,
                max_episode_frames=args.max_episode_frames) as envs:
            task = progress.add_task("games", total=N)
            for game in play(envs, policies, assignment, 1, rng, pace):
                one, two = (names[k] for k in seats[game.slot])
                ratings.record(one, two, (1 + float(outcomes(game.final[None])[0])) / 2)
                done += 1
                progress.advance(task)
    except KeyboardInterrupt:
        interrupted = True
    if not done:
        print("interrupted before the first game ended: no result", file=sys.stderr)
        sys.exit(130)

    # ---------------------------------------------------------------------------------------------------------- result
    rows = standings(ratings)
    title = f"{len(names)} entrants, {len(pairs)} pairs, {done} games of {args.character} on {args.stage}"
    print_standings(rows, ratings.payoff, title)
    if interrupted:
        print(f"interrupted: {N - done} of {N} games did not end and do not count; nothing is written", file=sys.stderr)
        sys.exit(130)
    facts = {"num_games": args.num_games, "character": args.character, "stage": args.stage, "seed": args.seed,
             "max_episode_frames": args.max_episode_frames, "deterministic": args.deterministic}
    write_tournament(folder, facts, rows, ratings.payoff)
    print(f"{folder / 'tournament.json'}, {folder / 'tournament.png'}; {pace.row()['frames_per_second']:,.0f} frames/s")


# ------------------------------------------------------------------------------------------------------------- the page

WATCH_FLAGS = {"watch", "policy", "host", "web_port"}
SERVE_FLAGS = {"serve", "host", "web_port", "record", "character", "opponent_character", "stage", "max_episode_frames",
               "deterministic", "seed"}


def page(args: Args) -> None:
    """Games to watch or to play in a browser, until Ctrl-C."""
    from cleanmelee.web.library import LATEST, Library, latest_folder
    from cleanmelee.web.match import Games, Opponents
    from cleanmelee.web.server import Site, run as run_page
    if args.watch and args.serve:
        raise UserError("--watch and --serve: one of them; the page of --serve shows the games that it has recorded")
    only_known(args, WATCH_FLAGS if args.watch else SERVE_FLAGS, "for the page")
    token = secrets.token_urlsafe(16) if args.host else ""
    if args.watch:
        library = Library(latest_folder(RUNS) if args.watch == LATEST else args.watch)
        if args.policy.endswith(".onnx"):
            raise UserError(f"--policy {args.policy}: an export tells no values; name the checkpoint (.pt) behind it")
        policy = load_player(args.policy).policy if args.policy else None
        return run_page(Site(library, policy, Path(args.policy).name, token=token), args.host, args.web_port)
    opponents = Opponents(latest_folder(RUNS) if args.serve == LATEST else args.serve)
    opponents.load(opponents.first)                                         # what is wrong with it is told at once
    lookup(CHARACTERS, args.character, "character")
    lookup(CHARACTERS, args.opponent_character or args.character, "character")
    lookup(STAGES, args.stage, "stage")
    defaults = {"character": args.character, "opponent_character": args.opponent_character or args.character,
                "stage": args.stage}
    warm_up_game()
    folder = args.record or RECORDINGS
    games = Games(opponents, folder, defaults, args.seed, args.deterministic, args.max_episode_frames)
    Path(folder).mkdir(parents=True, exist_ok=True)
    run_page(Site(Library(folder), games=games, token=token), args.host, args.web_port)


def only_known(args: Args, known: set[str], where: str) -> None:
    """Raises UserError for a flag that was given and means nothing here."""
    defaults = to_flags(Args())
    for name, value in to_flags(args).items():
        if name not in known and value != defaults[name]:
            raise UserError(f"{as_flag(name)} {value}: means nothing {where}; leave it out")


# ---------------------------------------------------------------------------------------------------------------- match

MATCH_FLAGS = {"policy", "opponent", "num_games", "character", "opponent_character", "stage", "max_episode_frames",
               "deterministic", "seed", "results", "record", "port", "opponent_port", "on_game_end", "async_inference",
               "action_repeat", "frame_delay", "target_return", "player", "num_workers", "max_restarts", "game_type"}
DOLPHIN_FLAGS = MATCH_FLAGS - {"num_workers"} | {"connect_code", "user_json", *to_flags(DolphinArgs())}


def check(args: Args, matchups: list[tuple[str, str, str]], num_games: int, level: int) -> None:
    """One line for each match that cannot be. level: the opponent's in Dolphin, 0 for none."""
    live = args.game_type == "dolphin"
    if not args.policy:
        raise UserError("--policy is missing: name the checkpoint or exported policy that plays, or a pool with "
                        "--tournament")
    if args.opponent_port and args.opponent_port == args.port:
        raise UserError(f"--opponent-port {args.opponent_port}: the policy sits there; give it another --port")
    if not num_games and len(matchups) > 1:
        raise UserError(f"--num-games 0 plays one matchup without end, and here are {len(matchups)}; say how many "
                        "games of each")
    check_games(f"--num-games {num_games}: {len(matchups)} matchups", len(matchups) * num_games)
    if level and not live:
        raise UserError(f"--opponent {args.opponent}: needs Dolphin, with --game-type dolphin, --dolphin and --iso")
    if not level and args.opponent not in BOTS and not Path(args.opponent).is_file():
        raise UserError(f"unknown opponent {args.opponent!r}: choose one of {', '.join(BOTS)}, in Dolphin cpu1 to cpu9 "
                        "or human, or a policy's file or run")
    if live and args.max_episode_frames:                        # the rest of the game would count as one of its own
        raise UserError(f"--max-episode-frames {args.max_episode_frames}: a game in Dolphin goes on to its own end; "
                        "leave the flag out")
    if live and args.live.instant_restart:
        raise UserError("--instant-restart: it takes stages at random, and a match has one; leave it out")
    if args.connect_code:
        for wrong, rule in ((level != HUMAN, "the other side is a person: it needs --opponent human"),
                            (args.port == 2 or args.opponent_port,
                             "Slippi decides who sits where: leave the ports out"),
                            (len(matchups) > 1, "one character and one stage at a time"),
                            (matchups[0][0] == "zelda", "libmelee cannot choose zelda online")):
            if wrong:
                raise UserError(f"--connect-code {args.connect_code}: {rule}")
    elif args.user_json:
        raise UserError(f"--user-json {args.user_json}: needs --connect-code")
    if live:
        only_known(args, DOLPHIN_FLAGS, "in Dolphin")
    else:
        only_known(args, MATCH_FLAGS, "in a match on the embedded game")


def live_game(args: Args, level: int) -> DolphinArgs | None:
    """How to start Dolphin, None for the embedded game. A person wants to see something, and may be met online."""
    if args.game_type != "dolphin":
        return None
    flags = vars(args.live) | {"headless": args.live.headless and level != HUMAN}
    dolphin = NetplayArgs(**flags, connect_code=args.connect_code, user_json=args.user_json)
    if args.connect_code:
        check_netplay(dolphin)
    check_dolphin(dolphin)
    return dolphin


def seat_games(fixtures: list[tuple[int, int]], matchups: list[tuple[str, str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """fixtures: (matchup, the policy's player index) of each game -> characters [N, 2] and stages [N]."""
    characters = np.array([[CHARACTERS[who] for who in matchups[m][:2]][::1 - 2 * side] for m, side in fixtures])
    return characters, np.array([STAGES[matchups[m][2]] for m, _ in fixtures])


def whom_and_where(games: list[tuple[Game, int]]) -> dict[str, str]:
    """What a person chose: the opponent's characters and the stages of these games, by name."""
    finals = np.stack([game.final for game, _ in games])
    chosen = {int(game.final["players"]["character"][1 - side]) for game, side in games}
    return {"opponent_character": ", ".join(name for name, k in CHARACTERS.items() if k in chosen) or "other",
            "stage": ", ".join(name for name, k in STAGES.items() if k in finals["stage"])}


def main(args: Args) -> None:
    check_ranges(args)
    if args.tournament:
        return tournament(args)
    if args.watch or args.serve:
        return page(args)

    # ------------------------------------------------------------------------------------------------------- who plays
    matchups = parse_matchups(args.character, args.opponent_character, args.stage)
    num_games = 1 if args.on_game_end == "stop" else args.num_games
    level = HUMAN if args.opponent == "human" else CPU_LEVELS.get(args.opponent, 0)
    args.policy = args.policy and str(best_checkpoint(args.policy))
    if args.opponent and not level and args.opponent not in BOTS:
        args.opponent = str(best_checkpoint(args.opponent))
    check(args, matchups, num_games, level)
    dolphin = live_game(args, level)
    policies = [load_player(args.policy)]
    if args.frame_delay not in (-1, policies[0].frame_delay):
        raise UserError(f"--frame-delay {args.frame_delay}: {args.policy} was trained for a delay of "
                        f"{policies[0].frame_delay} frames and plays with no other; leave the flag out, or train a "
                        "policy for it")
    if args.target_return is not None:
        if args.policy.endswith(".onnx"):
            raise UserError(f"--target-return {args.target_return}: {args.policy} is an export, in which its target is "
                            "a constant; name the checkpoint (.pt) behind it, or leave the flag out")
        policies[0].policy.aim_for(args.target_return)
    if args.player:
        policies[0].play_as(args.player)
    policies[0].config["action_repeat"] = args.action_repeat or policies[0].action_repeat
    name = Path(args.policy).name
    opponent_name = args.opponent                                           # of a bot, a computer player, a person
    foe = BOT_SLOT
    if not level and args.opponent not in BOTS:
        itself = Path(args.opponent).resolve() == Path(args.policy).resolve()
        foe = 0 if itself else 1
        opponent_name = "itself" if itself else Path(args.opponent).name
        policies += [] if itself else [load_player(args.opponent)]
    if args.results:
        check_writable("--results", Path(args.results))
    if args.deterministic:
        print("warning: --deterministic: a cloned policy that always takes its most likely action tends to stand "
              "still; sampling usually plays better", file=sys.stderr)

    # -------------------------------------------------------------------------------------------------- who sits where
    # fixtures: (matchup, the policy's player index). All are played side by side, or in real time one after the other.
    port = args.port or args.opponent_port and 3 - args.opponent_port or int(bool(dolphin))
    seats = [port - 1] if port else [0, 1]
    fixtures = [(m, seats[k % len(seats)]) for m in range(len(matchups)) for k in range(max(1, num_games))]
    if dolphin or args.async_inference or not num_games:
        sessions = [([fixture], num_games and fixtures.count(fixture)) for fixture in dict.fromkeys(fixtures)]
    else:
        sessions = [(fixtures, 1)]
    recorder = Recorder(args.record, len(sessions[0][0])) if args.record else None
    warm_up(policies, 2 * len(sessions[0][0]))

    # ------------------------------------------------------------------------------------------------------- the games
    rng = None if args.deterministic else np.random.default_rng(args.seed)
    played = [[] for _ in matchups]                                         # of each matchup: (Game, the policy's side)
    paces = [Pace() for _ in matchups] if len(sessions) > 1 else [Pace()] * len(matchups)  # side by side they share one
    interrupted = False
    failure = None
    try:
        with progress_bar() as progress:
            task = progress.add_task("games", total=len(fixtures) if num_games else None)
            for fixtures, games in sessions:
                N = len(fixtures)
                slots = np.arange(N)
                side = np.array([side for _, side in fixtures])
                characters, stages = seat_games(fixtures, matchups)
                assignment = np.full((N, 2), foe)
                assignment[slots, side] = 0
                bot_kinds = np.zeros((N, 2), int)
                bot_kinds[slots, 1 - side] = BOTS.get(args.opponent, 0)
                levels = np.zeros((N, 2), int)
                levels[slots, 1 - side] = level
                if recorder:
                    recorder.names = [(name, opponent_name)[::1 - 2 * mine] for mine in side]
                    recorder.cpu_levels = np.maximum(levels, 0).tolist()    # a person is none
                with VecEnv(N, characters, stages, seed=args.seed, num_workers=min(args.num_workers, N),
                            bot_kinds=bot_kinds, cpu_levels=levels, max_episode_frames=args.max_episode_frames,
                            max_restarts=args.max_restarts, dolphin=dolphin) as envs:
                    for game in play(envs, policies, assignment, games, rng, paces[fixtures[0][0]], recorder,
                                     args.async_inference, own_clock=not dolphin or dolphin.headless):
                        matchup, mine = fixtures[game.slot]
                        played[matchup].append((game, mine))
                        progress.advance(task)
    except KeyboardInterrupt:
        interrupted = True
    except UserError as error:                                              # Dolphin is gone: what was played counts
        failure = error
    done = sum(map(len, played))
    if failure and not done:
        raise failure
    if not done:
        print("interrupted before the first game ended: no result", file=sys.stderr)
        sys.exit(130)

    # ---------------------------------------------------------------------------------------------------------- result
    facts = {"game_type": args.game_type, "deterministic": args.deterministic, "seed": args.seed,
             "action_repeat": policies[0].action_repeat, "frame_delay": policies[0].frame_delay,
             "async_inference": args.async_inference, "max_episode_frames": args.max_episode_frames,
             "target_return": args.target_return, "player": args.player, "port": port}
    rows = []
    for (own, other, stage), games, pace in zip(matchups, played, paces, strict=True):
        if not games:
            continue
        row = {"policy": args.policy, "opponent": "itself" if opponent_name == "itself" else args.opponent,
               "character": own, "opponent_character": other, "stage": stage}
        row |= summarise([game for game, _ in games], np.array([side for _, side in games])) | facts
        if len(sessions) > 1 or len(matchups) == 1:                         # the pace is the matchup's own
            row |= pace.row()
        if level == HUMAN:
            row |= whom_and_where(games)
        rows.append(row)
    print_matchups(f"{name} against {opponent_name}", rows)
    whole = Pace()
    for pace in {id(pace): pace for pace in paces}.values():
        whole.add(pace)
    speed = whole.row()
    print(f"inference {speed['inference_ms_p50']:.2f} ms (99th percentile {speed['inference_ms_p99']:.2f}), "
          f"{speed['frames_missed']:,} of {speed['frames']:,} frames missed, "
          f"{speed['frames_per_second']:,.1f} frames/s")
    if args.results:
        for row in rows:
            append_jsonl(Path(args.results), row)
    if recorder:
        print(f"recorded {recorder.recorded} games in {args.record}")
    if interrupted:
        planned = num_games * len(matchups)
        unplayed = f"{planned - done} of {planned} games did not end and do not count"
        print(f"interrupted: {unplayed if num_games else 'the game that was on does not count'}", file=sys.stderr)
        sys.exit(130)
    if failure:
        raise failure
    if recorder and recorder.failed:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main, Args)
