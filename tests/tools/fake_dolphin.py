#!/usr/bin/env python3
"""A stand-in for Slippi Dolphin, for tests: no ISO, the real libmelee, and the embedded game in Melee's place.

libmelee starts it with Dolphin's command line (`--version`, or `-e ISO -u HOME [--platform headless]`), and it speaks
Dolphin's protocols: settings from HOME/Config, controllers as text through the FIFOs in HOME/Pipes, a spectator server
(enet, JSON, base64) that shows menus frame by frame, then Slippi's events of a game. A game begins at frame -123, the
players stand still until -39, and from there on it is the embedded game, seeded with FAKE_SEED + the number of the
game.

Switches are lines NAME=VALUE in a file `fake_dolphin.txt` beside the ISO (FAKE_VERSION: beside the executable):
  FAKE_VERSION     exiai (default), exiai-mainline, mainline, netplay (Ishiiruka)
  FAKE_SEED        seed of the first game (0)
  FAKE_STOCKS      stocks of both players (4)
  FAKE_CRASH_AT, FAKE_HANG_AT   boot, pipes (nobody reads the controllers; hang only), menus, or a frame id of the first
                   game, or of the one that FAKE_GAME says, counted from 0
  FAKE_TROUBLES    a folder of such files: each stand-in that starts takes one away and obeys it, until none is left
  FAKE_FRAME_TIME  seconds that every frame of a game takes at least (0) FAKE_NO_GECKO    1: no menus and no
  games are shown FAKE_CPU_RACE    1: the CPU slider does not move until 200 menu frames have passed FAKE_WRONG
  character: another one than was picked; stage: another one; level: a human where a CPU was asked for FAKE_LEAVE_AT
  frame id: the game ends there without a winner FAKE_CODE        connect code of somebody who waits online, in Direct
  mode: Marth, a bot, without rollback
"""

import os
import sys

SETTINGS = {}


def load_settings(file):
    if os.path.exists(file):
        with open(file) as lines:
            SETTINGS.update(line.strip().split("=", 1) for line in lines if "=" in line)


def setting(name, default=""):
    return SETTINGS.get(name, default)


load_settings(os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "fake_dolphin.txt"))
if "-e" in sys.argv:
    load_settings(os.path.join(os.path.dirname(sys.argv[sys.argv.index("-e") + 1]), "fake_dolphin.txt"))
if "--version" in sys.argv:                                                 # before the imports, which take a second
    kind = setting("FAKE_VERSION", "exiai")
    if kind == "exiai":
        sys.stderr.write("Faster Melee - Slippi (3.4.0) - ExiAI\n")
    else:
        print({"exiai-mainline": "Slippi Dolphin - mainline 4.0.0 - ExiAI",
               "mainline": "Slippi Dolphin - mainline 4.0.0", "netplay": "Faster Melee - Slippi (3.4.0)"}[kind])
    sys.exit({"exiai": 1, "netplay": 255}.get(kind, 0))

import base64
import configparser
import json
import select
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import enet
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from cleanmelee import game
from cleanmelee.frame import CONTROLLER, FIRST_CONTROL_FRAME, FIRST_FRAME, FRAME
from cleanmelee.recording import SlpWriter, _encode_frames

BITS = {"A": 0x100, "B": 0x200, "X": 0x400, "Y": 0x800, "START": 0x1000, "Z": 0x10, "R": 0x20, "L": 0x40,
        "D_LEFT": 1, "D_RIGHT": 2, "D_DOWN": 4, "D_UP": 8}
# The character screen's grid, left to right and down -> internal ids.
GRID = (21, 0, 17, 5, 9, 14, 3, 2, 25, 22, 1, 8, 10, 4, 13, 19, 6, 20, 23, 12, 15, 16, 24, 18, 26)
# Where the stage screen's cursor must be -> Slippi's stage id.
STAGE_SPOTS = {(1, -9): 31, (6.7, -9): 32, (12.5, -9): 28, (15, 3.5): 3, (3.5, 15.5): 8, (10, 15.5): 2}
MAIN_MENU, CHARACTER_SCREEN, STAGE_SCREEN, SCORES = 0x0001, 0x0002, 0x0102, 0x0402
ONLINE_SCREEN, ONLINE_STAGES = 0x0008, 0x0108
KEYBOARD = "ABCDEFGHIJ", "KLMNOPQRST", "UVWXYZ   #", "0123456789"           # selection 45 is A; right is -5, down is +1
HUMAN, CPU, NOBODY = 0, 1, 3


