#!/usr/bin/env python
"""How close is a simulated Melee to the real one? Compares a simulator with Slippi replays, frame by frame.

    python tests/tools/fidelity.py --sim tests/tools/fidelity_adapter.py replays/*.slp
    python tests/tools/fidelity.py --sim tests/tools/fidelity_adapter.py --cross-validate replays/*.slp
    python tests/tools/fidelity.py --sim hold replay.slp       # the baseline: keep the velocity, keep the action

Two ways to ask. One step: from the true state of every frame, is the next frame right? Free running: from the true
state of every 20th frame, with the true inputs of both players, where is everybody after 10, 30, 60 frames?

A simulator is a Python module with

    step(state, inputs, stage) -> the next state    state [N, 2] STATE and inputs [N, 2] INPUT stay as they are;
                                                    stage: Slippi's stage id, for a simulator with a MEMORY also [N]
    CHARS       optional: the internal character ids that it supports, the others' rows are not scored
    MEMORY      optional: dtype of what it wants to keep for each player. STATE then has a field `memory`, zero at a
                game's first frame and what `step` left there afterwards, also where the state is the true one again:
                what the game itself hides, as far as the past tells
    learn(paths) optional: the same simulator, its tables learned from these replays only (--cross-validate)

post[t-1] + pre[t] -> post[t] is one step in a replay's own terms (checked in every replay): state t is the post-frame
update t, its inputs are the pre-frame update t + 1. Units: positions in game units, velocities in units a frame, 60
frames a second, sticks -1..1 after the game's dead zone, triggers 0..1. Fields are matched by name, and a simulator
takes those that it knows.

A score is honest if the simulator has not seen the game before. The tables that lie in the repository were measured
from replays: on those very replays the score is one in sample. --cross-validate leaves out each group of games in
turn (by people and session, see GROUPS), learns the tables again from the others and scores the group with them. What
was typed in by hand or measured once (attributes, throws' numbers, special_motion.csv, rules) stays in either.
"""

import argparse
import collections
import fnmatch
import functools
import importlib
import json
import pathlib
import re
import sys
import time
import types
import warnings

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from cleanmelee.events import ReplayError
from cleanmelee.frame import (
    BUTTON_L, BUTTON_R, BUTTON_Z, CHARACTERS, FIRST_CONTROL_FRAME, ITEM, NUM_ITEMS, STAGES,
)
from cleanmelee.slp import read_replay

STATE = np.dtype([
    # Read from the post-frame update
    ("x", "f4"), ("y", "f4"),
    ("air_vx", "f4"), ("vy", "f4"),                    # self-induced velocity; air_vx is the x speed while airborne
    ("ground_vx", "f4"),                               # self-induced x speed while grounded
    ("kb_vx", "f4"), ("kb_vy", "f4"),                  # knockback velocity, added to the self-induced one
    ("age", "f4"),                                     # animation frame of the action; speeds vary
    ("percent", "f4"), ("shield", "f4"),               # 0..999, 0..60
    ("hitlag", "f4"),                                  # frames of freeze left, 0 moves
    ("hitstun", "f4"),                                 # frames left, 0 unless in_hitstun
    ("action", "i4"),                                  # Melee's action state
    ("misc", "i4"),                                    # the action's own variable, raw bits (jumpsquat: 1 short hop)
    ("ground", "i4"),                                  # the last ground touched
    ("facing", "i4"), ("airborne", "i4"),              # -1 left, 1 right; 0 or 1
    ("jumps", "i4"), ("stocks", "i4"),                 # left
    ("in_hitstun", "i4"), ("fastfall", "i4"),          # 0 or 1
    ("lcancel", "i4"),                                 # 1 success, 2 missed, kept through the whole aerial landing
    ("hurtbox", "i4"),                                 # 0 vulnerable, 1 invulnerable, 2 intangible
    ("char", "i4"),                                    # internal character id
    # Not recorded, but the past tells it: see derive_hidden. In free running the simulator keeps them up to date.
    ("p_sx", "f4"), ("p_sy", "f4"), ("p_cx", "f4"), ("p_cy", "f4"), ("p_trig", "f4"), ("p_btn", "i4"),
                                                       # the inputs that made this state
    ("t_sx", "i4"), ("t_sy", "i4"),                    # frames since the stick passed +-.25 there, 254 in the centre
    ("t_lr", "i4"),                                    # frames since L, R or Z went down or the trigger left 0, <= 254
    ("t_air", "i4"),                                   # frames airborne
    ("t_ledge", "i4"),                                 # frames until the ledge can be caught again
    ("t_act", "i4"),                                   # frames since the action began, standing still in hitlag
    ("hit_done", "i4"),                                # 1: this action has touched the opponent or his shield
    ("attack", "i4"),                                  # Slippi's id of the player's last attack that landed
    ("stale", "i4", (9,)),                             # attack ids of the last nine hits, one a swing, newest first
    ("t_hit", "i4"),                                   # t_act of the action's last touch, -1 none
    ("t_smash", "i4"),                                 # frames that this smash has been held
    ("turned", "i4"),                                  # 1: the facing is not the one with which the action began
    # The same in both players' records
    ("frame", "i4"),                                   # Slippi's frame id, -123 first
    ("wind", "i4"),                                    # Dream Land's: 0 none seen, 1 to the left, 2 to the right
    ("platforms", "f4", (2,)),                         # Fountain of Dreams' left and right platform's y, 0 not known
    ("items", ITEM, (NUM_ITEMS,)),                     # what lies, flies and is held; owner 0 or 1
], align=True)

INPUT = np.dtype([
    ("sx", "f4"), ("sy", "f4"), ("cx", "f4"), ("cy", "f4"),  # main stick, c-stick
    ("trig", "f4"),                                    # the analog shoulder button, the larger of L and R
    ("btn", "i4"),                                     # cleanmelee.frame's BUTTON_ bits
], align=True)

