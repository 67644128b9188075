"""What several test files need: made-up games and observations, a tiny run, stand-ins."""

import functools
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cleanmelee import game
from cleanmelee.cli import from_flags, to_flags
from cleanmelee.controller import NUM_BUTTONS, NUM_STICK, decode_actions
from cleanmelee.dataset import Games, Sequences, check_both, load_sides, open_games
from cleanmelee.dolphin import controllers_from_gamestate, frame_from_gamestate, keep_raw_events
from cleanmelee.frame import BUTTON_X, CONTROLLER, FRAME, STAGES
from cleanmelee.observation import Observation, observe
from cleanmelee.packed import pack_game
from cleanmelee.recording import write_slp
from cleanmelee.replays import Replay
from melee_common import Policy, to_torch
from ppo_selfplay import Args

ROOT = Path(__file__).resolve().parents[1]
FOX = game.FOX
BATTLEFIELD, FINAL_DESTINATION = game.STAGES["battlefield"], game.STAGES["final_destination"]

SEVEN = [game.CHARACTERS[name] for name in ("fox", "falco", "marth", "sheik", "mewtwo", "gameandwatch",
                                            "captain_falcon")]


class Game:
    """A batch of one game, with controllers set by keyword: step(p1=dict(main_x=1), frames=10)."""

    def __init__(self, first=FOX, second=FOX, stage=FINAL_DESTINATION, seed=1):
        self.frames, self.hidden = np.zeros(1, game.FRAME), np.zeros(1, game.HIDDEN)
        game.reset_games(self.frames, self.hidden, np.ones(1, bool), np.array([[first, second]]), np.array([stage]),
                         np.array([seed], np.uint64))
        self.players = self.frames["players"][0]

    def step(self, p1=None, p2=None, frames=1):
        controllers = np.zeros((1, 2), game.CONTROLLER)
        for index, values in enumerate((p1, p2)):
            for name, value in (values or {}).items():
                controllers[name][0, index] = value
        for _ in range(frames):
            game.step_games(self.frames, self.hidden, controllers)
        return self.players

    def players_record(self, index):
        return self.frames[0]["players"][index]

    def secret_record(self, index):
        return self.hidden[0]["players"][index]

    def place(self, index, x, y=.0001, airborne=False, facing=None):
        player = self.players[index]
        player["x"], player["y"] = x, y
        if facing is not None:
            player["facing"] = facing
        if airborne:
            player["airborne"], player["action"], player["jumps"] = 1, game.FALL, 1
            self.hidden["players"]["air_frames"][0, index] = 20


def batch(num_games, kinds, characters=None, stage=FINAL_DESTINATION, seed=0):
    frames, hidden = np.zeros(num_games, game.FRAME), np.zeros(num_games, game.HIDDEN)
    bots = np.zeros((num_games, 2), game.BOT)
    bots["kind"] = [game.BOTS[kind] for kind in kinds]
    bots["seed"] = np.arange(2 * num_games).reshape(num_games, 2) + 1000 * seed
    if characters is None:
        characters = np.array(SEVEN)[np.arange(2 * num_games).reshape(num_games, 2) % 7]
    game.reset_games(frames, hidden, np.ones(num_games, bool), np.broadcast_to(characters, (num_games, 2)),
                     np.full(num_games, stage), np.arange(num_games, dtype=np.uint64))
    return frames, hidden, bots


def play(frames, hidden, bots, steps):
    controllers = np.zeros((len(frames), 2), game.CONTROLLER)
    for _ in range(steps):
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)


def hit(attacker, victim, percent=0.0, attack=None, distance=10.0, before=None, hold=None):
    """One ground attack at close range -> the match on the frame of the hit."""
    match = Game(attacker, victim)
    match.place(0, 0, facing=1)
    match.place(1, distance, facing=-1)
    match.players["percent"][1] = percent
    match.step(p2=before, frames=10)
    match.step(attack, before)
    for _ in range(40):
        match.step(hold, before)
        if match.players["percent"][1] > percent or match.players["hitlag"].any():
            return match
    pytest.fail("no hit")


def on_the_ledge():
    match = Game()
    match.place(0, -92, 4, airborne=True, facing=1)
    for _ in range(40):
        if match.step()["action"][0] == game.LEDGE_CATCH:
            return match
    pytest.fail("Fox did not catch the ledge")


def present_items(match, item_type):
    items = match.frames["items"][0]
    return items[(items["present"] == 1) & (items["type"] == item_type)]


def random_actions(rng, *shape):
    return np.concatenate([rng.integers(0, 2, (*shape, NUM_BUTTONS)), rng.integers(0, 17, (*shape, 4)),
                           rng.integers(0, 5, (*shape, 1))], -1).astype(np.int8)


