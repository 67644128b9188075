"""Slippi Dolphin: a game played through libmelee, in a worker process of VecEnv."""

import contextlib
import functools
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from cleanmelee import game
from cleanmelee.cli import PATH, Range, UserError, check_ranges
from cleanmelee.events import (
    EVENT_SIZES, HITSTUN_FLAG, ITEM_EVENT, POST_EVENT, PRE_EVENT, STADIUM_NORMAL, STAGE_DREAM_LAND, STAGE_FOUNTAIN,
    STAGE_STADIUM, controllers_from_pre, place_items, players_from_post,
)
from cleanmelee.frame import (
    BUTTONS, CONTROLLER, FIGHTERS, FIRST_CONTROL_FRAME, FIRST_FRAME, FRAME, NUM_PLAYERS, PLATFORM_LEFT,
    PLATFORM_RIGHT, STAGES,
)
from cleanmelee.libmelee import zero_indexed_actions
from cleanmelee.workers import close_files_except

LIBMELEE_STAGE = {8: STAGE_FOUNTAIN, 18: STAGE_STADIUM, 6: 8, 26: STAGE_DREAM_LAND, 24: 31, 25: 32}  # its enum's values


def keep_raw_events(console) -> None:
    """Make a libmelee Console keep each frame's Slippi events in `gamestate.custom`, so that nothing is lost.

    libmelee's PlayerState lacks state_flags (hitstun, fast fall), the fractions of the state's age and more. Hooks
    three private methods of melee 0.47.6; call once, before console.connect().
    """
    for key, method in (("pre", "pre_frame"), ("post", "post_frame"), ("items", "item_update")):
        method = "_Console__" + method

        def handler(gamestate, event_bytes, key=key, original=getattr(console, method)):
            original(gamestate, event_bytes)
            gamestate.custom.setdefault(key, []).append(bytes(event_bytes[:EVENT_SIZES[event_bytes[0]]]))

        setattr(console, method, handler)


def _raw_events(gamestate, key, dtype):
    events = gamestate.custom.get(key, [])
    return np.frombuffer(b"".join(event.ljust(dtype.itemsize, b"\0") for event in events), dtype)


def frame_from_gamestate(gamestate, ports) -> np.ndarray:
    """The FRAME record (shape ()) of one in-game libmelee GameState. ports: two of libmelee's port numbers, 1..4.

    After `keep_raw_events(console)`, equal to the frame that `read_replay` makes of the same game's file. Without it,
    PlayerState and Projectile are all there is: in_hitstun is a guess from the action, hurtbox from `invulnerable`;
    hitlag, hitstun, state_age and the items' timer are whole numbers, and fastfall, l_cancel, last_attack, last_hit_by,
    combo, ground, and the items' facing, damage and charge stay 0. Online, libmelee shows a rolled-back frame as it was
    first played, a file as it was last. The stage is 0 where libmelee does not know it (all but the six legal ones).
    """
    frame = np.zeros((), FRAME)
    frame["frame_id"] = gamestate.frame
    frame["stage"] = LIBMELEE_STAGE.get(int(gamestate.stage.value), 0)
    if frame["stage"] == STAGE_FOUNTAIN:
        platforms = gamestate.fod_platforms  # None before Slippi 3.18
        frame["platform_left"] = PLATFORM_LEFT if platforms is None else platforms.left
        frame["platform_right"] = PLATFORM_RIGHT if platforms is None else platforms.right
    if gamestate.whispy is not None:
        frame["wind"] = int(gamestate.whispy.value)
    if gamestate.stadium_transformation is not None:
        kind = int(gamestate.stadium_transformation.type.value)
        frame["transformation"] = 0 if kind == STADIUM_NORMAL else kind

    numbers = [port - 1 for port in ports]
    if "post" in gamestate.custom:
        post = _raw_events(gamestate, "post", POST_EVENT)
        records = players_from_post(post)
        records["port"] = post["port"]
        for record, port, follower in zip(records, post["port"].tolist(), post["follower"].tolist(), strict=True):
            if port in numbers:
                frame["nanas" if follower else "players"][numbers.index(port)] = record
        items = _raw_events(gamestate, "items", ITEM_EVENT)
    else:
        for i, port in enumerate(ports):
            leader = gamestate.players.get(port)
            for who, state in (("players", leader), ("nanas", leader.nana if leader else None)):
                if state is not None:
                    frame[who][i] = players_from_post(_post_from_state(state, who == "nanas"))[0]
                    frame[who][i]["port"] = port - 1
        items = np.zeros(len(gamestate.projectiles), ITEM_EVENT)
        for event, projectile in zip(items, gamestate.projectiles, strict=True):
            event["x"], event["y"] = projectile.position.x, projectile.position.y
            event["vx"], event["vy"] = projectile.speed.x, projectile.speed.y
            event["timer"], event["type"] = projectile.expiration_frames, projectile.type.value
            event["state"], event["id"], event["owner"] = projectile.subtype, projectile.spawn_id, projectile.owner - 1
    place_items(frame["items"][None], np.zeros(len(items), np.int64), items, numbers)
    return frame