GROUPS = [  # games of the same people or session are left out together: (pattern of the file's name, group)
    ("mewtwo_shfair_only*", "exphil July 7-10"), ("mewtwo_approach_fair*", "exphil July 7-10"),
    ("fox_multishine.slp", "exphil July 7-10"),
    ("Game_20260715*", "exphil July 15"),
    ("mewtwo_dtilt*", "exphil July 20"), ("mewtwo_ground*", "exphil July 20"), ("gnw_*", "exphil July 20"),
    ("fox_multishine_closed*", "exphil multishine"), ("ys_multishine*", "exphil multishine"),
    ("froggi_direct_*", "froggi direct"), ("froggi_ranked_*", "froggi ranked"),
    ("froggi_unranked_falcon*", "froggi falcon"), ("froggi_unranked_fox*", "froggi fox"),
]
OLDEST = (3, 8, 0)                                     # velocities since Slippi 3.5, hitlag since 3.8
NEVER, LEDGE_COOLDOWN, STICK_OUT = 254, 29, .25        # where timers stop; frames; where a tilt begins
STALE_ENTRIES = 9
WIND_SPEED, WIND_SPLIT, WIND_EDGE, WIND_HEIGHTS = .2, -17.5, 74, (-1, 38)  # where it surely blows, and where it parts
REPEATING = {4, 13, 14, 15, 16, 17, 21, 29, 32, 35, 38, 40, 184, 192}  # actions that start over by themselves
LEDGE, AERIAL_LANDINGS, SHIELD_STUN = range(252, 264), range(70, 75), 181
SMASHES = {*range(58, 65), 346}                        # 346: Game & Watch's forward smash, see characters.py
PUMMEL, THROWS, PUMMEL_ID, THROW_ID = 217, range(219, 223), 52, 53  # actions, and Slippi's attack ids
HELD = {*range(223, 244), *range(266, 293), *range(301, 305)} - {229, *range(233, 239)}  # grabbed or thrown
DEAD_UNTIL = 13                                        # actions of dying and coming back
FREE_FRAMES, STRIDE = (10, 30, 60), 20                 # lengths of free windows; from every so many frames
FAR, MOVING, CLOSE = 1.0, .3, .1                       # units; units a frame on the true path; units
AGED = .5                                              # frames of the animation
HIT_PERCENT, SLACK = .5, 1                             # what counts as damage; frames by which a hit may be off
NUM_ACTIONS, LAST_ACTION = 512, 511
BLOW, SHOT, HOLD = range(3)
KINDS = {BLOW: "blows", SHOT: "projectiles", HOLD: "throws, pummels"}


# ---------------------------------------------------------------------------------------------------------------------
# Families of actions
# ---------------------------------------------------------------------------------------------------------------------

FAMILIES = {
    "stand/walk/turn/crouch": (*range(14, 19), *range(39, 42), 245, 246), "dash/run": range(19, 24), "jumpsquat": (24,),
    "jump/fall": (*range(25, 35), 244), "fastfall": (), "airdodge/wavedash": (*range(35, 38), 43, 236),
    "ground attack": range(44, 65), "aerial attack": range(65, 70), "landing": (42, *range(70, 75)),
    "shield/dodge/roll": (*range(178, 183), *range(233, 236)),
    "grab/throw/grabbed": (*range(212, 233), *range(239, 244), *range(266, 293), *range(301, 305)),
    "special move": range(341, NUM_ACTIONS), "hitstun/tumble": (38, *range(75, 92), 251),
    "down/tech": (*range(183, 212), 237, 238, *range(247, 251)), "ledge": range(252, 264),
    "dead/respawn/entry": (*range(14), *range(322, 325)), "other": (), "hit event": ()}
FAMILY_NAMES = list(FAMILIES)
FASTFALL, OTHER, HIT_EVENT = (FAMILY_NAMES.index(name) for name in ("fastfall", "other", "hit event"))
FAMILY = np.full(NUM_ACTIONS, OTHER)
for number, actions in enumerate(FAMILIES.values()):
    FAMILY[list(actions)] = number


# ---------------------------------------------------------------------------------------------------------------------
# Replays
# ---------------------------------------------------------------------------------------------------------------------

Game = collections.namedtuple("Game", "path states inputs stage ids")  # states, inputs [T, 2]; inputs[t] made states[t]


def load_replay(path):
    """-> states [T, 2] STATE, inputs [T, 2] INPUT, stage, frame ids [T]. inputs[t] is the controller that made
    states[t]. Raises ValueError with a line for what is not two players or lacks velocities and hitlag."""
    import peppi_py
    try:
        replay = peppi_py.read_slippi(str(path))
    except BaseException as error:                     # peppi panics on broken files with a BaseException
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ValueError("not a replay that can be read") from None
    if tuple(replay.start.slippi.version) < OLDEST:
        raise ValueError("needs Slippi >= 3.8 (velocities, hitlag)")
    if replay.frames is None or len(replay.frames.ports) != 2:
        raise ValueError("not two players")
    if any(port.follower is not None for port in replay.frames.ports):
        raise ValueError("Ice Climbers are not supported")
    ids = column(replay.frames.id)
    last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]  # rollback logs frames again; the last is real
    ids = ids[last]
    states, inputs = np.zeros((len(ids), 2), STATE), np.zeros((len(ids), 2), INPUT)
    for player, port in enumerate(replay.frames.ports):
        read_post(port.leader.post, last, states[:, player])
        read_pre(port.leader.pre, last, inputs[:, player])
    check_convention(replay, last)
    states["frame"] = ids[:, None]
    read_stage(path, ids, states)
    derive_hidden(states, inputs)
    if int(replay.start.stage) == STAGES["dream_land"]:
        derive_wind(states)
    return states, inputs, int(replay.start.stage), ids


def column(array):
    return np.asarray(array.to_numpy(zero_copy_only=False))