def random_frames(rng, n):
    frames = np.zeros(n, FRAME)
    players = frames["players"]
    for name in ("x", "y", "self_vx_air", "kb_vy", "percent", "shield", "hitlag"):
        players[name] = rng.normal(size=(n, 2)) * 30
    players["facing"] = rng.choice([-1, 1], (n, 2))
    players["action"], players["character"] = rng.integers(0, 400, (n, 2)), rng.integers(0, 33, (n, 2))
    players["stocks"], players["jumps"] = rng.integers(0, 5, (n, 2)), rng.integers(0, 3, (n, 2))
    frames["items"]["present"] = rng.random((n, 8)) < .3
    frames["items"]["x"] = rng.normal(size=(n, 8)) * 40
    frames["items"]["owner"] = rng.integers(-1, 2, (n, 8))
    frames["items"]["type"] = rng.integers(0, 200, (n, 8))
    for name in ("self_vx_ground", "self_vy", "kb_vx", "hitstun"):
        players[name] = rng.normal(size=(n, 2)) * 3
    for name in ("airborne", "in_hitstun", "fastfall", "hurtbox"):
        players[name] = rng.integers(0, 2, (n, 2))
    players["action_frame"] = rng.integers(0, 90, (n, 2))
    frames["nanas"] = np.where(rng.random((n, 2)) < .5, players, np.zeros((), players.dtype))
    frames["nanas"]["present"] = frames["nanas"]["stocks"] > 0
    frames["stored"]["charge"], frames["stored"]["holding"] = rng.random((n, 2)), rng.integers(0, 2, (n, 2))
    for name in ("hammer", "hammer_before"):
        frames["stored"][name] = rng.integers(0, 10, (n, 2))
    for name in ("y", "vx", "vy", "facing", "timer"):
        frames["items"][name] = rng.normal(size=(n, 8)) * 10
    frames["items"]["state"], frames["items"]["charge"] = rng.integers(0, 9, (2, n, 8))
    frames["platform_left"], frames["platform_right"] = rng.normal(size=(2, n)) * 10 + 20
    frames["stage"], frames["wind"] = rng.choice(list(STAGES.values()), n), rng.integers(0, 3, n)
    frames["transformation"], frames["frame_id"] = rng.choice([0, 3, 4, 6, 9], n), rng.integers(-123, 9999, n)
    return frames


def random_observation(seed, *shape):
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    obs = observe(random_frames(rng, n), decode_actions(random_actions(rng, n, 2)))
    return to_torch(Observation(obs.floats[:, 0].reshape(*shape, -1), obs.ints[:, 0].reshape(*shape, -1)))


def slow_gae(rewards, values, next_values, terminated, truncated, gamma, lam):
    """The definition: discounted sum of one-step errors until the game ends, one start at a time."""
    T = len(rewards)
    out = np.zeros(T)
    for t in range(T):
        weight = 1.
        for k in range(t, T):
            nxt = 0. if terminated[k] else next_values[k]
            out[t] += weight * (rewards[k] + gamma * nxt - values[k])
            if terminated[k] or truncated[k]:
                break
            weight *= gamma * lam
    return out


FRAMES = 2 * 4 * 16                                                         # game frames in an iteration of `tiny`


def tiny(tmp_path, name, iterations=3, **options) -> Args:
    network = {} if "pretrained" in options else {"action_repeat": 2, "hidden": "16,16"}
    return from_flags(Args, {
        "num_games": 4, "rollout_length": 16, "opponent_bots": "",
        "anneal_lr": False,                                             # or a run's length changes its first updates
        "timesteps": iterations * FRAMES, **network,
        "batch_size": 64, "eval_interval": 0, "eval_games": 2, "eval_opponents": "idle", "eval_in_background": False,
        "watch_interval": 0,
        "pool_interval": 1, "history_prob": .5, "seed": 5, "max_episode_frames": 40, "runs_dir": str(tmp_path),
        "run_name": name, **options})


