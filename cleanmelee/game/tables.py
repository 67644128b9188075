"""The tables of the game: derived from the rows of characters.py and stages.py, data/ and libmelee's frame data."""

import collections
import csv
import importlib.metadata
import os
import pathlib
import tempfile

import numpy as np

from cleanmelee.frame import FALCO, GAMEANDWATCH, MARTH, MEWTWO
from cleanmelee.game.characters import (
    ATTRIBUTES, ATTRIBUTE_ROWS, BODY_ROWS, BRAKE_FRAMES, CHARACTER, CHARGE_ROWS, CONFUSION, DIVES, DIVE_STRIKES,
    EFFECTS, EXTRA_SHOT_ROWS, FAST_FALLS, GAMEANDWATCH_ACTIONS, GRAB_REACH, GUARD_ROWS, GUESSED_SPECIALS, HELD_ROWS,
    HELPLESS_FALL, HITBOXES, HIT_ROWS, HOLD_LEAST, HOLD_ROWS, HOVER_ROWS, INTANGIBLE_ROWS, JAB_ROWS, LANDING_LAG_ROWS,
    LANDS_AS, LANDS_HALFWAY, LAUNCH_ALONG, LAUNCH_BY_STICK, LAUNCH_STARTS, LEDGE_BOX, LEDGE_SPECIALS, MAX_FRAMES,
    MIRRORED, NUM_ACTIONS, NUM_CHARACTERS, PROJECTILE, PROJECTILE_ROWS, PUSH_WIDTH, RAPID_JABS, RESTORES_JUMP,
    RISE_FALLS, RISE_ROWS, RUN_TURN, RUN_TURNS, SHOT_ROWS, SMASH_HOLD, STEERED_ROWS, TRANSFORMS, UP_LAUNCH,
    WALKS_OFF_AS, WALL_JUMPERS, WALL_WIDTH, WARP_ENDS,
)
from cleanmelee.game.compiler import PLACE, RULES_DIGEST, digest
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.stages import HULL, RANDALL_PATH, RANDALL_PERIOD, REVIVE, SLOPES, STAGE, STAGE_ROWS, WALL_BOTTOM
from cleanmelee.libmelee import libmelee_folder, zero_indexed_actions

ANYONE = -1                                            # in the tables of data/: a row for whoever has none of his own
REACHES = {GRAB_PULL: "pull_reach", GRAB_DASH_PULL: "dash_pull_reach", HOLD: "hold_reach"}
LET_GO = "let_go"                                      # in place of a frame: where the throw lets go
WHOLE = np.dtype([  # all tables in one record: the rules hand on one pointer, not fifty numbers of eight arrays
    ("characters", CHARACTER, NUM_CHARACTERS), ("stages", STAGE, NUM_STAGES), ("hitboxes", HITBOXES, 4096),
    ("root_motion", "f4", (512, MAX_FRAMES, 3)), ("velocities", "f4", (512, MAX_FRAMES, 3)),
    ("special_motion", "f4", (64, MAX_FRAMES, 2)), ("projectiles", PROJECTILE, NUM_ITEM_TYPES),
    ("randall", "f4", (RANDALL_PERIOD, 2))])