def read_post(post, rows, state):
    def get(array):
        return np.nan_to_num(column(array)[rows].astype(np.float64))

    flags = [get(flag).astype(int) for flag in post.state_flags]
    misc = column(post.misc_as)[rows].astype(np.float32)
    velocities = post.velocities
    for name, array in (
            ("x", post.position.x), ("y", post.position.y), ("air_vx", velocities.self_x_air),
            ("vy", velocities.self_y), ("ground_vx", velocities.self_x_ground), ("kb_vx", velocities.knockback_x),
            ("kb_vy", velocities.knockback_y), ("age", post.state_age), ("percent", post.percent),
            ("shield", post.shield), ("hitlag", post.hitlag), ("action", post.state), ("ground", post.ground),
            ("airborne", post.airborne), ("jumps", post.jumps), ("stocks", post.stocks), ("char", post.character),
            ("lcancel", post.l_cancel), ("hurtbox", post.hurtbox_state), ("attack", post.last_attack_landed)):
        state[name] = get(array)
    state["facing"] = np.where(get(post.direction) < 0, -1, 1)
    state["in_hitstun"], state["fastfall"] = (flags[3] >> 1) & 1, (flags[1] >> 3) & 1
    state["misc"] = misc.view(np.int32)
    state["hitstun"] = np.where(state["in_hitstun"] == 1, np.nan_to_num(misc), 0)


def read_pre(pre, rows, inputs):
    for name, array in (("sx", pre.joystick.x), ("sy", pre.joystick.y), ("cx", pre.cstick.x), ("cy", pre.cstick.y),
                        ("trig", pre.triggers)):
        inputs[name] = np.nan_to_num(column(array)[rows].astype(np.float64))
    inputs["btn"] = column(pre.buttons)[rows].astype(np.int64) & 0xFFFF


def read_stage(path, ids, states):
    """Items, and the moving platforms where the replay is new enough to tell: as the project reads them."""
    try:
        replay = read_replay(path)
    except ReplayError:
        return
    frames = replay.frames[np.isin(replay.frames["frame_id"], ids)]
    if len(frames) != len(ids):
        return
    states["items"] = frames["items"][:, None]
    if replay.meta["version"] >= (3, 18, 0) and replay.meta["stage"] == STAGES["fountain_of_dreams"]:
        for side, name in enumerate(("platform_left", "platform_right")):
            states["platforms"][:, :, side] = frames[name][:, None]


def check_convention(replay, rows):
    """pre[t] carries the position of post[t-1]: pre[t] is then what turns post[t-1] into post[t]."""
    for port in replay.frames.ports:
        before, after = column(port.leader.pre.position.x)[rows], column(port.leader.post.position.x)[rows]
        share = np.mean(np.isclose(before[1:], after[:-1], atol=1e-4, equal_nan=True))
        if share < .97:
            warnings.warn(f"pre[t] has the position of post[t-1] on only {share:.1%} of the frames", stacklevel=2)


# ---------------------------------------------------------------------------------------------------------------------
# What replays do not say
# ---------------------------------------------------------------------------------------------------------------------

def derive_hidden(states, inputs):
    """Fill the fields of STATE that Slippi does not record; plain loops, to be read as their definition."""
    for player in range(2):
        state = states[:, player]
        for name in ("sx", "sy", "cx", "cy", "trig", "btn"):
            state["p_" + name] = inputs[name][:, player]
        derive_input_timers(state)
        derive_action_timers(state)
    for player in range(2):
        derive_hits(states[:, player], states[:, 1 - player], player)


def derive_input_timers(state):
    for stick, timer in (("p_sx", "t_sx"), ("p_sy", "t_sy")):
        state[timer] = list(stick_timers(state[stick].tolist()))
    timer, before, trigger_before, out = NEVER, 0, 0.0, []
    for buttons, trigger in zip(state["p_btn"].tolist(), state["p_trig"].tolist(), strict=True):
        fresh = buttons & ~before & (BUTTON_L | BUTTON_R | BUTTON_Z) or (trigger > 0 and trigger_before == 0)
        timer = 0 if fresh and out else min(timer + 1, NEVER)
        before, trigger_before = buttons, trigger
        out.append(timer)
    state["t_lr"] = out


def stick_timers(values):
    timer, before = NEVER, values[0]
    for now in values:
        if abs(now) < STICK_OUT:
            timer = NEVER
        else:
            stays = before >= STICK_OUT if now > 0 else before <= -STICK_OUT
            timer = min(timer + 1, NEVER) if stays else 0
        before = now
        yield timer


def derive_action_timers(state):
    """t_act, t_air, t_ledge, t_smash, turned; and lcancel, which is logged on the landing frame only, is kept."""
    actions, ages, hitlags, facings, cancels = (
        state[name].tolist() for name in ("action", "age", "hitlag", "facing", "lcancel"))
    in_air = state["airborne"].tolist()
    out, air, ledge, act, smash, facing = [], 0, 0, 0, 0, facings[0]
    for t, action in enumerate(actions):
        before = actions[t - 1] if t else -1
        same = action == before
        onward = same and ages[t] >= ages[t - 1]
        air = air + 1 if in_air[t] else 0
        ledge = LEDGE_COOLDOWN if before in LEDGE and action not in LEDGE else max(0, ledge - 1)
        frozen = onward and hitlags[t - 1] > 1
        held = onward and not frozen and action in SMASHES and ages[t] == ages[t - 1] and hitlags[t] == 0
        if held:
            smash += 1
        elif not frozen:
            act = act + 1 if onward or (same and action in REPEATING) else 0
            if act == 0:
                smash, facing = 0, facings[t]
        if same and action in AERIAL_LANDINGS:
            cancels[t] = cancels[t - 1]
        out.append((act, air, ledge, smash, facings[t] != facing))
    state["lcancel"] = cancels
    for name, values in zip(("t_act", "t_air", "t_ledge", "t_smash", "turned"), zip(*out, strict=True), strict=True):
        state[name] = values