def controllers_from_gamestate(gamestate, ports) -> np.ndarray:
    """[2] CONTROLLER: the inputs that produced this GameState's frame. Needs `keep_raw_events(console)`."""
    if "pre" not in gamestate.custom:
        raise ValueError("libmelee rounds inputs: call keep_raw_events(console) before console.connect()")
    pre = _raw_events(gamestate, "pre", PRE_EVENT)
    controllers = np.zeros(NUM_PLAYERS, CONTROLLER)
    records = controllers_from_pre(pre)
    for record, port, follower in zip(records, pre["port"].tolist(), pre["follower"].tolist(), strict=True):
        if port + 1 in ports and not follower:
            controllers[list(ports).index(port + 1)] = record
    return controllers


def _post_from_state(state, is_nana):
    """What libmelee's PlayerState shows, as POST_EVENT [1]."""
    post = np.zeros(1, POST_EVENT)
    post["x"], post["y"], post["facing"] = state.position.x, state.position.y, 1 if state.facing else -1
    post["character"], post["action"] = state.character.value, state.action.value
    post["percent"], post["shield"], post["stocks"] = state.percent, state.shield_strength, state.stock
    post["self_vx_air"], post["self_vy"] = state.speed_air_x_self, state.speed_y_self
    post["kb_vx"], post["kb_vy"] = state.speed_x_attack, state.speed_y_attack
    post["self_vx_ground"], post["hitlag"] = state.speed_ground_x_self, state.hitlag_left
    post["airborne"], post["jumps"] = not state.on_ground, state.jumps_left
    post["hurtbox"] = 2 * bool(state.invulnerable)
    # libmelee has already counted actions from 1, but not Nana's; players_from_post will count both.
    counted = not is_nana and zero_indexed_actions()[int(state.character.value) & 31, int(state.action.value) & 1023]
    post["state_age"] = state.action_frame - int(counted)
    # Outside hitstun its hitstun holds other things, so it counts only in the actions of being hit, lying down or not.
    action = int(state.action.value)
    struck = (75 <= action <= 91 or action in (185, 193)) and state.hitstun_frames_left > 0
    post["hitstun"], post["flags_3"] = state.hitstun_frames_left, HITSTUN_FLAG if struck else 0
    return post


ISO_SIZE, ISO_HEAD = 1_459_978_240, b"GALE01"                              # Melee NTSC; its revision byte is 2 for 1.02
CPU_LEVELS = {f"cpu{level}": level for level in range(1, 10)}               # Melee's own computer players
HUMAN = -1                                                            # a level: a person with a controller of their own
MAX_DEPARTURES = 5                                                     # games in a row that somebody left, then no more
SPECTATOR_PORTS = range(20_000, 30_000)                                   # below those that systems hand out themselves