Tables = collections.namedtuple("Tables", (*WHOLE.names, "whole"))  # whole [1] WHOLE; the others are their rows in it
DATA = pathlib.Path(__file__).resolve().parent / "data"


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def build_tables(folder=DATA):
    """Derive every table from the rows above, the CSV files of a folder and libmelee's framedata.csv."""
    def read_rows(name):
        return read_csv(folder / name)

    characters = np.zeros(NUM_CHARACTERS, CHARACTER)
    for character, blocks in ATTRIBUTE_ROWS.items():
        row = characters[character]
        for name, value in zip(ATTRIBUTES, (value for block in blocks for value in block), strict=True):
            row[name] = value
        row["ledge_width"], row["ledge_top"], row["ledge_height"] = LEDGE_BOX[character]
        row["shield_size"], _, row["wall_jump"], row["ledge_jump"] = BODY_ROWS[character]
        frames, row["dive_damage"], row["dive_throw"] = DIVE_STRIKES.get(character, ((), 0, 0))
        row["dive_strikes"][list(frames)] = 1
        row["lands_halfway"] = character in LANDS_HALFWAY
        row["catches"][list(LEDGE_SPECIALS.get(character, ()))] = 1
        row["wall_width"], row["wall_jumps"] = 2, character in WALL_JUMPERS
        row["run_turn"] = RUN_TURNS.get(character, RUN_TURN)
        for first, last, straight, helpless in LANDING_LAG_ROWS.get(character, ()):
            row["landing_lag_special"][first:last + 1] = straight, helpless
        for action, width in WALL_WIDTH.get(character, {}).items():
            row["wall_width"][action] = width
        row["push_width"] = PUSH_WIDTH.get(character, 3.3)
        row["pull_reach"], row["hold_reach"] = GRAB_REACH.get(character, (8, 9))
        row["dash_pull_reach"] = row["pull_reach"]
        (row["launch_actions"], row["launch_frames"], row["launch_speed"], row["launch_slow_from"],
         row["launch_slower"], row["launch_kept"]) = UP_LAUNCH.get(character, (-1, 0, 0, 0, 0, 0))
        row["launch_by_stick"], row["warp_end"] = LAUNCH_BY_STICK.get(character, 0), WARP_ENDS.get(character, -1)
        row["launch_along"] = LAUNCH_ALONG.get(character, -1)
        (row["start_keep_x"], row["start_keep_y"], row["start_lift"], row["start_gravity"], row["start_fall"],
         row["start_steered"]) = LAUNCH_STARTS.get(character, (0, 0, 0, 0, 0, 0))
        rises, first, *aim = RISE_ROWS.get(character, ((), 0, 0, 0, 0, 0))
        row["rise_first"][list(rises)] = first
        row["rise_faces"], row["rise_slope"], row["rise_dead_zone"], row["rise_widest"] = aim
        row["rise_gravity"], row["rise_drift"] = RISE_FALLS.get(character, (0, 0))
        row["dives"][list(DIVES.get(character, ()))] = 1
        for action, (following, frame) in LANDS_AS.get(character, {}).items():
            row["lands_as"][action], row["lands_at"][action] = following, frame
            if frame < 0:
                row["walks_off_as"][following] = action
        for action, following in WALKS_OFF_AS.get(character, {}).items():
            row["walks_off_as"][action] = following
        row["fast_falls"][:FIRST_OWN_ACTION], row["restores_jump"] = 1, RESTORES_JUMP.get(character, -1)
        row["fast_falls"][list(FAST_FALLS.get(character, ()))] = 1
        row["transforms_into"], row["transform_action"], row["transform_end"] = TRANSFORMS.get(
            character, (character, -1, -1))
        row["shot_type"], *shots = SHOT_ROWS.get(character, (0, (-1, 0, 0, 0, 0, 0), (-1, 0, 0, 0, 0, 0)))
        for index, shot in enumerate(shots):
            for name, value in zip(("action", "frame", "x", "y", "vx", "vy"), shot, strict=True):
                row["shot_" + name][index] = value
        (row["charge_action"], row["charge_stop"], row["charge_frames"], row["charge_steps"],
         row["charge_loop"]) = CHARGE_ROWS.get(character, (-1, -1, 1, 0, 0))
        for first, last, item_type, x, y in HELD_ROWS.get(character, []):
            for name, value in (("type", item_type), ("x", x), ("y", y)):
                row["held_" + name][first:last + 1] = value
        row["hold_action"], row["hold_end"], row["hold_frames"], row["hold_full"] = HOLD_ROWS.get(
            character, (-1, -1, 0, 0))
        row["hold_least"] = HOLD_LEAST.get(character, 0)
        for first, last, kind, first_frame, last_frame in GUARD_ROWS.get(character, []):
            row["guard_kind"][first:last + 1], row["guard_first"][first:last + 1] = kind, first_frame
            row["guard_last"][first:last + 1] = last_frame
        for action, following, first in JAB_ROWS.get(character, ()):
            row["jab_next"][action], row["jab_from"][action] = following, first
        row["rapid_jab"] = RAPID_JABS.get(character, (48, 49))
        row["hover_fall"] = row["fall_max"]
        for first, last, *values in HOVER_ROWS.get(character, []):
            for name, value in zip(("keep", "loss", "frames", "gravity", "keep_y", "lift", "fall", "drift"), values):
                row["hover_" + name][first:last + 1] = value
        row["helpless_drift"], row["helpless_fall"] = HELPLESS_FALL.get(character, (1, row["fall_max"]))
        row["steered"][:FIRST_OWN_ACTION] = 1
        for first, last in STEERED_ROWS.get(character, []):
            row["steered"][first:last + 1] = 1
        for action, following in HIT_ROWS.get(character, {}).items():
            row["hit_action"][action] = following
        extra_shots = EXTRA_SHOT_ROWS.get(character, [])
        row["num_extra_shots"] = len(extra_shots)
        row["has_items"] = row["shot_type"] > 0 or len(extra_shots) > 0
        for index, shot in enumerate(extra_shots):
            row["extra_shots"][index] = shot
        row["next_action"], row["aerial"], row["aerial_landing"] = -1, -1, -1
        row["own_action"] = np.arange(80)
        if character == GAMEANDWATCH:
            for common, own in GAMEANDWATCH_ACTIONS.items():
                row["own_action"][common] = own
        for index in range(5):
            row["aerial"][row["own_action"][65 + index]] = index
            row["aerial_landing"][row["own_action"][70 + index]] = index

    windows = collections.defaultdict(list)
    for move in read_rows("moves.csv"):
        character, action, box = int(move["character"]), int(move["action"]), int(move["hitbox"])
        if action == PUMMEL:
            characters[character]["pummel_frame"] = int(move["first_frame"])
            characters[character]["pummel_damage"] = float(move["damage"])
        if character == GAMEANDWATCH and action < 80:
            action = GAMEANDWATCH_ACTIONS.get(action, action)
        characters[character]["attack_id"][action] = int(move["attack_id"])
        windows[character, action, box].append((int(move["first_frame"]), int(move["last_frame"]), move))

    hitboxes, root_motion = [np.zeros((), HITBOXES)], [np.zeros((MAX_FRAMES, 3), "f4")]
    motion = collections.defaultdict(lambda: np.zeros((MAX_FRAMES, 3), "f4"))
    with open(libmelee_folder() / "framedata.csv", newline="") as file:
        for line in csv.DictReader(file):
            character, action, frame = int(line["character"]), int(line["action"]), int(line["frame"])
            if character not in ATTRIBUTE_ROWS or action >= NUM_ACTIONS:
                continue
            row = characters[character]
            row["frames"][action] = max(row["frames"][action], frame)
            if line["iasa"] == "True" and not row["interruptible"][action]:
                row["interruptible"][action] = frame
            if frame >= MAX_FRAMES:
                continue
            motion[character, action][frame] = (
                float(line["locomotion_x"]), float(line["locomotion_y"]), line["facing_changed"] == "True")
            record = np.zeros((), HITBOXES)
            for box in range(4):
                if line[f"hitbox_{box + 1}_status"] == "True":
                    move = nearest_window(windows, character, action, box, frame)
                    if move is None:
                        continue
                    fill_hitbox(record, box, move, *(line[f"hitbox_{box + 1}_{name}"] for name in ("size", "x", "y")))
                    if (character, action) in MIRRORED:
                        record["x"][box] *= -1
            if character == MEWTWO and action in CONFUSION:
                record["size"][1:], record["effect"][0] = 0, EFFECT_GRAB
            if record["size"].any():
                late = 1 if action in (GRAB, GRAB_DASH) else 0  # grabs come a frame later than listed
                row["hit_row"][action, frame + late] = len(hitboxes)
                hitboxes.append(record)
    for character in ATTRIBUTE_ROWS:
        characters[character]["zero_indexed"] = zero_indexed_actions()[character, :NUM_ACTIONS]
    characters["age_first"], characters["age_rate"] = 1 - characters["zero_indexed"], 1
    characters["age_first"][:, [REBOUND_STOP, REBOUND]] = -1, 0  # seen once
    for line in read_rows("animations.csv"):           # sorted: what anyone does comes before what one does
        character, action = int(line["character"]), int(line["action"])
        rows = characters if character == ANYONE else characters[character:character + 1]
        for name in ("first", "rate", "loop", "last", "stride"):
            if line[name]:
                rows["age_" + name][:, action] = float(line[name])
    characters["frames"] += characters["zero_indexed"] & (characters["frames"] > 0)  # their last frame is not listed
    for (character, action), rows in motion.items():
        if (character, action) == (MEWTWO, 345):       # the recoil of a charged ball, see shoot
            continue
        if action == 200:                              # TECH_FORWARD: the landing's step is none of the roll's
            rows[1] = 0
        if (character, action) == (FALCO, 200):        # somebody pushed him while it was recorded
            rows[24:37, 0] += .3
        friction, least = characters[character]["friction"], 2 if 44 <= action <= 64 else 4  # ground attacks
        if np.abs(rows[:, :2]).sum() > .5 and not slides(rows[1:, 0], friction, least):
            characters[character]["root_row"][action] = len(root_motion)
            root_motion.append(rows)

    for character in ATTRIBUTE_ROWS:
        row = characters[character]
        for index, smash in enumerate((60, 63, 64)):   # unmeasured: forward smashes four frames before they strike
            action = row["own_action"][smash]
            strike = (row["hit_row"][action] > 0).argmax()
            row["smash_hold"][action] = SMASH_HOLD.get(character, (max(strike - 4, 2), 2, 2))[index]
        for name, action in (("tilt_high", 51), ("tilt_low", 55)):
            row[name] = action if row["hit_row"][action].any() else 53
        if not row["frames"][256]:                     # no slow ledge attack: the quick one stands for it
            for name in ("frames", "hit_row", "root_row", "interruptible", "attack_id"):
                row[name][256] = row[name][257]
    velocities = [np.full((MAX_FRAMES, 3), np.nan, "f4")]
    for line in read_rows("velocities.csv"):
        row, action = characters[int(line["character"])], int(line["action"])
        if int(line.get("seen") or 2) < 2 and row["root_row"][action]:  # libmelee's recording is as good
            continue
        if not row["velocity_row"][action]:
            row["velocity_row"][action] = len(velocities)
            velocities.append(np.full((MAX_FRAMES, 3), np.nan, "f4"))
        velocities[row["velocity_row"][action]][int(line["frame"])] = [
            float(line[name] or "nan") for name in ("ground_vx", "air_vx", "vy")]
    for row in characters:                             # not curves: whoever was recorded stood still, or steered
        for action in range(FIRST_OWN_ACTION, NUM_ACTIONS):
            curve = velocities[row["velocity_row"][action]]
            if not np.nan_to_num(curve[:, 0]).any():
                curve[:, 0] = np.nan
            if row["steered"][action]:
                curve[:, 1:] = np.nan
    for line in read_rows("rises.csv"):
        row, action = characters[int(line["character"])], int(line["action"])
        if not row["velocity_row"][action]:
            row["velocity_row"][action] = len(velocities)
            velocities.append(np.full((MAX_FRAMES, 3), np.nan, "f4"))
        velocities[row["velocity_row"][action]][int(line["frame"]), 1:] = line["air_vx"] or "nan", line["vy"]

    special_motion = [np.full((MAX_FRAMES, 2), np.nan, "f4")]
    for line in read_rows("special_motion.csv"):
        row, action = characters[int(line["character"])], int(line["action"])
        if not row["motion_row"][action]:
            row["motion_row"][action] = len(special_motion)
            special_motion.append(np.full((MAX_FRAMES, 2), np.nan, "f4"))
        special_motion[row["motion_row"][action]][int(line["frame"])] = line["forward"], line["up"] or "nan"

    for line in read_rows("hitbox_shapes.csv"):        # of actions that libmelee does not show
        row, action, box = characters[int(line["character"])], int(line["action"]), int(line["hitbox"])
        for frame in range(int(line["first_frame"]), int(line["last_frame"]) + 1):
            move = nearest_window(windows, int(line["character"]), action, box, frame)
            if move is None:
                continue
            if not row["hit_row"][action, frame]:
                row["hit_row"][action, frame] = len(hitboxes)
                hitboxes.append(np.zeros((), HITBOXES))
            fill_hitbox(hitboxes[row["hit_row"][action, frame]], box, move, line["size"], line["x"], line["y"])
    public = {}
    for line in read_rows("attacks.csv"):              # libmelee's may break off, and it marks where a jab can go on
        row, action, length, first = (int(value) for value in line.values())
        public[row, action] = length
        characters[row]["frames"][action] = max(characters[row]["frames"][action], length)
        characters[row]["interruptible"][action] = first or characters[row]["interruptible"][action]
    for line in read_rows("actions.csv"):              # sorted: what anyone does comes before what one does
        character, action = int(line["character"]), int(line["action"])
        if character == ANYONE:
            unknown = characters["frames"][:, action] == 0
            characters["frames"][unknown, action] = int(line["frames"])
            characters["next_action"][:, action] = int(line["next_action"])
            continue
        if int(line["seen"]) < 2 and public.get((character, action), 0) > 0:
            continue
        row = characters[character]
        row["frames"][action], row["next_action"][action] = int(line["frames"]), int(line["next_action"])
    for line in read_rows("feet.csv"):                 # sorted: the usual height first, then that of actions
        row, action = characters[int(line["character"])], int(line["action"])
        row["feet"][action if action >= 0 else slice(None), int(line["first_frame"]):] = float(line["height"])
    for line in read_rows("special_chains.csv"):
        row, action = characters[int(line["character"])], int(line["action"])
        row["next_action"][action] = int(line["next_action"])
        if line["frames"]:
            row["frames"][action] = int(line["frames"])
    for line in read_rows("aerials.csv"):
        row, index = characters[int(line["character"])], int(line["action"]) - 65
        for name in ("landing_lag", "autocancel_before", "autocancel_after"):
            row[name][index] = float(line[name] or 0)
    for line in read_rows("throws.csv"):
        row, index = characters[int(line["character"])], int(line["action"]) - THROW_FORWARD
        row["throw_strike_frame"][index], row["throw_strike"][index] = line["strike_frame"], line["strike_damage"]
        row["throw_frame"][index], row["throw_length"][index] = float(line["release_frame"]), float(line["frames"])
        row["throw_by_weight"][index] = float(line["by_weight"])
        for name in ("damage", "angle", "growth", "base"):
            row["throw_" + name][index] = float(line[name])
    for row in characters:                             # straight to where throws usually let go, if never seen
        for index, release in enumerate(((10, 3), (-9, 6), (3, 20), (3, 2))):
            share = np.minimum(np.arange(MAX_FRAMES) / max(row["throw_frame"][index], 1), 1)[:, None]
            row["thrown_path"][index] = (row["hold_reach"], 0) * (1 - share) + np.array(release) * share
            row["let_go"][index] = release
        row["pummel_path"] = row["hold_reach"], 0
    for line in read_rows("thrown.csv"):
        row, action, place = characters[int(line["character"])], int(line["action"]), (line["dx"], line["dy"])
        if action in REACHES:
            row[REACHES[action]] = float(line["dx"])
        elif action == PUMMEL:
            row["pummel_path"][int(line["frame"]):] = place
        elif line["frame"] == LET_GO:
            row["let_go"][action - THROW_FORWARD] = place
        else:
            row["thrown_path"][action - THROW_FORWARD, int(line["frame"]):] = place
    for line in read_rows("held.csv"):                 # sorted: what anyone does comes first
        character = int(line["character"])
        rows = characters if character == ANYONE else characters[character:character + 1]
        rows["hang_x"], rows["hang_y"] = float(line["dx"]), float(line["dy"])
    for line in read_rows("ledge_poses.csv"):
        characters[int(line["character"])]["ledge_pose"][int(line["frame"])] = float(line["dx"]), float(line["dy"])
    for line in read_rows("dodges.csv"):
        character, action = int(line["character"]), int(line["action"])
        rows = characters if character == ANYONE else characters[character:character + 1]
        rows["dodge_first"][:, action], rows["dodge_last"][:, action] = line["first_frame"], int(line["last_frame"]) + 1
    for character, rows in INTANGIBLE_ROWS.items():
        for first_action, last_action, first, last in rows:
            characters[character]["dodge_first"][first_action:last_action + 1] = first
            characters[character]["dodge_last"][first_action:last_action + 1] = last + 1
    for character, starts in GUESSED_SPECIALS.items():
        for airborne, direction, action in starts:
            characters[character]["special_start"][airborne, direction] = action
    for line in read_rows("specials.csv"):
        start = characters[int(line["character"])]["special_start"]
        start[int(line["airborne"]), int(line["direction"])] = int(line["action"])
    for row in characters:
        row["dodge_last"][row["guard_kind"] == GUARD_DODGE] = row["guard_last"][row["guard_kind"] == GUARD_DODGE] + 1
        row["dodge_first"][row["guard_kind"] == GUARD_DODGE] = row["guard_first"][row["guard_kind"] == GUARD_DODGE]
        for action in set(row["special_start"][:, 3]) - {0, *row["launch_actions"][:2]}:
            row["rises"][action] = root_motion[row["root_row"][action]][:, 1].sum() > 20
    for character, frames in BRAKE_FRAMES.items():
        characters[character]["frames"][RUN_BRAKE] = frames
    marth = characters[MARTH]                          # libmelee's IASA flags of the sword dance open the next part
    marth["follow_from"][349:367], marth["interruptible"][349:367] = marth["interruptible"][349:367], 0

    stages = np.zeros(NUM_STAGES, STAGE)
    for stage, (floors, blast, spawns) in STAGE_ROWS.items():
        row = stages[stage]
        row["num_floors"] = len(floors)
        for index, (y, left, right) in enumerate(floors):
            row["floor_y"][index], row["floor_left"][index], row["floor_right"][index] = y, left, right
        row["blast_left"], row["blast_right"], row["blast_top"], row["blast_bottom"] = blast
        row["spawn_x"], row["spawn_y"] = np.transpose(spawns)
        row["wall_bottom"], row["hull"] = WALL_BOTTOM.get(stage, -30), HULL.get(stage, 2)
        row["slope_start"], row["slope"], row["slope_length"] = SLOPES.get(stage, (np.inf, 0, 0))
        row["slope_cosine"] = 1 / np.hypot(1, row["slope"])
        row["revive_x"], row["revive_y"], row["revive_vy"] = REVIVE.get(stage, ((16, -16), 112.85, -1.15))
    projectiles = np.zeros(NUM_ITEM_TYPES, PROJECTILE)
    for item_type, values in PROJECTILE_ROWS.items():
        projectiles[item_type] = values
    frames, left, height = RANDALL_PATH.T
    randall = np.stack([np.interp(np.arange(RANDALL_PERIOD), frames, values, period=RANDALL_PERIOD)
                        for values in (left, height)], axis=1)
    return packed(characters, stages, np.array(hitboxes), np.array(root_motion), np.array(velocities),
                  np.array(special_motion), projectiles, randall)