def derive_wind(states):
    """Whispy's wind as far as the past shows it: it moves a free player by two tenths more than his velocity, to the
    side that he stands on. It goes on until somebody stands in it unmoved."""
    before, after = states[:-1], states[1:]
    speed = np.where(after["airborne"] == 1, after["air_vx"], after["ground_vx"]) + after["kb_vx"]
    moved = after["x"] - before["x"] - speed           # by something else than his velocity
    free = (before["hitlag"] <= 1) & (after["hitlag"] <= 0) & (after["action"] > DEAD_UNTIL)
    free &= ~np.isin(after["action"], [*HELD, *LEDGE]) & (after["airborne"] == before["airborne"])
    inside = free & (before["y"] > WIND_HEIGHTS[0]) & (before["y"] < WIND_HEIGHTS[1])
    inside &= (np.abs(moved) < .004) & (np.abs(before["x"]) < WIND_EDGE)
    left, right = inside & (before["x"] < WIND_SPLIT - 2), inside & (before["x"] > WIND_SPLIT + 2)
    blown = [free & (np.abs(moved - way) < .004) for way in (-WIND_SPEED, WIND_SPEED)]
    calm, wind, out = [left.any(1).tolist(), right.any(1).tolist()], 0, [0]
    for t, shown in enumerate(zip(*(side.any(1).tolist() for side in blown), strict=True)):
        if any(shown):
            wind = 1 if shown[0] else 2
        elif wind and calm[wind - 1][t]:
            wind = 0
        out.append(wind)
    states["wind"] = np.array(out)[:, None]


def owns_items(items, player):
    """[T] bool: is there an item of this player's? items [T, NUM_ITEMS]."""
    return ((items["present"] == 1) & (items["owner"] == player)).any(-1)


def derive_hits(own, other, player):
    """hit_done, t_hit, stale. A swing touches when its owner freezes; it stands in the queue once, whatever it hits. So
    does a throw, as it lets go; every pummel and every shot stands there too."""
    percent_rise = np.diff(other["percent"], prepend=other["percent"][:1]) > .1
    freezes, stops = (np.diff(state["hitlag"], prepend=0) > 0 for state in (own, other))
    shielded, untouchable = stops & (other["action"] == SHIELD_STUN), other["hurtbox"] > 0
    touches = freezes & ((percent_rise & stops) | shielded | untouchable)
    shoots = owns_items(own["items"], player)          # a frame before
    shoots = np.concatenate([shoots[:1], shoots[:-1]])
    restarts = (own["t_act"] == 0) & (np.concatenate([[0], own["hitlag"][:-1]]) <= 1)
    was_held = np.isin(np.concatenate([[0], other["action"][:-1]]), list(HELD))
    is_held = np.isin(other["action"], list(HELD))
    lost_stock = np.diff(own["stocks"], prepend=own["stocks"][:1]) < 0
    done, queued, last, queue = 0, False, -1, [0] * STALE_ENTRIES
    for t in range(len(own)):
        if lost_stock[t]:
            queue = [0] * STALE_ENTRIES
        if restarts[t]:
            done, queued, last = 0, False, -1
        if touches[t]:
            done, last = 1, own["t_act"][t]
        entry = 0
        if percent_rise[t]:
            if was_held[t]:
                pummels, throws = own["action"][t] == PUMMEL, own["action"][t] in THROWS
                entry = PUMMEL_ID if pummels else (
                    THROW_ID + own["action"][t] - THROWS[0] if throws and not is_held[t] else 0)
            elif touches[t] and not queued:
                entry, queued = own["attack"][t], True
            elif not touches[t] and shoots[t]:         # else he is far out of the picture, which costs percent too
                entry = own["attack"][t]
        if entry:
            queue = [entry, *queue[:-1]]
        own["hit_done"][t], own["t_hit"][t], own["stale"][t] = done, last, queue


# ---------------------------------------------------------------------------------------------------------------------
# Running the simulator
# ---------------------------------------------------------------------------------------------------------------------

def state_type(sim):
    memory = getattr(sim, "MEMORY", None)
    return STATE if memory is None else np.dtype([*((name, STATE[name]) for name in STATE.names), ("memory", memory)])


def copied(states, dtype):
    out = np.zeros(states.shape, dtype)
    for name in STATE.names:
        out[name] = states[name]
    return out


def one_step(sim, games):
    """-> for each game what the simulator makes of each true frame, [T - 1, 2]; and its memories of every STRIDEth
    frame, [., 2], None for a simulator that has none."""
    if hasattr(sim, "MEMORY"):
        return follow(sim, games)
    shuffle = np.random.default_rng(0)                 # it sees rows in random order: a frame, never its future
    answers = []
    for game in games:
        order = shuffle.permutation(len(game.states) - 1)
        answer = np.empty_like(game.states[1:])
        answer[order] = sim.step(game.states[order].copy(), game.inputs[order + 1].copy(), game.stage)
        answers.append(answer)
    return answers, [None] * len(games)