@dataclass(kw_only=True)
class DolphinArgs:
    """The flags of a live game."""
    dolphin: Annotated[str, PATH] = ""
    """Slippi Dolphin's executable: an ExiAI or mainline build; with --no-headless mainline or netplay (off: empty)"""
    iso: Annotated[str, PATH] = ""
    """Melee's disc image: NTSC 1.02 as a plain .iso file (off: empty)"""
    headless: bool = True
    """no window, no sound, as fast as it goes; --no-headless shows it at 60 frames a second (no ExiAI build can)"""
    fast_forward: bool = True
    """ExiAI builds skip what only draws; ignored by other builds and with --no-headless"""
    instant_restart: bool = False
    """the next game begins at once, on a random legal stage (off: back through the menus, to the same stage)"""
    boot_timeout: Annotated[float, Range(1, 3600)] = 60.0
    """seconds that Dolphin may take from its start, or from a game's end, to the first frame of a game"""
    step_timeout: Annotated[float, Range(.1, 3600)] = 10.0
    """seconds that a frame may take before Dolphin counts as hung and is replaced"""
    games_per_process: Annotated[int, Range(0, 10 ** 9)] = 50
    """games after which a Dolphin is started anew, since it leaks memory (off: 0)"""
    spectator_port: Annotated[int, Range(0, 65535)] = 0
    """UDP port of the first Dolphin's spectator server; each further one takes the next (off: 0, whatever is free)"""


@dataclass(kw_only=True)
class NetplayArgs(DolphinArgs):
    """The flags of a live game that may be against a person online, in Slippi's Direct mode."""
    connect_code: str = ""
    """whom to meet online, by Slippi's Direct code as ABCD#123, with --opponent human; only who agreed (off: empty)"""
    user_json: Annotated[str, PATH] = ""
    """user.json of the Slippi account that plays online; needed with --connect-code"""


class DolphinError(UserError):
    """Dolphin died, hangs, or did not do what it was asked; another attempt may help."""


def check_dolphin(args: DolphinArgs) -> None:
    """Raises UserError unless --dolphin is a Slippi Dolphin that can do what is asked and --iso is Melee NTSC 1.02."""
    check_ranges(args)
    if os.name == "nt":
        raise UserError("--dolphin: live games need Linux or macOS; on Windows use WSL")
    path = Path(args.dolphin).absolute()                                    # "./dolphin" would be looked for in PATH
    if not args.dolphin or not path.is_file():
        raise UserError(f"--dolphin {args.dolphin or '(empty)'}: no such file; give the path of Slippi Dolphin's "
                        "executable")
    if not os.access(path, os.X_OK):
        raise UserError(f"--dolphin {path}: not executable; allow it with chmod +x")
    version = _dolphin_version(path)
    if not args.headless and version.build.name == "EXI_AI":
        raise UserError(f"--dolphin {path}: an ExiAI build shows no picture, and a window or a person at the other "
                        "port needs one; use a mainline or netplay build")
    if args.headless and not (version.mainline or version.build.name == "EXI_AI"):
        raise UserError(f"--dolphin {path}: {version.version} always opens a window; use an ExiAI or mainline build, "
                        "or --no-headless")
    iso = Path(args.iso)
    if not args.iso or not iso.is_file():
        raise UserError(f"--iso {args.iso or '(empty)'}: no such file; give the path of Melee's disc image")
    with open(iso, "rb") as file:
        head = file.read(8)
    if head[:6] != ISO_HEAD:
        raise UserError(f"--iso {iso}: not Melee NTSC (its head says {head[:6]!r}, not {ISO_HEAD!r}); give a plain "
                        ".iso, not .ciso or .rvz")
    if head[7] != 2:
        raise UserError(f"--iso {iso}: Melee 1.0{head[7]}; Slippi needs version 1.02")
    if iso.stat().st_size != ISO_SIZE:
        raise UserError(f"--iso {iso}: {iso.stat().st_size:,} bytes instead of {ISO_SIZE:,}; it is cut off or "
                        "compressed, make the .iso again")