def packed(*tables):
    """-> Tables of these, in the order of WHOLE. ValueError if one has more rows than there is room for."""
    whole = np.zeros(1, WHOLE)
    rooms = [whole[name][0] for name in WHOLE.names]
    for name, room, rows in zip(WHOLE.names, rooms, tables, strict=True):
        if len(rows) > len(room):
            raise ValueError(f"{name}: {len(rows)} rows, and WHOLE has room for {len(room)}")
        room[:len(rows)] = rows
    return Tables(*(room[:len(rows)] for room, rows in zip(rooms, tables, strict=True)), whole)


def slides(motion, friction, least):
    """Does a recorded motion along the floor only lose its friction each frame? Then it is not the animation's."""
    moving = np.flatnonzero(motion[1:] > 0) + 1
    losses = motion[moving - 1] - motion[moving]
    slowing = np.minimum(abs(losses - friction), abs(losses - 2 * friction)) < .011
    return len(moving) > least and motion[0] > 0 and slowing.all()


def fill_hitbox(record, box, move, size, x, y):
    """Shape from libmelee or hitbox_shapes.csv, blow from a row of moves.csv."""
    record["size"][box], record["x"][box], record["y"][box] = float(size), float(x), float(y)
    for name in ("damage", "angle", "growth", "set_knockback", "base"):
        record[name][box] = float(move[name])
    record["effect"][box] = EFFECTS.get(move["effect"], EFFECT_NORMAL)