def follow(sim, games):
    """All games side by side, frame by frame, since the simulator may keep what it remembers of the past."""
    order = sorted(range(len(games)), key=lambda index: -len(games[index].states))
    running = [games[index] for index in order]        # the longest first: those that still run come first
    answers = [np.empty_like(game.states[1:]) for game in running]
    memories = [np.zeros((len(game.states) // STRIDE + 1, 2), sim.MEMORY) for game in running]
    state = np.zeros((len(games), 2), state_type(sim))
    stages = np.array([game.stage for game in running])
    for t in range(max((len(answer) for answer in answers), default=0)):
        while t >= len(answers[len(state) - 1]):
            state = state[:-1]
        inputs = np.stack([game.inputs[t + 1] for game in running[:len(state)]])
        truth = np.stack([game.states[t] for game in running[:len(state)]])
        for name in STATE.names:
            state[name] = truth[name]
        if t % STRIDE == 0:
            for index, memory in enumerate(state["memory"]):
                memories[index][t // STRIDE] = memory
        after = sim.step(state, inputs, stages[:len(state)])
        state["memory"] = after["memory"]
        known = copied(after, STATE)
        for index, row in enumerate(known):
            answers[index][t] = row
    back = np.argsort(order)
    return [answers[index] for index in back], [memories[index] for index in back]


def are_scored(game, characters):
    """[T - 1, 2]: steps in which the players have control, live, and are supported."""
    scored = (game.ids[:-1] >= FIRST_CONTROL_FRAME) & (np.diff(game.ids) == 1)
    scored = scored[:, None] & (game.states["stocks"][:-1] > 0)
    return scored if characters is None else scored & np.isin(game.states["char"][:-1], list(characters))


def hit_events(before, after):
    """Something outside the player's own movement struck: damage, new hitlag, a grab."""
    caught = (after["action"] >= 223) & (after["action"] <= 232)
    caught &= (before["action"] < 223) | (before["action"] > 232)
    return ((after["percent"] > before["percent"] + 1e-4) | (after["hitlag"] > np.maximum(before["hitlag"], 0))
            | caught)


# ---------------------------------------------------------------------------------------------------------------------
# Scores of one game
# ---------------------------------------------------------------------------------------------------------------------

STEP = np.dtype([("family", "i4"), ("dx", "f4"), ("dy", "f4"), ("right", "?"), ("changed", "?"), ("aged", "?"),
                 ("before", "i4"), ("true", "i4"), ("predicted", "i4"), ("character", "i4")])
WINDOW = np.dtype([("frames", "i4"), ("error", "f4"), ("clean", "?"), ("moving", "?"), ("right", "?"),
                   ("character", "i4")])
DIVERGENCE = np.dtype([("family", "i4"), ("cause", "i4", 3)])  # cause: action before, true, simulated; -1 motion only
HIT = np.dtype([("true", "?"), ("predicted", "?"), ("found", "?"), ("right", "?"), ("kind", "i4"), ("swing", "i8"),
                ("damage", "f4"), ("launch", "f4"), ("hitlag", "f4"), ("hitstun", "f4"), ("character", "i4"),
                ("before", "i4"), ("attack", "i4")])
Scores = collections.namedtuple("Scores", "path stage frames steps hits windows divergences")


def score_steps(game, answer, characters, by):
    before, after, scored = game.states[:-1], game.states[1:], are_scored(game, characters)
    family = FAMILY[np.minimum((after if by == "dst" else before)["action"], LAST_ACTION)]
    family[(family == FAMILY_NAMES.index("jump/fall")) & (after["fastfall"] == 1)] = FASTFALL
    family[hit_events(before, after)] = HIT_EVENT
    steps = np.zeros(before.shape, STEP)
    steps["family"], steps["character"] = family, before["char"]
    steps["dx"], steps["dy"] = abs(answer["x"] - after["x"]), abs(answer["y"] - after["y"])
    steps["right"], steps["changed"] = answer["action"] == after["action"], before["action"] != after["action"]
    steps["aged"] = abs(answer["age"] - after["age"]) < AGED
    steps["before"], steps["true"], steps["predicted"] = before["action"], after["action"], answer["action"]
    return steps[scored]


def damaging(before, after):
    """-> [T - 1, 2] of the victims: are they hit, and which kind of hit is it? Who is out of the picture loses a
    percent a second: no hit, as nobody freezes and no item of the other's is there."""
    hurt = (after["percent"] > before["percent"] + HIT_PERCENT) & (after["action"] > DEAD_UNTIL)
    held = np.isin(before["action"], list(HELD))
    freezes = (after["hitlag"] > before["hitlag"])[:, ::-1]  # the attacker, who feels his own blows but not his shots
    shoots = np.stack([owns_items(before["items"][:, 0], attacker) for attacker in (1, 0)], 1)
    return hurt & (held | freezes | shoots), np.where(held, HOLD, np.where(freezes, BLOW, SHOT))


def near(hits):
    """The frames that lie within SLACK of a hit on the same victim."""
    out = hits.copy()
    for shift in range(1, SLACK + 1):
        out[shift:] |= hits[:-shift]
        out[:-shift] |= hits[shift:]
    return out


def score_hits(game, answer, characters):
    """A hit is a frame on which the percent rises, in the truth and in the prediction alike. Throws and pummels, that
    is every hit on somebody held, are a kind of their own, and so are projectiles, which do not freeze who sent them.
    found: a true hit with a predicted one at most a frame off; right: a predicted one with a true one. Swing: the
    attacker and the frame on which his action began, as a box in the wrong place is wrong for as long as it is out."""
    before, after = game.states[:-1], game.states[1:]
    scored = are_scored(game, characters).all(1)[:, None]
    hurt, true_kind = damaging(before, after)
    would, predicted_kind = damaging(before, answer)
    true, predicted = scored & hurt, scored & would
    attackers = after[:, ::-1]
    begins = (attackers["t_act"] == 0) & (before["hitlag"][:, ::-1] <= 1)
    swing = np.maximum.accumulate(np.where(begins, np.arange(len(before))[:, None], 0), 0) * 2 + [0, 1]
    hits = np.zeros(before.shape, HIT)
    hits["true"], hits["predicted"], hits["found"], hits["right"] = true, predicted, near(predicted), near(true)
    hits["kind"], hits["swing"] = np.where(true, true_kind, predicted_kind), swing
    hits["character"], hits["before"], hits["attack"] = before["char"], before["action"], attackers["action"]
    hits["damage"] = abs(answer["percent"] - after["percent"])
    speed, true_speed = (np.hypot(state["kb_vx"], state["kb_vy"]) for state in (answer, after))
    hits["launch"] = np.where(true_speed > 1e-3, abs(speed - true_speed) / np.maximum(true_speed, 1e-3), np.nan)
    hits["hitlag"] = abs(answer["hitlag"] - after["hitlag"])
    hits["hitstun"] = abs(answer["hitstun"] - after["hitstun"])
    return hits[true | predicted]


def score_windows(sim, game, memory):
    """Clean windows: nobody is hit, grabbed or dies in them, a simulator of movement alone can be judged there."""
    characters = getattr(sim, "CHARS", None)
    alive, scored = are_scored(game, None).all(1), are_scored(game, characters)
    events, longest = hit_events(game.states[:-1], game.states[1:]), max(FREE_FRAMES)
    starts = np.arange(0, len(game.states) - longest - 1, STRIDE)
    starts = starts[alive[starts]]
    windows, divergences = [], []
    if not len(starts):
        return np.zeros(0, WINDOW), np.zeros(0, DIVERGENCE)
    state, scored = copied(game.states[starts], state_type(sim)), scored[starts]
    if memory is not None:
        state["memory"] = memory[starts // STRIDE]
    dirty, lost, path = np.zeros(scored.shape, bool), np.zeros(scored.shape, bool), np.zeros(scored.shape)
    cause = np.full((*scored.shape, 3), -1)
    for frame in range(1, longest + 1):
        state = sim.step(state, game.inputs[starts + frame].copy(), game.stage)
        before, after = game.states[starts + frame - 1], game.states[starts + frame]
        dirty |= events[starts + frame - 1].any(1, keepdims=True) | (after["action"] <= DEAD_UNTIL)
        dirty |= after["stocks"] < 1
        path += np.hypot(after["x"] - before["x"], after["y"] - before["y"])
        error, right = np.hypot(state["x"] - after["x"], state["y"] - after["y"]), state["action"] == after["action"]
        first = ~right & (cause[:, :, 0] < 0)
        cause[first] = np.stack([before["action"], after["action"], state["action"]], -1)[first]
        diverges = scored & ~dirty & ~lost & (error > FAR)
        lost |= error > FAR
        divergence = np.zeros(diverges.sum(), DIVERGENCE)
        divergence["family"] = FAMILY[np.minimum(after["action"][diverges], LAST_ACTION)]
        divergence["cause"] = cause[diverges]
        divergences.append(divergence)
        if frame in FREE_FRAMES:
            window = np.zeros(scored.shape, WINDOW)
            window["frames"], window["error"], window["clean"], window["right"] = frame, error, ~dirty, right
            window["moving"], window["character"] = path / frame >= MOVING, before["char"]
            windows.append(window[scored])
    return np.concatenate(windows), np.concatenate(divergences)


def score(sim, games, by="dst", free=True):
    """-> a Scores for each game."""
    characters, scores = getattr(sim, "CHARS", None), []
    for game, answer, memory in zip(games, *one_step(sim, games), strict=True):
        windows, divergences = (score_windows(sim, game, memory) if free
                                else (np.zeros(0, WINDOW), np.zeros(0, DIVERGENCE)))
        scores.append(Scores(game.path, game.stage, len(game.states), score_steps(game, answer, characters, by),
                             score_hits(game, answer, characters), windows, divergences))
    return scores


# ---------------------------------------------------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------------------------------------------------

def gathered(scores, field):
    return np.concatenate([getattr(score, field) for score in scores])


def percentage(values):
    """Percent of the true ones among the values, None of nothing."""
    return 100 * float(np.mean(values)) if len(values) else None


def step_figures(steps):
    close_x, close_y = steps["dx"] < CLOSE, steps["dy"] < CLOSE
    return {"frames": len(steps), "dx<.01": percentage(steps["dx"] < CLOSE / 10), "dx<.1": percentage(close_x),
            "dy<.01": percentage(steps["dy"] < CLOSE / 10), "dy<.1": percentage(close_y),
            "position": percentage(close_x & close_y), "action": percentage(steps["right"]),
            "changes": percentage(steps["right"][steps["changed"]]),
            "animation": percentage(steps["aged"][steps["right"]])}


def swing_figures(hits):
    """-> how many swings truly hit and how many should have, and the shares of them that did the other, too."""
    true, found, predicted, right = (set(hits["swing"][chosen].tolist()) for chosen in (
        hits["true"], hits["true"] & hits["found"], hits["predicted"], hits["predicted"] & hits["right"]))
    return {"swings": len(true), "predicted_swings": len(predicted),
            "swing_recall": 100 * len(found) / len(true) if true else None,
            "swing_precision": 100 * len(right) / len(predicted) if predicted else None}


def hit_figures(hits):
    both = hits[hits["true"] & hits["predicted"]]
    true, predicted = hits[hits["true"]], hits[hits["predicted"]]
    return {"true": len(true), "predicted": len(predicted), "same_frame": len(both),
            "recall": percentage(true["found"]), "precision": percentage(predicted["right"]), **swing_figures(hits),
            "damage": percentage(both["damage"] < .1),
            "launch": percentage(both["launch"][~np.isnan(both["launch"])] < .05),
            "hitlag": percentage(both["hitlag"] < .5), "hitstun": percentage(both["hitstun"] <= 1)}


def window_figures(windows):
    out = {}
    for frames in FREE_FRAMES:
        of_length = windows[windows["frames"] == frames]
        for name, chosen in (("all", of_length), ("clean", of_length[of_length["clean"]]),
                             ("clean, moving", of_length[of_length["clean"] & of_length["moving"]])):
            if len(chosen):
                out[f"{frames} {name}"] = {
                    "number": len(chosen), "median": float(np.median(chosen["error"])),
                    "p75": float(np.percentile(chosen["error"], 75)), "p90": float(np.percentile(chosen["error"], 90)),
                    "within": percentage(chosen["error"] < FAR), "action": percentage(chosen["right"])}
    return out


def figures(scores):
    """All figures of some games as plain numbers: one step by family, hits by kind, free running by window."""
    steps, hits = gathered(scores, "steps"), numbered_swings(scores)
    families = {name: step_figures(steps[steps["family"] == number]) for number, name in enumerate(FAMILY_NAMES)}
    return {"games": len(scores), "frames": sum(score.frames for score in scores), "ALL": step_figures(steps),
            "ALL but hit events": step_figures(steps[steps["family"] != HIT_EVENT]),
            "families": {name: row for name, row in families.items() if row["frames"]},
            "hits": {name: hit_figures(hits[hits["kind"] == kind]) for kind, name in KINDS.items()},
            "free": window_figures(gathered(scores, "windows"))}


def numbered_swings(scores):
    """Hits of all games, their swings numbered through."""
    out = []
    for number, score in enumerate(scores):
        hits = score.hits.copy()
        hits["swing"] += number << 32
        out.append(hits)
    return np.concatenate(out)


# ---------------------------------------------------------------------------------------------------------------------
# Reports
# ---------------------------------------------------------------------------------------------------------------------

def shown(value, width=8):
    return f"{'-' if value is None else f'{value:.1f}':>{width}s}"


def report_steps(found, title):
    columns = ("dx<.01", "dx<.1", "dy<.01", "dy<.1", "position", "action", "changes", "animation")
    print(f"\n{title}\n{'family':24s}{'share':>7s}" + "".join(
        f"{name:>8s}" for name in (*columns[:4], "xy<.1", "action", "act@chg", "anim")))
    rows = {**found["families"], "ALL": found["ALL"], "ALL but hit events": found["ALL but hit events"]}
    for name, row in rows.items():
        if row["frames"]:
            share = 100 * row["frames"] / found["ALL"]["frames"]
            print(f"{name:24s}{share:7.1f}" + "".join(shown(row[column]) for column in columns))


def report_hits(found):
    if not any(row["true"] for row in found["hits"].values()):
        print("\nno hits in these replays")
        return
    print(f"\nhits, one step ('found' and 'right': at most a frame off)\n{'kind':18s}{'true':>7s}{'predicted':>11s}"
          f"{'same frame':>12s}{'recall':>8s}{'precision':>11s}{'swings':>9s}{'recall':>8s}{'precision':>11s}"
          f"{'damage':>9s}{'launch':>8s}{'hitlag':>8s}{'hitstun':>9s}")
    for name, row in found["hits"].items():
        print(f"{name:18s}{row['true']:7d}{row['predicted']:11d}{row['same_frame']:12d}{shown(row['recall'])}"
              f"{shown(row['precision'], 11)}{row['swings']:9d}{shown(row['swing_recall'])}"
              f"{shown(row['swing_precision'], 11)}{shown(row['damage'], 9)}{shown(row['launch'])}"
              f"{shown(row['hitlag'])}{shown(row['hitstun'], 9)}")
    print("  on the same frame: damage within .1, launch speed within 5 %, hitlag exact, hitstun within 1")


def report_windows(found, divergences, most):
    print(f"\nfree running from every {STRIDE}th frame with the true inputs of both: position error after k frames\n"
          f"{'k':>4s}  {'windows':16s}{'number':>8s}{'median':>9s}{'p75':>9s}{'p90':>9s}{'<1 unit':>9s}{'action':>9s}")
    for name, row in found["free"].items():
        frames, kind = name.split(" ", 1)
        print(f"{frames:>4s}  {kind:16s}{row['number']:8d}{row['median']:9.3f}{row['p75']:9.2f}{row['p90']:9.2f}"
              f"{row['within']:9.1f}{row['action']:9.1f}")
    number = max(len(divergences), 1)
    families = collections.Counter(divergences["family"].tolist()).most_common(9)
    print("first divergence of clean windows by family: "
          + ", ".join(f"{FAMILY_NAMES[family]} {100 * times / number:.0f}%" for family, times in families))
    if most:
        print("... and by the first action mismatch before it (from -> true | simulated; none: motion only)")
        causes = collections.Counter(map(tuple, divergences["cause"].tolist()))
        for (before, true, simulated), times in causes.most_common(most):
            change = f"{action_name(before)} -> {action_name(true)} | {action_name(simulated)}"
            print(f"  {100 * times / number:5.1f}%  {'none' if before < 0 else change}")


def report_worst(scores, most):
    steps, hits = gathered(scores, "steps"), gathered(scores, "hits")
    steps = steps[steps["family"] != HIT_EVENT]
    far = (steps["dx"] > CLOSE) | (steps["dy"] > CLOSE)
    print(f"\nposition wrong by > {CLOSE}: {percentage(far):.2f}% of frames; largest groups (from -> true next | "
          "predicted next)")
    for rows, title in ((steps[far], None), (steps[~steps["right"]], "action wrong; largest groups")):
        if title:
            print(title)
        groups = collections.Counter(map(tuple, rows[["before", "true", "predicted"]].tolist()))
        for (before, true, predicted), times in groups.most_common(most):
            print(f"  {times:6d}  {action_name(before):>26s} -> {action_name(true):<26s} | {action_name(predicted)}")
    for kind, name in KINDS.items():
        for rows, title in ((hits[hits["true"] & ~hits["found"]], "missed"),
                            (hits[hits["predicted"] & ~hits["right"]], "false")):
            rows = rows[rows["kind"] == kind]
            groups = collections.Counter(map(tuple, rows[["attack", "before"]].tolist()))
            print(f"{name}, {title} ({len(rows)}): largest groups (attack on victim's action)")
            for (attack, before), times in groups.most_common(most // 2):
                print(f"  {times:6d}  {action_name(attack):>26s} on {action_name(before)}")


@functools.cache
def action_name(action):
    from melee.enums import Action
    try:
        return Action(int(action)).name
    except ValueError:
        return str(int(action))


STAGE_NAMES = {stage: name.replace("_", " ") for name, stage in STAGES.items()}
CHARACTER_NAMES = {character: name.replace("_", " ") for name, character in CHARACTERS.items()}


def summary_rows(scores):
    """-> {name: scores}: Final Destination and Battlefield, all stages, each stage."""
    flat = STAGES["final_destination"], STAGES["battlefield"]
    rows = {"FD + Battlefield": [score for score in scores if score.stage in flat], "all stages": scores}
    for stage in sorted({score.stage for score in scores}):
        rows[STAGE_NAMES.get(stage, str(stage))] = [score for score in scores if score.stage == stage]
    return {name: chosen for name, chosen in rows.items() if chosen}


def of_character(scores, character):
    fields = ("steps", "hits", "windows")
    return [score._replace(**{name: rows[rows["character"] == character] for name in fields
                              for rows in (getattr(score, name),)}) for score in scores]


def report_summary(scores, title):
    """A row for each set of stages and each character (as victim, of hits) -> the figures by the row's name."""
    rows = summary_rows(scores)
    for character in np.unique(gathered(scores, "steps")["character"]).tolist():
        own = [score for score in of_character(scores, character) if len(score.steps)]
        rows[CHARACTER_NAMES.get(character, str(character))] = own
    print(f"\n{title}\n{'':20s}{'games':>6s}{'steps':>9s}{'position':>10s}{'action':>8s}{'changes':>9s}{'anim':>7s}"
          f"{'1 s alone':>11s}{'blows':>7s}{'recall':>8s}{'precision':>11s}{'by swing':>10s}{'throws':>8s}"
          f"{'recall':>8s}"
          f"{'precision':>11s}")
    out = {}
    for name, chosen in rows.items():
        found = out[name] = figures(chosen)
        blows, holds = found["hits"][KINDS[BLOW]], found["hits"][KINDS[HOLD]]
        alone = found["free"].get(f"{max(FREE_FRAMES)} clean, moving", {}).get("within")
        row = found["ALL"]
        print(f"{name:20s}{found['games']:6d}{row['frames']:9d}{shown(row['position'], 10)}{shown(row['action'])}"
              f"{shown(row['changes'], 9)}{shown(row['animation'], 7)}{shown(alone, 11)}"
              f"{blows['true']:7d}{shown(blows['recall'])}"
              f"{shown(blows['precision'], 11)}{shown(blows['swing_precision'], 10)}{holds['true']:8d}"
              f"{shown(holds['recall'])}{shown(holds['precision'], 11)}")
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Cross-validation
# ---------------------------------------------------------------------------------------------------------------------

def group_of(path):
    """The people and session that a file's name tells: by GROUPS, else by day or by what comes before the first _."""
    name = pathlib.Path(path).name
    for pattern, group in GROUPS:
        if fnmatch.fnmatchcase(name, pattern):
            return group
    day = re.match(r"Game_(\d{8})T", name)
    if day:
        return f"day {day[1]}"
    return name.split("_")[0] if "_" in name else pathlib.Path(name).stem


def cross_validate(sim, games, paths, by, free):
    """-> the Scores of all games, each with tables that were learned without its group. paths: all files that there
    are to learn from, those that cannot be scored too."""
    groups, scores = collections.defaultdict(list), {}
    for game in games:
        groups[group_of(game.path)].append(game)
    if len({group_of(path) for path in paths}) < 2:
        raise SystemExit("fidelity.py: --cross-validate needs games of at least two groups of people (see GROUPS)")
    for group, left_out in sorted(groups.items()):
        began = time.perf_counter()
        if any(are_scored(game, getattr(sim, "CHARS", None)).any() for game in left_out):
            learned = sim.learn([path for path in paths if group_of(path) != group])
        else:
            learned = sim                              # nobody whom it supports: nothing to score
        for done in score(learned, left_out, by, free):
            scores[done.path] = done
        print(f"left out: {group} ({len(left_out)} games, {time.perf_counter() - began:.0f} s)", file=sys.stderr)
    return [scores[game.path] for game in games]


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------

def hold_step(state, inputs, stage):
    """Baseline: keep action and velocity."""
    after = state.copy()
    air, moves = state["airborne"] == 1, state["hitlag"] <= 1
    after["x"] += moves * (np.where(air, state["air_vx"], state["ground_vx"]) + state["kb_vx"])
    after["y"] += moves * np.where(air, state["vy"] + state["kb_vy"], 0)
    return after


def load_simulator(name):
    if name == "hold":
        return types.SimpleNamespace(step=hold_step, CHARS=None)
    path = pathlib.Path(name)
    if not path.is_file():
        raise SystemExit(f"fidelity.py: --sim {name}: no such file; a Python module with a function step, or hold")
    sys.path.insert(0, str(path.resolve().parent))     # by its own name: numba's cache on disk asks for it
    module = importlib.import_module(path.stem)
    if not callable(getattr(module, "step", None)):
        raise SystemExit(f"fidelity.py: --sim {name}: has no function step(state, inputs, stage)")
    return module


def load_games(paths):
    games = []
    for path in paths:
        try:
            games.append(Game(path, *load_replay(path)))
        except (ValueError, OSError) as error:
            print(f"skipped {path}: {error}")
    if not games:
        raise SystemExit("fidelity.py: none of these files is a replay that can be scored (two players, Slippi >= 3.8)")
    return games


def versions():
    """What made these figures."""
    import subprocess
    root = pathlib.Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty"], capture_output=True,
                                text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return {"python": sys.version.split()[0], "numpy": np.__version__, "commit": commit,
            "date": time.strftime("%Y-%m-%d", time.gmtime())}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("replays", nargs="+", help=".slp files")
    parser.add_argument("--sim", default="hold", help="file of the simulator, or hold")
    parser.add_argument("--by", choices=["dst", "src"], default="dst", help="family of the next or the present action")
    parser.add_argument("--worst", type=int, default=0, help="show so many of the largest groups of errors, 0 none")
    parser.add_argument("--no-free", action="store_true", help="one step only, no free running")
    parser.add_argument("--cross-validate", action="store_true", help="score each group of games with tables that were "
                        "learned from the others only, beside the tables of the repository")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    sim, games = load_simulator(args.sim), load_games(args.replays)
    print(f"{len(games)} replays, {sum(len(game.states) for game in games)} frames; stages "
          f"{sorted({game.stage for game in games})}, characters "
          f"{sorted({int(character) for game in games for character in np.unique(game.states['char'])})}")
    if args.cross_validate and not hasattr(sim, "learn"):
        raise SystemExit(f"fidelity.py: --cross-validate: {args.sim} has no function learn(paths)")
    free, result = not args.no_free, {"versions": versions(), "sim": args.sim}
    in_sample = score(sim, games, args.by, free)
    if args.cross_validate:
        result["in_sample"] = report_summary(in_sample, "in sample: with the repository's tables, which may have been "
                                                        "measured from these very games")
        scores = cross_validate(sim, games, args.replays, args.by, free)
        result["cross_validated"] = report_summary(scores, "cross-validated: each group of games with tables learned "
                                                           "from the others")
        title = "cross-validated, "
    else:
        scores, title = in_sample, ""
    found = result["all"] = figures(scores)
    if not found["ALL"]["frames"]:
        raise SystemExit("fidelity.py: nobody in these replays is a character that the simulator supports")
    report_steps(found, f"{title}one step from the true state ({found['ALL']['frames']} player-frames), family of the "
                        f"true {'next' if args.by == 'dst' else 'current'} action")
    report_hits(found)
    if args.worst:
        report_worst(scores, args.worst)
    if free:
        report_windows(found, gathered(scores, "divergences"), args.worst)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
