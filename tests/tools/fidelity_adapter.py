"""Lets the acceptance tool score the embedded game: `fidelity.py --sim tests/tools/fidelity_adapter.py replay.slp ...`.

Offers step(state, inputs, stage) over the tool's records, and CHARS, the characters the game supports. Fields are
matched by name, so the tool may lie anywhere.
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from cleanmelee import game

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
LEDGE_INTANGIBLE, UNKNOWN_TIMER = 37, 10
QUIET_FRAME = 690                                      # no wind yet, no platform moves, Randall is under the stage
THROWS = (53, 54, 55, 56)                              # Slippi's attack ids


def throw_lengths(players):
    """Frames a throw in progress takes; some take longer the heavier the other is."""
    characters = game.TABLES.characters
    way = np.clip(players["action"] - game.THROW_FORWARD, 0, 3)
    own, other = characters[players["character"]], characters[players["character"][:, ::-1]]
    pick = lambda name: np.take_along_axis(own[name], way[..., None], -1)[..., 0]
    return np.where(pick("throw_by_weight") > 0, other["weight"] / 100, 1) * pick("throw_length")


def one_entry_per_swing(queues, characters, last_attacks):
    """The tool's staling queue holds an entry for each hit and none for throws, which let go without hitlag; the game,
    as Melee, has one for each swing, and one for a throw. Of throws only the last attack of all is known."""
    several = {character: multi_hit_attacks(character) for character in CHARS}
    for row, player in np.argwhere((queues[..., 0] != 0) | np.isin(last_attacks, THROWS)):
        queue, character = queues[row, player], characters[row, player]
        entries = [entry for place, entry in enumerate(queue)
                   if not (place and entry == queue[place - 1] and entry in several.get(int(character), ()))]
        last = last_attacks[row, player]
        if last in THROWS and entries[0] != last:
            entries.insert(0, last)
        queue[:] = (entries + [0] * 9)[:9]


def multi_hit_attacks(character):
    """Attack ids of moves whose hitboxes come back after a gap, and of pummels."""
    row = game.TABLES.characters[character]
    active = row["hit_row"] > 0
    starts = (active[:, 1:] & ~active[:, :-1]).sum(1)
    return {int(row["attack_id"][action]) for action in np.flatnonzero(starts > 2)} - {0}


def fountain_platforms(state):
    """Heights of the moving platforms: under whoever stands on one, else where they begin."""
    standing = (state["airborne"] == 0) & (state["y"] > 5) & (state["y"] < 40)
    heights = []
    for side, start in ((-1, game.PLATFORM_LEFT), (1, game.PLATFORM_RIGHT)):
        on = standing & (state["x"] * side > 20)
        under = (np.where(on, state["y"], -np.inf).max(1) - game.PLATFORM_ZERO) / game.PLATFORM_UNIT
        heights.append(np.where(on.any(1), under, start))
    return heights


def step(state, inputs, stage):
    frames, hidden = np.zeros(len(state), game.FRAME), np.zeros(len(state), game.HIDDEN)
    controllers = np.zeros(inputs.shape, game.CONTROLLER)
    players, secrets = frames["players"], hidden["players"]
    for theirs, ours in TO_PLAYER.items():
        players[ours] = state[theirs]
    for theirs, ours in TO_HIDDEN.items():
        secrets[ours] = state[theirs]
    for theirs, ours in TO_CONTROLLER.items():
        controllers[ours] = inputs[theirs]
    one_entry_per_swing(secrets["stale"], state["char"], state["attack"])
    secrets["queued"] = state["hit_done"]
    unsupported = ~np.isin(state["char"], list(CHARS))
    players["character"][unsupported] = game.FOX       # their rows are not scored, but they may stand in the way
    players["present"], players["port"] = 1, [0, 1]
    frames["stage"], frames["frame_id"] = stage, QUIET_FRAME
    if stage == game.FOUNTAIN:
        frames["platform_left"], frames["platform_right"] = fountain_platforms(state)
    # The action's own variable tells whether a jump will be short and whether a turn is done.
    own_variable = np.isin(state["action"], (game.TURN, game.JUMPSQUAT))
    secrets["flag"] = np.where(own_variable & (state["misc"] != 0), 1, 0)
    # Slippi does not show whether the stick of a turn came fast enough for a dash: it did if it is there by now.
    waits = (state["action"] == game.TURN) & (state["misc"] == 0) & (state["t_act"] > 0)
    waits &= np.abs(state["p_sx"]) >= .79
    secrets["flag"][waits & (state["t_sx"] == state["t_act"])] = game.TURN_DASH
    # Timers that Slippi does not log: what is left of the ledge's intangibility, else "not over yet".
    ledge_left = np.maximum(LEDGE_INTANGIBLE - state["t_act"], 1)
    secrets["hurt_kind"] = state["hurtbox"]
    secrets["hurt_timer"] = np.where(state["hurtbox"] == 0, 0,
                                     np.where(state["action"] == game.LEDGE_CATCH, ledge_left, UNKNOWN_TIMER))
    secrets["throw_frames"] = throw_lengths(players)
    secrets["grab_timer"] = UNKNOWN_TIMER * 10
    secrets["jump_buffer"] = np.where(state["p_btn"] & game.BUTTON_XY, 5, 0)  # when it was pressed is not known
    secrets["guard_frames"] = np.ceil(np.abs(state["ground_vx"]) / game.combat.GUARD_PUSH)  # as the stun begins

    game.step_games(frames, hidden, controllers)

    after = state.copy()
    for theirs, ours in TO_PLAYER.items():
        after[theirs] = players[ours]
    for theirs, ours in TO_HIDDEN.items():
        after[theirs] = secrets[ours]
    after["char"] = state["char"]
    after["misc"] = secrets["flag"]
    return after