def check_netplay(args: NetplayArgs) -> None:
    """Raises UserError unless --connect-code can be typed and --user-json says who we are. Small letters are fine."""
    code = args.connect_code.upper()
    if not re.fullmatch("[A-Z0-9]+#[0-9]+", code) or len(code) > 8:
        raise UserError(f"--connect-code {code}: no code of a Slippi player; one looks like ABCD#123, 8 signs at most")
    if not args.user_json or not Path(args.user_json).is_file():
        raise UserError(f"--user-json {args.user_json or '(empty)'}: no such file; give your own Slippi account's "
                        "user.json, from the folder Slippi of your Dolphin's user folder")
    if own_connect_code(args.user_json) == code:
        raise UserError(f"--connect-code {code}: your own code; give the other person's")


def own_connect_code(user_json: str) -> str:
    try:
        return str(json.loads(Path(user_json).read_text())["connectCode"])
    except (ValueError, TypeError, KeyError):
        raise UserError(f"--user-json {user_json}: no user.json of Slippi, since it names no connectCode") from None


@functools.lru_cache
def _dolphin_version(path: Path):
    """libmelee's DolphinVersion of an executable."""
    import melee.console
    not_one = f"--dolphin {path}: no Slippi Dolphin"
    try:
        result = subprocess.run([path, "--version"], capture_output=True, text=True, errors="replace", timeout=20,
                                stdin=subprocess.DEVNULL)
        says = (result.stdout + result.stderr).strip().splitlines()
        return melee.console.get_dolphin_version(str(path))
    except subprocess.TimeoutExpired:
        raise UserError(f"{not_one}: `--version` did not end within 20 s") from None
    except OSError as error:
        raise UserError(f"{not_one}: cannot run it ({error.strerror})") from None
    except (AssertionError, ValueError, RuntimeError, IndexError):
        raise UserError(f"{not_one}: `--version` says {says[0][:80] if says else 'nothing'!r}, exit code "
                        f"{result.returncode}") from None


def _reserve_port(wanted: int) -> tuple[socket.socket, int]:
    """A UDP port that no other Dolphin of ours will take while the returned socket lives: the TCP port of the same
    number is its lock, which dies with its process. wanted 0: any."""
    start = os.getpid() * 37 % len(SPECTATOR_PORTS)
    deadline = time.monotonic() + 2                                       # a Dolphin that we replace may still be dying
    for k in range(1000):
        port = wanted or SPECTATOR_PORTS[(start + k) % len(SPECTATOR_PORTS)]
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            lock.bind(("127.0.0.1", port))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(("", port))
            return lock, port
        except (OSError, OverflowError):
            lock.close()
        if wanted and time.monotonic() > deadline:
            break
        time.sleep(.02 if wanted else 0)
    if wanted:
        raise UserError(f"--spectator-port {wanted}: taken by another program; choose another port, or 0 for whatever "
                        "is free")
    raise DolphinError("no free UDP port for Dolphin's spectator server")