class Pad:
    """The reading end of a controller's FIFO: Dolphin's text protocol."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.text, self.buttons, self.before, self.was_open = b"", 0, 0, False
        self.sticks, self.triggers = {"MAIN": (.5, .5), "C": (.5, .5)}, {"L": 0., "R": 0.}

    def read(self, meanwhile) -> None:
        """Commands up to and with the next FLUSH; waits for it, as Dolphin does with blocking pipes."""
        self.before = self.buttons
        while True:
            while b"\n" in self.text:
                line, self.text = self.text.split(b"\n", 1)
                if self._obey(*line.decode().split()):
                    return
            if not select.select([self.fd], [], [], .1)[0]:
                meanwhile()
                continue
            data = os.read(self.fd, 65536)
            self.was_open |= bool(data)
            if not data:
                if self.was_open:
                    sys.exit("the other end of the controller is gone")
                time.sleep(.002)                                            # nobody has opened it yet
            self.text += data

    def _obey(self, command, *words) -> bool:
        if command == "PRESS":
            self.buttons |= BITS[words[0]]
        elif command == "RELEASE":
            self.buttons &= ~BITS[words[0]]
        elif command == "SET" and words[0] in self.sticks:
            self.sticks[words[0]] = float(words[1]), float(words[2])
        elif command == "SET":
            self.triggers[words[0]] = float(words[1])
        return command == "FLUSH"

    def pressed(self, button) -> bool:
        return bool(self.buttons & ~self.before & BITS[button])

    def stick(self, name) -> tuple[float, float]:
        """As Melee sees it: whole steps of 1/80, cut to the unit circle, zero within the dead zone of each axis."""
        x, y = (max(-80, min(80, int((value - .5) * 254 // 1))) for value in self.sticks[name])
        length = (x * x + y * y) ** .5
        if length > 80.5:
            x, y = int(x * 80 / length), int(y * 80 / length)
        return tuple(0. if abs(value) < 23 else value / 80 for value in (x, y))

    def controller(self) -> np.ndarray:
        """The CONTROLLER record."""
        record = np.zeros((), CONTROLLER)
        record["main_x"], record["main_y"] = self.stick("MAIN")
        record["c_x"], record["c_y"] = self.stick("C")
        record["l"], record["r"] = (min(140, int(self.triggers[side] * 255 // 1)) / 140 for side in "LR")
        record["buttons"] = self.buttons
        return record


class Player:
    """One port on the character screen."""

    def __init__(self, port):
        self.port, self.x, self.y = port, -31. + 15.5 * (port - 1), -20.
        self.status, self.cell, self.coin, self.level, self.slider = HUMAN, 0xFF, False, 0, False

    def move(self, pad, frame, sliders_move) -> None:
        x, y = pad.stick("MAIN")
        if self.slider:
            if frame % 4 == 0 and sliders_move:
                self.level = max(1, min(9, self.level + (x > .1) - (x < -.1)))
        else:                                                             # .87: a whole step would dead-lock MenuHelper
            self.x, self.y = max(-40, min(40, self.x + .87 * x)), max(-25, min(30, self.y + .87 * y))
        column, row = int((self.x + 32.5) // 7), 2 - int((self.y - 1) // 7)
        cell = row * 9 + column - (row == 2) if 0 <= row <= 2 and 0 <= column < 9 and self.y >= 1 else -1
        self.on_random = (row, column) == (2, 0)
        cell = -1 if self.on_random else cell
        if not self.coin:
            self.cell = cell if 0 <= cell < len(GRID) else 0xFF
        if pad.pressed("B"):
            self.coin = False
        if pad.pressed("A"):
            if 0 <= cell < len(GRID) and not self.coin:
                self.coin = True
            elif abs(self.x - (-32.2 + 15.82 * (self.port - 1))) < 1.6 and abs(self.y + 2.2) < 1.6:
                self.status = HUMAN if self.status == CPU else CPU
                self.level = int(self.status == CPU)
            elif (abs(self.x - (-30.9 + 15.4 * (self.port - 1))) < 1.6 and abs(self.y + 15.12) < 1.6
                    and self.status == CPU):
                self.slider = not self.slider


class Dolphin:
    def __init__(self, home):
        self.home, self.cursor, self.peer, self.games, self.online = home, 0, None, 0, False
        config = configparser.ConfigParser()
        config.read(f"{home}/Config/Dolphin.ini")
        mainline = "mainline" in setting("FAKE_VERSION")
        where = ("Slippi", "spectatorlocalport") if mainline else ("Core", "slippispectatorlocalport")
        port = config.getint(*where)
        if not config.getboolean("Slippi" if mainline else "Core", "blockingpipes"):
            sys.exit("this stand-in needs blocking pipes")
        pads = configparser.ConfigParser()
        pads.read(f"{home}/Config/GCPadNew.ini")
        self.ports = {int(name[-1]): pads.get(name, "device").startswith("Pipe/") for name in sorted(pads.sections())}
        codes = Path(f"{home}/GameSettings/GALE01r2.ini").read_text().split("[Gecko]\n")[0]
        self.shows_menus = "$Optional: Extract Menu Info" in codes and not setting("FAKE_NO_GECKO")
        self.instant_match = "$Optional: Instant Match" in codes
        self.pads = {}
        if setting("FAKE_TROUBLES"):
            self._take_trouble(setting("FAKE_TROUBLES"))
        self.fail("boot")
        self.host = enet.Host(enet.Address(b"127.0.0.1", port), 4, 2, 0, 0)
        if setting("FAKE_HANG_AT") != "pipes":
            self.pads = {port: Pad(f"{home}/Pipes/slippibot{port}") for port, ours in self.ports.items() if ours}

    @staticmethod
    def _take_trouble(folder) -> None:
        for file in sorted(name for name in os.listdir(folder) if not name.startswith(".")):  # those are others' own
            mine = f"{folder}/.{os.getpid()}"
            try:
                os.rename(f"{folder}/{file}", mine)
            except FileNotFoundError:                                       # another one was quicker
                continue
            load_settings(mine)
            os.unlink(mine)
            return

    def fail(self, where) -> None:
        """Crashes or hangs if that is what is wanted of this place."""
        if isinstance(where, int) and self.games != int(setting("FAKE_GAME", "0")):
            return
        if setting("FAKE_CRASH_AT") == str(where):
            print("the stand-in crashes, as it was told", file=sys.stderr)
            os._exit(11)
        while setting("FAKE_HANG_AT") == str(where):
            time.sleep(60)

    # ------------------------------------------------------------------------------------------------------- protocol

    def pump(self, milliseconds) -> None:
        """Serves the network."""
        event = self.host.service(milliseconds)
        if event.type == enet.EVENT_TYPE_RECEIVE and json.loads(event.packet.data).get("type") == "connect_request":
            self.peer = event.peer
            self.send({"type": "connect_reply", "nick": "Slippi Online", "version": "3.4.0", "cursor": 0})
        elif event.type == enet.EVENT_TYPE_DISCONNECT:
            sys.exit(0)

    def send(self, message) -> None:
        self.peer.send(0, enet.Packet(json.dumps(message).encode(), enet.PACKET_FLAG_RELIABLE))
        self.host.flush()

    def send_events(self, events) -> None:
        self.send({"type": "game_event", "cursor": self.cursor, "next_cursor": self.cursor + 1,
                   "payload": base64.b64encode(events).decode()})
        self.cursor += 1

    def read_pads(self) -> None:
        for pad in self.pads.values():
            pad.read(lambda: self.pump(0))                                  # a silent server would lose its clients
        self.pump(0)

    def show_menu(self, scene, frame, players=(), cursor=(0., 0.), is_ready=False, submenu=0, selection=0,
                  typing=False):
        """One frame of a menu, and the controllers' answer."""
        event = bytearray(0x4A)
        event[0], event[0x23], event[0x3D], event[0x3E] = 0x3E, 0 if is_ready else 1, submenu, selection
        struct.pack_into(">H", event, 1, scene)
        struct.pack_into(">ff", event, 0x31, *cursor)
        struct.pack_into(">i", event, 0x39, frame)
        event[0x40] = 5 if typing else 0
        for k in range(4):
            event[0x25 + k], event[0x29 + k], event[0x2D + k] = NOBODY, 0xFF, 1
        for player in players:
            k = player.port - 1
            struct.pack_into(">ff", event, 3 + 8 * k, player.x, player.y)
            event[0x25 + k], event[0x29 + k], event[0x2D + k] = player.status, player.cell, 2 if player.coin else 1
            event[0x41 + k], event[0x45 + k] = player.level, player.slider
        self.send({"type": "menu_event", "payload": base64.b64encode(event).decode()})
        self.read_pads()

    # ------------------------------------------------------------------------------------------------- menus and games

    def run(self) -> None:
        while self.peer is None:
            self.pump(100)
        if not self.shows_menus or not self.pads:
            while True:
                self.pump(1000)
        self.read_pads()                                                    # libmelee's first step
        online = self.main_menu()
        while online:
            self.online_game()
        while True:
            characters, levels = self.character_screen()
            stage = self.stage_screen()
            for seat, character in enumerate(characters):                   # Zelda with A held down becomes Sheik
                if character == game.ZELDA and seat + 1 in self.pads and self.pads[seat + 1].buttons & BITS["A"]:
                    characters[seat] = game.SHEIK
            again = True
            while again:
                self.game(characters, levels, stage)
                again = self.instant_match
                legal = sorted(game.STAGES.values())
                stage = legal[(legal.index(stage) + 1) % len(legal)]        # a random one, says libmelee
            for frame in range(30):
                self.show_menu(SCORES, frame)
                if any(pad.pressed("START") for pad in self.pads.values()):
                    break

    def main_menu(self) -> bool:
        """-> True for Direct mode online, False for versus mode."""
        frame = submenu = selection = 0
        while True:
            self.show_menu(MAIN_MENU, frame, submenu=submenu, selection=selection)
            self.fail("menus")
            frame += 1
            if any(pad.stick("MAIN")[1] < -.5 for pad in self.pads.values()) and submenu != 2:
                selection = min(selection + 1, 4)
            if any(pad.pressed("A") for pad in self.pads.values()):
                if (submenu, selection) == (0, 1):
                    submenu, selection = 2, 0                               # versus mode
                elif (submenu, selection) == (2, 0):
                    return False
                elif submenu == 0:
                    submenu, selection = 1, 0                               # one player, where online play is found
                elif (submenu, selection) == (1, 2):
                    submenu, selection = 8, 0
                elif submenu == 8:
                    if selection != 2:
                        sys.exit("only Direct mode is allowed")
                    return True

    def character_screen(self):
        """-> internal ids and CPU levels of ports 1 and 2."""
        players, frame = [Player(port) for port in self.ports], 0
        for player in players:
            if player.port not in self.pads:                                # a person, who has chosen already
                player.cell, player.coin = GRID.index(game.CHARACTERS["marth"]), True
        while True:
            is_ready = all(player.coin for player in players)
            self.show_menu(CHARACTER_SCREEN, frame, players, is_ready=is_ready, submenu=6)
            frame += 1
            for player in players:
                if player.port in self.pads:
                    player.move(self.pads[player.port], frame, not setting("FAKE_CPU_RACE") or frame > 200)
            if is_ready and any(pad.pressed("START") for pad in self.pads.values()):
                break
        levels = [player.level if player.status == CPU else 0 for player in players]
        characters = [GRID[player.cell] for player in players]
        if setting("FAKE_WRONG") == "character":
            characters[1] = game.CHARACTERS["marth"]
        return characters, [0, 0] if setting("FAKE_WRONG") == "level" else levels

    def online_game(self) -> None:
        """Characters and, once, the connect code; the first stage is drawn, later ones are ours. We sit at ports 2 and
        1 by turns."""
        me, pad, frame, picks = Player(1), self.pads[1], 0, 0
        own = json.loads(Path(f"{self.home}/Slippi/user.json").read_text())["connectCode"]
        while not (self.online and me.coin and pad.pressed("START")):
            if me.coin and pad.pressed("START"):
                self.online = self.typed_code() == setting("FAKE_CODE")     # or nobody is found
                me.coin = self.online
            self.show_menu(ONLINE_SCREEN, frame, [me])
            frame += 1
            me.move(pad, frame, False)
            if me.on_random and pad.pressed("A") and not me.coin:
                me.cell, me.coin, picks = picks % len(GRID), True, picks + 1
        seat = 1 - self.games % 2
        mine = game.SHEIK if GRID[me.cell] == game.ZELDA else GRID[me.cell]  # the default of a switch there
        both = [(mine, own), (game.CHARACTERS["marth"], setting("FAKE_CODE"))][::1 - 2 * seat]
        stage = self.stage_screen(ONLINE_STAGES) if self.games else game.STAGES["yoshis_story"]
        self.game([character for character, _ in both], [0, 0], stage, [code for _, code in both], seat)

    def typed_code(self) -> str:
        pad, selection, frame, typed, was_tilted = self.pads[1], 45, 0, "", False
        while not (typed and pad.pressed("START")):
            self.show_menu(ONLINE_SCREEN, frame, [Player(1)], selection=selection, typing=True)
            frame += 1
            x, y = pad.stick("MAIN")
            if (x or y) and not was_tilted:
                selection = max(0, min(49, selection - 5 * (x > .5) + 5 * (x < -.5) - (y > .5) + (y < -.5)))
            was_tilted = bool(x or y)
            if pad.pressed("A"):
                typed += KEYBOARD[selection % 5][9 - selection // 5]
        return typed

    def stage_screen(self, scene=STAGE_SCREEN) -> int:
        x, y, frame, stage = 0., 0., 0, None
        while stage is None:
            self.show_menu(scene, frame, cursor=(x, y))
            frame += 1
            for pad in self.pads.values():
                move_x, move_y = pad.stick("MAIN")
                x, y = x + .87 * move_x, y + .87 * move_y
            if any(pad.pressed("A") for pad in self.pads.values()):
                distance, nearest = min((abs(at[0] - x) + abs(at[1] - y), number) for at, number in STAGE_SPOTS.items())
                stage = nearest if distance < 4 else None
        for _ in range(10):                                                 # while the screen fades
            self.show_menu(scene, frame, cursor=(x, y))
            frame += 1
        return 31 if setting("FAKE_WRONG") == "stage" else stage

    def game(self, characters, levels, stage, codes=("", ""), online_seat=None) -> None:
        seed = int(setting("FAKE_SEED", "0")) + self.games
        frames, hidden, controllers = np.zeros(1, FRAME), np.zeros(1, game.HIDDEN), np.zeros((1, 2), CONTROLLER)
        game.reset_games(frames, hidden, np.ones(1, bool), [characters], [stage], [seed])
        frames["players"]["stocks"] = int(setting("FAKE_STOCKS", "4"))
        frames["frame_id"] = FIRST_FRAME
        start = SimpleNamespace(ports=(0, 1), names=("", ""), codes=codes, cpu_levels=levels, seed=seed,
                                frozen_stadium=True)
        self.send_events(SlpWriter._game_start(start, frames[0]))
        self.read_pads()                                                    # libmelee answers the game's start, too
        leaves, least = setting("FAKE_LEAVE_AT"), float(setting("FAKE_FRAME_TIME", "0"))
        before, bots = frames.copy(), np.zeros((1, 2), game.BOT)
        for seat, level in enumerate(levels):
            if level:
                bots[0, seat]["kind"] = game.BOTS["attacker"]
        if online_seat is not None:
            bots[0, 1 - online_seat]["kind"] = game.BOTS["attacker"]
        while True:
            tick, number = time.monotonic(), int(frames["frame_id"][0])
            self.fail(number)
            if leaves == str(number):
                self.send_events(struct.pack(">BBb4b", 0x39, 7, 1, -1, -1, -1, -1))
                break
            self.send_events(_encode_frames(frames, controllers, before, (0, 1), number == FIRST_FRAME, seed))
            if game.game_over(frames)[0]:
                self.send_events(struct.pack(">BBb4b", 0x39, 2, -1, 0, 1, -1, -1))
                self.read_pads()                                            # the answer to the last frame
                break
            before[:] = frames
            self.read_pads()
            for port, pad in self.pads.items():
                controllers[0, port - 1 if online_seat is None else online_seat] = pad.controller()
            if number + 1 < FIRST_CONTROL_FRAME:
                frames["frame_id"] += 1
            else:
                if bots["kind"].any():
                    game.bot_controllers(frames, bots, controllers)
                game.step_games(frames, hidden, controllers)
            time.sleep(max(0., least - (time.monotonic() - tick)))
        self.games += 1


def main():
    Dolphin(sys.argv[sys.argv.index("-u") + 1]).run()


if __name__ == "__main__":
    main()
