"""Lets the fidelity tool score the embedded game: `fidelity.py --sim tests/tools/fidelity_adapter.py replay.slp ...`.

Offers step(state, inputs, stage) over the tool's records, CHARS, MEMORY and learn(paths), see there. Fields are matched
by name and the later ones may be absent, so that the tool may lie anywhere and may be older.
"""

import contextlib
import functools
import io
import itertools
import pathlib
import shutil
import sys
import tempfile
import warnings

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from cleanmelee import game
from cleanmelee.game.state import HIDDEN_PLAYER
from cleanmelee.game.tables import WHOLE, build_tables, packed

CHARS = set(game.CHARACTERS.values())

TO_PLAYER = {"x": "x", "y": "y", "air_vx": "self_vx_air", "vy": "self_vy", "ground_vx": "self_vx_ground",
             "kb_vx": "kb_vx", "kb_vy": "kb_vy", "facing": "facing", "percent": "percent", "shield": "shield",
             "hitlag": "hitlag", "hitstun": "hitstun", "age": "state_age", "action": "action", "char": "character",
             "stocks": "stocks", "jumps": "jumps", "airborne": "airborne", "in_hitstun": "in_hitstun",
             "fastfall": "fastfall", "hurtbox": "hurtbox", "lcancel": "l_cancel", "attack": "last_attack",
             "ground": "ground"}
TO_HIDDEN = {"p_sx": "stick_x", "p_sy": "stick_y", "p_cx": "c_x", "p_cy": "c_y", "p_trig": "trigger",
             "p_btn": "buttons", "t_sx": "tilt_x_age", "t_sy": "tilt_y_age", "t_lr": "trigger_age",
             "t_air": "air_frames", "t_ledge": "ledge_cooldown", "t_act": "action_frames", "hit_done": "has_hit",
             "lcancel": "landed_cancel", "stale": "stale"}
TO_CONTROLLER = {"sx": "main_x", "sy": "main_y", "cx": "c_x", "cy": "c_y", "trig": "r", "btn": "buttons"}
OF_ACTION = "flag", "boost", "smash_charge", "guard_frames", "throw_frames"  # hidden fields that end with their action
MEMORY = np.dtype([("hidden", HIDDEN_PLAYER), ("action", "i4"), ("platforms", "f4", 2), ("used", "i4")])
LEDGE_INTANGIBLE, UNKNOWN_TIMER = 37, 10
QUIET_FRAME = 690                                      # no wind yet, no platform moves, Randall is under the stage
THROWS = (53, 54, 55, 56)                              # Slippi's attack ids
NEAR_PLATFORM = 20, 5, 40                              # |x| from, y from and to: who stands there is on a moving one
WEIGHTS = {0: 100, 3: 114, 4: 70, 5: 117, 8: 94, 9: 90, 10: 88, 11: 88, 12: 80, 13: 110, 14: 108, 15: 60, 17: 100,
           20: 85, 21: 100, 23: 55}                    # of characters that the game does not know; public
HELD = *range(game.CAUGHT_AIR, game.BREAK_FREE), *range(game.THROWN_FORWARD, game.THROWN_DOWN + 1)
KNOWN_ITEMS = np.zeros(game.NUM_ITEM_TYPES, bool)
KNOWN_ITEMS[[*game.characters.PROJECTILE_ROWS, *(row[2] for rows in game.characters.HELD_ROWS.values()
                                                 for row in rows)]] = True