def metrics(run: Path) -> list[dict]:
    """The learning curve without its wall-clock columns."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "time/" not in k and k != "charts/SPS"} for row in rows]


def as_flags(args: Args) -> list[str]:
    """The command line that stands for these arguments."""
    defaults = to_flags(Args())
    changed = {k.replace("_", "-"): v for k, v in to_flags(args).items() if v != defaults[k]}
    return [f"--{k}={v}" if not isinstance(v, bool) else f"--{k}" if v else f"--no-{k}" for k, v in changed.items()]


def command(*flags, **options):
    return subprocess.run(
        [sys.executable, "ppo_selfplay.py", *flags], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=os.environ | {"WANDB_MODE": "offline"}, **options)


def wandb_records(run: Path):
    """The protobuf records of the offline run that a run's folder holds, in order. The file is a log of LevelDB's:
    blocks of 32 kB, in which chunks (checksum, length, whether the record ends here) make up records."""
    from wandb.proto.wandb_internal_pb2 import Record
    file, = run.glob("wandb/offline-run-*/*.wandb")
    data, at, record = file.read_bytes(), 7, b""                            # after the file's own header
    while at + 7 <= len(data):
        if 2 ** 15 - at % 2 ** 15 < 7:                                      # too little room for a chunk's header
            at += 2 ** 15 - at % 2 ** 15
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):                                                  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def read_wandb(run: Path) -> SimpleNamespace:
    """What an offline run has written: run (its names), config, rows [dict], axis {metric: its step}, artifacts
    [(type, step)], pictures {name: file}."""
    found = SimpleNamespace(run=None, config={}, rows=[], axis={}, artifacts=[], pictures={})
    key = lambda item: item.key or "/".join(item.nested_key)
    for record in wandb_records(run):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = found.run or record.run
            found.config |= {key(item): json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            row = {key(item): json.loads(item.value_json) for item in record.history.item}
            found.rows.append(row)
            found.pictures |= {name.removesuffix("/path"): next(run.glob(f"wandb/offline-run-*/files/{path}"))
                               for name, path in row.items() if name.endswith("/path")}
        elif kind == "metric":
            found.axis[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "artifact":
            found.artifacts.append((record.artifact.type, json.loads(record.artifact.metadata)["global_step"]))
    return found


def stubborn(stick: int) -> Policy:
    """Holds the main stick at this horizontal index and does nothing else: 0 runs from its opponent and off the stage,
    the middle stands."""
    policy = Policy("mlp", (8,))
    head = policy.controller_head
    with torch.no_grad():
        for layer in head.logits.values():
            layer.weight.zero_()
        head.logits["buttons"].bias.fill_(-50)
        for name in ("main_x", "main_y", "c_x", "c_y", "shoulder"):
            head.logits[name].bias.zero_()
            head.logits[name].bias[{"main_x": stick, "shoulder": 0}.get(name, NUM_STICK // 2)] = 50
    return policy


def play_through_libmelee(path, ports, raw):
    """[(GameState, FRAME record, [2] CONTROLLER or None)] for every frame that libmelee steps through."""
    melee = pytest.importorskip("melee")
    console = melee.Console(is_dolphin=False, path=str(path))
    if raw:
        keep_raw_events(console)
    assert console.connect()
    seen = []
    while (gamestate := console.step()) is not None:
        seen.append((gamestate, frame_from_gamestate(gamestate, ports),
                     controllers_from_gamestate(gamestate, ports) if raw else None))
    return seen


PARSERS = "peppi-py", "libmelee", "slippi-js"


def read_by(parser, path):
    """What a parser that is not ours reads: frame ids [T], and x, y, percent, stocks [4, T, 2]. Skips if it is not
    installed."""
    if parser == "peppi-py":
        game = pytest.importorskip("peppi_py").read_slippi(str(path))
        post = [port.leader.post for port in game.frames.ports]
        columns = [(p.position.x, p.position.y, p.percent, p.stocks) for p in post]
        return game.frames.id.to_numpy(), np.array([[c.to_numpy() for c in player] for player in columns]).transpose(
            1, 2, 0)
    if parser == "libmelee":
        states = [state for state, _, _ in play_through_libmelee(path, (1, 2), raw=False)]
        rows = [[(p.position.x, p.position.y, p.percent, p.stock) for p in state.players.values()] for state in states]
        return np.array([state.frame for state in states]), np.array(rows).transpose(2, 0, 1)
    script = """
        const frames = new (require("@slippi/slippi-js/node").SlippiGame)(process.argv[1]).getFrames();
        const ids = Object.keys(frames).map(Number).sort((a, b) => a - b);
        console.log(JSON.stringify([ids, ids.map(id => Object.values(frames[id].players).map(
            ({post}) => [post.positionX, post.positionY, post.percent, post.stocksRemaining]))]));"""
    node = functools.partial(subprocess.run, capture_output=True, text=True, timeout=60)
    if shutil.which("node") is None or node(["node", "-e", 'require("@slippi/slippi-js/node")']).returncode != 0:
        pytest.skip("needs node and @slippi/slippi-js (NODE_PATH)")
    result = node(["node", "-e", script, str(path)])
    assert result.returncode == 0, result.stderr
    ids, rows = json.loads(result.stdout)
    return np.array(ids), np.array(rows).transpose(2, 0, 1)


def assert_read_alike(path, frames, parsers=PARSERS):
    """Every parser reads these frames: ids, positions, percents and stocks."""
    for parser in parsers:
        ids, columns = read_by(parser, path)
        assert ids.tolist() == frames["frame_id"].tolist(), parser
        for name, values in zip(("x", "y", "percent", "stocks"), columns, strict=True):
            assert np.array_equal(values.astype(np.float32), frames["players"][name].astype(np.float32)), (parser, name)


def processes(group):
    """{pid: command line} of the living processes of a group."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if entry.name.isdigit() and int(its_group) == group and state != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError):
            pass
    return found