def nearest_window(windows, character, action, box, frame):
    """The row of moves.csv for this hitbox on this frame; public frame data and libmelee differ by a frame at times."""
    rows = windows.get((character, action, box)) or [
        row for other in range(4) for row in windows.get((character, action, other), [])]
    def distance(row):
        first, last, _ = row
        return 0 if last == 0 else max(first - frame, frame - last, 0)
    return min(rows, key=distance)[2] if rows else None


def load_tables():
    """The tables, as kept by an earlier start if these very sources, data and libmelee made them, else anew."""
    libmelee_folder()
    made_of = digest(RULES_DIGEST, f"libmelee {importlib.metadata.version('melee')}", *sorted(DATA.glob("*.csv")))
    kept = PLACE / f"tables-{made_of}.npz" if PLACE else None
    try:
        with np.load(kept) as file:
            return packed(*(file[name] for name in WHOLE.names))
    except Exception:                                  # none, empty or torn: numpy and zipfile raise what they like
        tables = build_tables()
    if kept:
        keep_tables(tables, kept)
    return tables


def keep_tables(tables, path):
    """Whole or not at all, since several processes may start together; what earlier sources made is removed."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written = pathlib.Path(folder) / path.name
            np.savez(written, **{name: getattr(tables, name) for name in WHOLE.names})
            os.replace(written, path)
        for old in set(path.parent.glob("tables-*.npz")) - {path}:
            old.unlink(missing_ok=True)
    except OSError:
        pass


TABLES = load_tables()