class Simulator:
    """The embedded game with tables of its own."""

    CHARS, MEMORY = CHARS, MEMORY

    def __init__(self, tables):
        self.tables = tables = packed(*(getattr(tables, name) for name in WHOLE.names))  # a copy
        for stranger, weight in WEIGHTS.items():       # is in the way, can be thrown, and does nothing
            tables.characters[stranger] = tables.characters[game.FOX]
            tables.characters["weight"][stranger] = weight
        active = tables.characters["hit_row"] > 0
        frames = np.arange(active.shape[-1] - 1)
        starts = np.where(active[..., 1:] & ~active[..., :-1], frames, 0)
        self.last_start = np.maximum.accumulate(starts, -1)  # [character, action, frame]: when the boxes came out
        self.several_hits = {character: self.multi_hit_attacks(character) for character in CHARS}

    def multi_hit_attacks(self, character):
        """Attack ids of moves whose hitboxes come back after a gap, and of pummels."""
        row = self.tables.characters[character]
        active = row["hit_row"] > 0
        starts = (active[:, 1:] & ~active[:, :-1]).sum(1)
        return {int(row["attack_id"][action]) for action in np.flatnonzero(starts > 2)} - {0}

    def step(self, state, inputs, stage):
        frames, hidden = np.zeros(len(state), game.FRAME), np.zeros(len(state), game.HIDDEN)
        controllers = np.zeros(inputs.shape, game.CONTROLLER)
        players, secrets = frames["players"], hidden["players"]
        for theirs, ours in TO_PLAYER.items():
            players[ours] = state[theirs]
        for theirs, ours in TO_CONTROLLER.items():
            controllers[ours] = inputs[theirs]
        strangers = ~np.isin(state["char"], list(CHARS))
        players["character"][strangers & ~np.isin(state["char"], list(WEIGHTS))] = game.FOX
        controllers[strangers] = np.zeros((), game.CONTROLLER)
        held = np.isin(state["action"], HELD)
        idle = strangers & ~held[:, ::-1] & ~held & (state["action"] > game.REBIRTH_WAIT)
        players["action"][idle] = np.where(state["airborne"], game.FALL, game.WAIT)[idle]
        players["present"], players["port"] = 1, [0, 1]
        frames["stage"], frames["frame_id"] = stage, QUIET_FRAME
        if "memory" in state.dtype.names:
            self.recall(frames, hidden, state)
        else:
            self.guess(frames, secrets, state)

        game.step_games(frames, hidden, controllers, self.tables)

        after = state.copy()
        for theirs, ours in TO_PLAYER.items():
            after[theirs] = players[ours]
        for theirs, ours in TO_HIDDEN.items():
            after[theirs] = secrets[ours]
        after["char"] = state["char"]
        after["misc"] = secrets["flag"] == 1
        if "memory" in state.dtype.names:
            self.remember(frames, secrets, state, after)
        return after

    # A state alone: what it does not tell is guessed

    def guess(self, frames, secrets, state):
        for theirs, ours in TO_HIDDEN.items():
            secrets[ours] = state[theirs]
        self.one_entry_per_swing(secrets["stale"], state["char"], state["attack"])
        secrets["queued"] = state["hit_done"]
        platforms = seen_platforms(state)
        frames["platform_left"], frames["platform_right"] = np.where(
            (frames["stage"] == game.FOUNTAIN)[:, None],
            np.where(platforms > 0, platforms, (game.PLATFORM_LEFT, game.PLATFORM_RIGHT)), 0).T
        # The action's own variable tells whether a jump will be short and whether a turn is done.
        own_variable = np.isin(state["action"], (game.TURN, game.JUMPSQUAT))
        secrets["flag"] = own_variable & (state["misc"] != 0)
        secrets["flag"][waiting_turns(state)] = game.TURN_DASH
        secrets["hurt_kind"] = state["hurtbox"]
        secrets["hurt_timer"] = np.where(state["hurtbox"] > 0, hurt_timers(state), 0)
        secrets["throw_frames"] = self.throw_lengths(frames["players"])
        secrets["grab_timer"] = UNKNOWN_TIMER * 10
        secrets["guard_frames"] = guard_lengths(state)
        secrets["tech_lockout"] = np.maximum(game.TECH_LOCKOUT - state["t_lr"], 0)
        secrets["jump_buffer"] = np.where(state["p_btn"] & game.BUTTON_XY, 5, 0)  # when it was pressed is not known
        secrets["feet"] = self.feet(state)

    def feet(self, state):
        """Height of the feet above the position by the action and its frame."""
        heights = self.tables.characters["feet"]
        feet = heights[state["char"], np.clip(state["action"], 0, heights.shape[1] - 1),
                       np.clip(state["t_act"], 0, heights.shape[2] - 1)]
        return np.where(state["t_air"] > game.terrain.FEET_LOCKED, feet, 0)

    def one_entry_per_swing(self, queues, characters, last_attacks):
        """The older tool's staling queue holds an entry for each hit and none for throws, which let go without hitlag;
        the game, as Melee, has one for each swing, and one for a throw. Of throws only the last attack of all is
        known."""
        for row, player in np.argwhere((queues[..., 0] != 0) | np.isin(last_attacks, THROWS)):
            queue, several = queues[row, player], self.several_hits.get(int(characters[row, player]), ())
            entries = [entry for place, entry in enumerate(queue)
                       if not (place and entry == queue[place - 1] and entry in several)]
            last = last_attacks[row, player]
            if last in THROWS and entries[0] != last:
                entries.insert(0, last)
            queue[:] = (entries + [0] * 9)[:9]

    def throw_lengths(self, players):
        """Frames a throw in progress takes; some take longer the heavier the other is."""
        characters = self.tables.characters
        way = np.clip(players["action"] - game.THROW_FORWARD, 0, 3)
        own, other = players["character"], players["character"][:, ::-1]
        weight = np.where(characters["throw_by_weight"][own, way] > 0, characters["weight"][other] / 100, 1)
        return weight * characters["throw_length"][own, way]

    # A state with a memory: the game's own hidden fields, put right by what the true state shows

    def recall(self, frames, hidden, state):
        memory, secrets = state["memory"], hidden["players"]
        secrets[:] = memory["hidden"]
        stray = (memory["action"] != state["action"]) | (memory["hidden"]["action_frames"] != state["t_act"])
        for name in OF_ACTION:                         # the game took another way: these belong to where it went
            secrets[name][stray] = 0
        secrets["judge_before"][memory["used"] == 0] = 1
        for theirs, ours in TO_HIDDEN.items():
            secrets[ours] = state[theirs]
        action, now = state["action"], state["t_act"]
        secrets["queued"] |= state["hit_done"]
        place = np.clip(action, 0, self.last_start.shape[1] - 1), np.clip(now, 0, self.last_start.shape[2] - 1)
        secrets["has_hit"] = state["t_hit"] >= self.last_start[frames["players"]["character"], *place]
        secrets["smash_charge"] = state["t_smash"]
        flag = secrets["flag"]
        told = np.isin(action, (game.TURN, game.JUMPSQUAT))
        turned = (action == game.TURN_RUN) | ((action >= game.THROW_FORWARD) & (action <= game.THROW_DOWN))
        one = state["turned"] | (told & (state["misc"] != 0))  # the game's own recordings have no such variable
        flag[told | turned] = np.where(one == 1, 1, np.where(flag == 1, 0, flag))[told | turned]
        flag[stray & waiting_turns(state)] = game.TURN_DASH
        self.recall_timers(frames["players"], secrets, state, stray)
        guessed = stray | (memory["used"] == 0)
        secrets["feet"][guessed] = self.feet(state)[guessed]
        fountain = (frames["stage"] == game.FOUNTAIN)[:, None]
        places = state["platforms"][:, 0]
        for known in (seen_platforms(state), memory["platforms"][:, 0], (game.PLATFORM_LEFT, game.PLATFORM_RIGHT)):
            places = np.where(places > 0, places, known)
        frames["platform_left"], frames["platform_right"] = np.where(fountain, places, 0).T
        for wind, (seed, frame_id) in windy_moments().items():
            blows = (frames["stage"] == game.DREAM_LAND) & (state["wind"][:, 0] == wind)
            hidden["seed"][blows], frames["frame_id"][blows] = seed, frame_id
        yoshi = frames["stage"] == game.YOSHIS_STORY
        frames["frame_id"][yoshi] = state["frame"][yoshi, 0]  # Randall keeps to the clock
        items = state["items"][:, 0]
        known = (items["present"] == 1) & (items["owner"] >= 0) & KNOWN_ITEMS[np.clip(items["type"], 0, 127)]
        owners = np.take_along_axis(state["char"], np.clip(items["owner"], 0, 1).astype(int), 1)
        known &= np.isin(owners, list(CHARS)) & (items["type"] < len(KNOWN_ITEMS))
        if known.any():
            order = np.argsort(~known, axis=1, kind="stable")
            frames["items"] = np.take_along_axis(items, order, 1)
            frames["items"][~np.take_along_axis(known, order, 1)] = 0

    def recall_timers(self, players, secrets, state, stray):
        action, now, characters = state["action"], state["t_act"], self.tables.characters
        row = players["character"], np.clip(action, 0, characters["dodge_first"].shape[1] - 1)
        dodges = (characters["dodge_first"][row] <= now) & (now < characters["dodge_last"][row])
        explained = (secrets["hurt_timer"] > 0) & (secrets["hurt_kind"] == state["hurtbox"])
        explained |= dodges | (action <= game.REBIRTH_WAIT)
        secrets["hurt_timer"] = np.where(state["hurtbox"] == 0, 0,
                                         np.where(explained, secrets["hurt_timer"], hurt_timers(state)))
        secrets["hurt_kind"] = np.where(explained, secrets["hurt_kind"], state["hurtbox"])
        held = (action >= game.CAUGHT_AIR) & (action <= game.PUMMELED)
        was_held = (state["memory"]["action"] >= game.CAUGHT_AIR) & (state["memory"]["action"] <= game.PUMMELED)
        grip = np.where(was_held, np.maximum(secrets["grab_timer"], 1), 90 + 1.7 * state["percent"])
        secrets["grab_timer"] = np.where(held, grip, np.where(
            (secrets["grab_timer"] > 0) & ~stray, secrets["grab_timer"], UNKNOWN_TIMER * 10))
        stuns = (action == game.SHIELD_STUN) & ((now == 0) | (secrets["guard_frames"] == 0))
        secrets["guard_frames"] = np.where(stuns, guard_lengths(state), secrets["guard_frames"])
        secrets["throw_frames"] = np.where(secrets["throw_frames"] > 0, secrets["throw_frames"],
                                           self.throw_lengths(players))

    def remember(self, frames, secrets, state, after):
        memory = after["memory"]
        memory["hidden"], memory["action"], memory["used"] = secrets, frames["players"]["action"], 1
        memory["platforms"] = np.stack([frames["platform_left"], frames["platform_right"]], -1)[:, None]
        touches = (secrets["has_hit"] == 1) & (after["hitlag"] > state["hitlag"])
        after["t_hit"] = np.where(touches, secrets["action_frames"], np.where(
            secrets["has_hit"] == 1, state["t_hit"], -1))
        after["hit_done"] = secrets["has_hit"] | secrets["queued"]
        after["t_smash"] = secrets["smash_charge"]
        after["turned"] = secrets["flag"] == 1
        after["frame"] = state["frame"] + 1
        after["platforms"] = memory["platforms"]
        after["items"] = frames["items"][:, None]
        after["wind"] = state["wind"]