class DolphinEnv:
    """One game on one Slippi Dolphin, the controllers of both ports in our hands unless a computer or a person holds
    one.

        env = DolphinEnv(args, characters=(1, 18), stage=32)    # internal ids; a Slippi stage id
        env.begin()                                             # start Dolphin where needed, menus, countdown
        env.frame, env.controllers                              # FRAME [], CONTROLLER [2] as Melee reports them
        env.step(controllers)                                   # -> "on", "over", or "left" if it ended without a
        winner env.close()

    levels: per port 1 to 9 for Melee's computer player, HUMAN for a person, 0 for us. Raises DolphinError for whatever
    goes wrong with Dolphin, and within the time-outs. Meant for a process of its own: libmelee forks, and waits.

    With NetplayArgs and a connect_code it meets that person online, in Slippi's Direct mode, at levels (0, HUMAN).
    Slippi seats us anew in every game, and draws or lets players choose the stage; we are player 0 of `frame` in any
    case."""

    def __init__(self, args: DolphinArgs, characters, stage: int, levels=(0, 0), spectator_port: int = 0):
        self.args, self.characters, self.stage = args, [int(c) for c in characters], int(stage)
        self.levels, self.wanted_port = [int(level) for level in levels], spectator_port
        self.console, self.games_played, self.deadline = None, 0, 0.
        self.frame, self.controllers = np.zeros((), FRAME), np.zeros(NUM_PLAYERS, CONTROLLER)
        self.ports = (1, 2)                                                 # in the game, libmelee's count
        online = args if isinstance(args, NetplayArgs) else NetplayArgs()
        self.connect_code, self.user_json = online.connect_code.upper(), online.user_json

    def next_matchup(self, characters, stage: int) -> None:
        """Whom and where the next game is to be between."""
        if [int(c) for c in characters] != self.characters and self.args.instant_restart:
            self.close()                                             # an instant restart passes by the character screen
        self.characters, self.stage = [int(c) for c in characters], int(stage)

    def begin(self) -> None:
        """On return the next game stands at the last frame before players have control, as a new embedded game does."""
        self.deadline = time.monotonic() + self.args.boot_timeout
        if self.args.games_per_process and self.games_played >= self.args.games_per_process:
            self.close()
        if self.console is None:
            self._start()
        self._release()
        self._through_menus()
        self.games_played += 1
        while self.frame["frame_id"] < FIRST_CONTROL_FRAME - 1:
            if self._next() is None:
                raise DolphinError("the game was left during the countdown")

    def step(self, controllers: np.ndarray) -> str:
        """Applies controllers CONTROLLER [2] for one frame."""
        for port, pad in self.pads.items():
            if self.levels[port - 1] == 0:
                self._press(pad, controllers[port - 1])
        self.deadline = time.monotonic() + self.args.step_timeout
        before = int(self.frame["frame_id"])
        if self._next() is None or self.frame["frame_id"] <= before:
            return "left"
        return "over" if game.game_over(self.frame[None])[0] else "on"

    def close(self) -> None:
        """Ends Dolphin and removes its home folder."""
        if self.console is not None:
            for pad in self.pads.values():
                with contextlib.suppress(OSError):
                    pad.disconnect()
            self.console.stop()
            self.console, self.games_played = None, 0
            self.lock.close()

    # ------------------------------------------------------------------------------------------------------ starting

    def _start(self) -> None:
        import melee
        self.melee = melee
        args = self.args
        self.lock, port = _reserve_port(self.wanted_port)
        version = _dolphin_version(Path(args.dolphin).absolute())
        fast = args.headless and args.fast_forward and version.build.name == "EXI_AI"
        self.console = melee.Console(
            path=args.dolphin, tmp_home_directory=True, slippi_port=port, blocking_input=True, polling_mode=True,
            fullscreen=False, gfx_backend="Null" if args.headless else "", disable_audio=args.headless,
            save_replays=False,
            emulation_speed=0. if args.headless else 1., instant_match_restart=args.instant_restart,
            use_exi_inputs=fast, enable_ffw=fast, user_json_path=self.user_json or None,
            online_delay=2)                                                 # Slippi's own
        keep_raw_events(self.console)
        kinds = melee.ControllerType
        self.pads = {}
        for port, level in enumerate(self.levels[:1] if self.connect_code else self.levels, 1):
            kind = kinds.GCN_ADAPTER if level == HUMAN else kinds.STANDARD
            self.pads[port] = melee.Controller(self.console, port, kind)
        self.console.run(iso_path=args.iso, platform="headless" if args.headless and version.mainline else None)
        self._connect()
        for seat, pad in list(self.pads.items()):
            if self.levels[seat - 1] == HUMAN:
                del self.pads[seat]
                continue
            reader = self._wait_for_reader(pad.pipe_path)                   # or else `connect` could block for ever
            pad.connect()
            os.close(reader)
        self.menus = {port: melee.MenuHelper() for port in self.pads}       # for good: they know what they have toggled
        # A dispatch that notices a dead or hung Dolphin. `step` of a plain polling Console would flush on every try.
        dispatch = self.console._slippstream.dispatch

        def watched(polling_mode, timeout):
            while (message := dispatch(True, .1)) is None:
                self._check_alive("no frame came")
            return message

        self.console._slippstream.dispatch = watched

    def _connect(self) -> None:
        """console.connect(), which would wait for ten seconds for a Dolphin that is dead, and give up on a slow one."""
        from melee.slippstream import SlippstreamClient
        while True:
            client = self.console._slippstream
            client._worker.start()
            while not client._buffer.poll(.1):
                self._check_alive("it opened no spectator server")
            if client._buffer.recv():
                client.running = True
                return
            client.shutdown()
            self.console._slippstream = SlippstreamClient(self.console.slippi_address, self.console.slippi_port)

    def _wait_for_reader(self, pipe: str) -> int:
        while True:
            try:
                return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)           # fails while nobody reads
            except OSError:
                self._check_alive("it does not read our controllers")
            time.sleep(.01)

    def _check_alive(self, trouble: str) -> None:
        code = self.console._process.poll()
        if code is not None:
            raise DolphinError(f"Dolphin ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}")
        if time.monotonic() > self.deadline:
            raise DolphinError(f"Dolphin hangs: {trouble} in time")

    # --------------------------------------------------------------------------------------------------------- games

    def _through_menus(self) -> None:
        """From wherever Melee is to the first frame of a game, which must be the one that was asked for."""
        melee, frames = self.melee, 0
        characters = [melee.Character(c) for c in self.characters]
        stage = next(melee.Stage(value) for value, slippi in LIBMELEE_STAGE.items() if slippi == self.stage)
        starter = min(self.pads)
        if self.games_played and self.frame["frame_id"] == FIRST_FRAME:     # it has begun already
            return self._verify()
        while True:
            try:
                state = self._next()
            except DolphinError as error:
                if frames == 0 and self.games_played == 0 and self.console._process.poll() is None:
                    raise DolphinError("Dolphin is connected, but Melee sends no frames: do its gecko codes run? They "
                                       "need Melee NTSC 1.02 and a Slippi build") from error
                raise
            frames += 1
            if time.monotonic() > self.deadline:
                if self.connect_code:
                    raise UserError(f"no game with {self.connect_code} within {self.args.boot_timeout:.0f} s; agree "
                                    "on a time, let the other person enter your code, or wait longer with "
                                    "--boot-timeout")
                raise DolphinError("Melee is still in its menus after --boot-timeout")
            if state is not None:
                if state["frame_id"] == FIRST_FRAME:
                    return self._verify()
                continue                                                    # the last frames of a game that is over
            menu = self.menu
            if menu.menu_state is melee.Menu.UNKNOWN_MENU:                  # the scores, among others
                self.menus[starter].skip_postgame(self.pads[starter])
                continue
            # A start before the sliders stand would put a motionless human where a computer player was asked for.
            sliders = all(menu.players[port].cpu_level == level and not menu.players[port].is_holding_cpu_slider
                          for port, level in enumerate(self.levels, 1) if level > 0 and port in menu.players)
            ready = sliders or menu.menu_state is not melee.Menu.CHARACTER_SELECT
            for port, pad in self.pads.items():
                self.menus[port].menu_helper_simple(
                    menu, pad, characters[port - 1], stage, cpu_level=self.levels[port - 1],
                    autostart=port == starter and ready, connect_code=self.connect_code or None)

    def _verify(self) -> None:
        players, state = self.frame["players"], self.menu
        names = {internal: name for name, internal in FIGHTERS.items()}
        stages = {number: name for name, number in STAGES.items()}

        def tell(who, levels, stage):
            sides = [names.get(int(c), f"character {c}") + (f" (cpu{level})" if level > 0 else "")
                     for c, level in zip(who, levels, strict=True)]
            return f"{', '.join(sides)} on {stages.get(int(stage), f'stage {stage}')}"

        wanted, levels, stage = list(self.characters), list(self.levels), self.stage
        got = [int(c) if present else -1 for c, present in zip(players["character"], players["present"], strict=True)]
        got_levels = [int(state.players[port].cpu_level) if port in state.players else 0 for port in (1, 2)]
        for seat, level in enumerate(levels):
            if level == HUMAN:                                              # a person chooses for themselves
                wanted[seat], got_levels[seat] = got[seat], HUMAN
        if self.connect_code or self.args.instant_restart and self.games_played:
            stage = int(self.frame["stage"]) if int(self.frame["stage"]) in stages else stage
        if (got, got_levels, int(self.frame["stage"])) != (wanted, levels, stage):
            raise DolphinError(f"asked for {tell(wanted, levels, stage)}, but the game is "
                               f"{tell(got, got_levels, self.frame['stage'])}")

    def _next(self) -> np.ndarray | None:
        """One frame on: the FRAME if it is of a game, None in a menu. self.menu is libmelee's GameState in any case."""
        try:
            self.menu = self.console.step()
        except (OSError, self.melee.slippstream.EnetDisconnected):          # the pipe or the connection broke: why?
            for _ in range(10):
                self._check_alive("its connection broke")
                time.sleep(.05)
            raise DolphinError("Dolphin hangs: its connection broke, and it did not end") from None
        if self.menu.menu_state not in (self.melee.Menu.IN_GAME, self.melee.Menu.SUDDEN_DEATH):
            return None
        if self.connect_code and self.menu.frame == FIRST_FRAME:
            self.ports = self._online_ports()
        pair = np.empty(2, FRAME)
        pair[0], pair[1] = self.frame, frame_from_gamestate(self.menu, self.ports)
        if self.menu.frame != FIRST_FRAME:
            game.follow(pair)
        self.frame = pair[1:].reshape(())
        self.controllers = controllers_from_gamestate(self.menu, self.ports)
        if self.connect_code:
            self.frame["players"]["port"] = 0, 1                            # recordings list players by port
        return self.frame

    def _online_ports(self) -> tuple[int, int]:
        """Our port and the other person's: by our connect code, which every game names."""
        own, players = own_connect_code(self.user_json), self.menu.players
        ours = [port for port in players if players[port].connectCode == own]
        if len(players) != 2 or len(ours) != 1:
            raise DolphinError(f"a game of {len(players)} in which {len(ours)} have our connect code {own}")
        return ours[0], next(port for port in players if port != ours[0])

    def _press(self, pad, controller) -> None:
        """Sends a CONTROLLER record. libmelee takes sticks from 0 to 1 and rounds to Melee's own 1/80, where ours
        already are. An analog trigger alone neither techs nor air dodges: the digital press is a button, and both are
        sent."""
        button = self.melee.Button
        for name, bit in BUTTONS.items():
            is_down, key = bool(controller["buttons"] & bit), button[f"BUTTON_{name}"]
            if is_down != pad.current.button[key]:
                (pad.press_button if is_down else pad.release_button)(key)
        pad.tilt_analog_unit(button.BUTTON_MAIN, float(controller["main_x"]), float(controller["main_y"]))
        pad.tilt_analog_unit(button.BUTTON_C, float(controller["c_x"]), float(controller["c_y"]))
        pad.press_shoulder(button.BUTTON_L, float(controller["l"]))
        pad.press_shoulder(button.BUTTON_R, float(controller["r"]))

    def _release(self) -> None:
        for pad in self.pads.values():
            pad.release_all()