def dolphin_of(worker):
    return next(pid for pid, command in processes(worker.pid).items() if " -e " in command)


WAIT, KNEE_BEND = 14, 24                                                # action states: stand, the crouch before a jump
MARTH = 18


def made_up_game(seed, length=400):
    """frames [T], controllers [T, 2] of a game that keeps to post[t-1] + pre[t] -> post[t]: a fresh X puts frame t into
    KNEE_BEND. Each player holds X where it sees itself on the right, and the stick where it sees itself high up."""
    rng = np.random.default_rng(seed)
    frames, controllers = np.zeros(length, FRAME), np.zeros((length, 2), CONTROLLER)
    frames["frame_id"], frames["stage"] = np.arange(length) - 123, 32
    t, players = np.arange(length)[:, None], frames["players"]
    players["x"] = 60 * np.sin(t / rng.uniform(5, 9, 2) + rng.uniform(0, 6, 2))
    players["y"] = 60 * np.sin(t / rng.uniform(5, 9, 2) + rng.uniform(0, 6, 2))
    players["facing"], players["character"], players["port"], players["present"] = 1, (FOX, MARTH), (0, 1), 1
    players["shield"], players["stocks"], players["action"] = 60, 4, WAIT
    players["percent"] = (t * .3).astype(int)
    players["stocks"][length // 2:, seed % 2] = 3
    controllers["buttons"][1:] = np.where(players["x"] > 0, BUTTON_X, 0)[:-1]
    controllers["main_x"][1:] = np.where(players["y"] > 0, 1, -1)[:-1]
    fresh = (controllers["buttons"][1:] != 0) & (controllers["buttons"][:-1] == 0)
    players["action"][1:][fresh] = KNEE_BEND
    frames["items"]["present"][:, 0] = 1
    frames["items"]["type"][:, 0] = 54
    frames["items"]["x"][:, 0] = players["x"][:, 0]
    return frames, controllers


def write_games(folder, count=6, **options):
    folder.mkdir()
    for seed in range(count):
        write_slp(folder / f"game_{seed}.slp", *made_up_game(seed), seed=seed, started=0, **options)
    return str(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Replays in memory, every row of them
# ---------------------------------------------------------------------------------------------------------------------

def load_all(games: Games) -> Sequences:
    return load_sides(games, range(len(games.sides)))


def load_sequences(folder: str, **options) -> tuple[Sequences, Sequences, dict]:
    """As `open_games`, with every row in memory."""
    train, held_out, about = open_games(folder, **options)
    check_both(train, held_out, about, folder)
    return load_all(train), load_all(held_out), about


def games_of(replays: list[Replay], players: list[tuple[int, int]] | None = None, **options) -> Games:
    """Replays in memory as Games. players: (replay index, player index), sorted (None: both of each)."""
    games = Games(**options)
    for index, replay in enumerate(replays):
        content = pack_game(replay.frames, replay.controllers, replay.meta["incomplete"])
        sides = [side for side in (0, 1) if players is None or (index, side) in players]
        games.add(replay.meta["path"], replay.meta["hash"], content, 0, len(content), len(replay),
                  replay.meta["characters"], sides)
    return games.freeze()


def pack(replays: list[Replay], **options) -> Sequences:
    return load_all(games_of(replays, **options))


def upcoming(controllers: np.ndarray, frame_delay: int) -> np.ndarray:
    """Controllers [T, 2] of a whole game -> [T - 1 - frame_delay, 2, frame_delay]: at every frame but the last ones
    what a player who is that late has chosen already, of the frames that follow; it now chooses the one after them."""
    T = len(controllers)
    following = np.arange(max(0, T - 1 - frame_delay))[:, None] + 1 + np.arange(frame_delay)        # [T - 1 - D, D]
    return np.moveaxis(controllers[following], 1, 2)