# ---------------------------------------------------------------------------------------------------------------------
# What a state tells by itself
# ---------------------------------------------------------------------------------------------------------------------

def seen_platforms(state):
    """Slippi's heights of Fountain of Dreams' moving platforms, [N, 2]: under whoever stands there, 0 where nobody
    does."""
    x_from, low, high = NEAR_PLATFORM
    standing = (state["airborne"] == 0) & (state["y"] > low) & (state["y"] < high)
    heights = []
    for side in (-1, 1):
        on = standing & (state["x"] * side > x_from)
        height = (np.where(on, state["y"], 0).max(1) - game.PLATFORM_ZERO) / game.PLATFORM_UNIT
        heights.append(np.where(on.any(1), height, 0))
    return np.stack(heights, 1)


@functools.cache
def windy_moments():
    """{wind: (seed, frame id)}: the game draws its wind from these; here it has to blow as in the replay."""
    moments, frame_id = {}, game.terrain.WIND_PERIOD // 2
    for seed in itertools.count():
        wind = game.terrain.wind_direction(np.uint64(seed), frame_id)
        moments.setdefault(wind, (seed, frame_id))
        if len(moments) == 3:
            return {wind: moments[wind] for wind in (1, 2)}


def waiting_turns(state):
    """Slippi does not show whether the stick of a turn came fast enough for a dash: it did if it is there by now."""
    waits = (state["action"] == game.TURN) & (state["misc"] == 0) & (state["t_act"] > 0)
    return waits & (np.abs(state["p_sx"]) >= .79) & (state["t_sx"] == state["t_act"])


def hurt_timers(state):
    """What is left of the ledge's intangibility; for any other, not over yet."""
    left = np.maximum(LEDGE_INTANGIBLE - state["t_act"], 1)
    return np.where(state["action"] == game.LEDGE_CATCH, left, UNKNOWN_TIMER)


def guard_lengths(state):
    """Frames of shield stun by the speed with which it begins."""
    return np.ceil(np.abs(state["ground_vx"]) / game.combat.GUARD_PUSH - 1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# What the tool asks for
# ---------------------------------------------------------------------------------------------------------------------

def learn(paths):
    """The game with tables learned from these replays alone. Tables of the folder data that are typed in by hand or
    from public frame data stay; what is learned is written anew, over them, and of the specials nothing is known."""
    import build_tables as measuring
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for table in measuring.DATA.glob("*.csv"):
            shutil.copy(table, folder)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")            # medians of nothing
            measuring.build_learned([pathlib.Path(path) for path in paths], folder, known={})
        return Simulator(build_tables(folder))


step = Simulator(game.TABLES).step