def dolphin_worker(part, args: DolphinArgs, levels, spectator_port: int, action_repeat: int, max_episode_frames: int,
                    command: int, reply: int) -> None:
    """The life of a worker with a Dolphin. Commands: "n" publish the next game's first frame, "s" step. Replies: "."
    done, "b" done and the game is over, "q" it ended without a winner; after these two, and at the start, another "."
    says that the next game is ready."""
    os.setsid()                                                             # one group to kill, out of Ctrl-C's reach
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)                           # whose exit codes we want
    folder = tempfile.mkdtemp(prefix="cleanmelee_")
    tempfile.tempdir = folder                                               # libmelee makes Dolphin's home in it
    leash = _guard(folder)
    os.register_at_fork(after_in_child=lambda: [os.close(fd) for fd in (command, reply, leash)])
    if sys.platform == "linux":
        multiprocessing.set_start_method("fork", force=True)                # for libmelee's receiver
    log = os.open(f"{folder}/dolphin.log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)                                                         # Dolphin talks
    os.dup2(log, 2)
    env = DolphinEnv(args, part.characters[0], part.stages[0], levels, spectator_port)
    try:
        while True:
            env.next_matchup(part.characters[0], part.stages[0])
            env.begin()
            os.write(reply, b".")
            status = "on"
            while status == "on":
                order = os.read(command, 1)
                if not order:                                               # the main process is gone
                    return
                if order == b"n":
                    part.frames[0], part.controllers[0] = env.frame, env.controllers
                    part.begin_episode(0)
                else:
                    status = _dolphin_step(part, env, action_repeat, max_episode_frames)
                os.write(reply, {"on": b".", "over": b"b", "left": b"q"}[status])
    except UserError as error:
        tail = Path(f"{folder}/dolphin.log").read_text(errors="replace").strip().splitlines()[-1:]
        text = str(error) + (f"; its last words: {tail[0][:200]}" if tail and isinstance(error, DolphinError) else "")
        os.write(reply, (b"?" if isinstance(error, DolphinError) else b"u") + text.encode())
    except Exception:
        os.write(reply, b"!" + traceback.format_exc().encode())


def _dolphin_step(part, env: DolphinEnv, action_repeat: int, max_episode_frames: int) -> str:
    """Games.step for the one game of `part`. A truncated game goes on: Melee has no quick way out of one."""
    asked = part.controllers.copy()
    part.terminated[:] = part.truncated[:] = False
    for _ in range(action_repeat):
        if part.bot_kinds.any():
            game.bot_controllers(part.frames, part.bots, asked)
        status = env.step(asked[0])
        if status == "left":
            return status
        part.frames[0], part.controllers[0] = env.frame, env.controllers
        part.episode_frames += 1
        late = max_episode_frames and part.episode_frames[0] >= max_episode_frames
        if (status == "over" or late) and not part.truncated[0]:
            part.terminated[0], part.truncated[0] = status == "over", status != "over"
            part.final_frames[0], part.final_controllers[0] = part.frames[0], part.controllers[0]
        if status == "over":
            return status
    if part.truncated[0]:
        part.begin_episode(0)
    return "on"


def _guard(folder: str) -> int:
    """Forks a process that outlives this one by a moment: when it is gone, whatever killed it, the guard kills all of
    its process group (Dolphin, what Dolphin started, libmelee's receiver) and removes `folder`. Returns the leash: its
    other end falls when this process dies, if no child of ours holds it open."""
    group, (end, leash) = os.getpgrp(), os.pipe()
    if os.fork() == 0:
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            close_files_except(end)
            os.read(end, 1)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
            for _ in range(20):                                             # the dying may still write
                shutil.rmtree(folder, ignore_errors=True)
                if not os.path.exists(folder):
                    break
                time.sleep(.05)
        finally:
            os._exit(0)
    os.close(end)
    return leash
