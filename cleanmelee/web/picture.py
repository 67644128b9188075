"""What the page draws: frames as they are, and the shapes that the game itself tests hits against.

The page reads the very records of `cleanmelee.frame`, as bytes, with a `layout` that says where each field lies. What a
FRAME does not hold, because the game derives it, stands beside it in a PICTURE; what does not change within a game is
said once, in a `scene`.
"""

import ast
import functools

import numpy as np

from cleanmelee import game
from cleanmelee.frame import (
    BUTTONS, CHARACTERS, CONTROLLER, FIGHTERS, FRAME, NUM_PLAYERS, PLATFORM_UNIT, PLATFORM_ZERO, PLAYER, STAGES,
)
from cleanmelee.game.characters import MAX_FRAMES, NUM_ACTIONS
from cleanmelee.game.combat import body, shield_bubble
from cleanmelee.game.ids import FOUNTAIN, MAX_FLOORS, YOSHIS_STORY
from cleanmelee.game.stages import RANDALL_FLOOR, RANDALL_PERIOD, RANDALL_WIDTH
from cleanmelee.game.state import HIDDEN_PLAYER
from cleanmelee.libmelee import libmelee_folder

PICTURE = np.dtype([
    ("frame", FRAME), ("controllers", CONTROLLER, NUM_PLAYERS),             # the inputs that made this frame
    ("floors", [("y", "f4"), ("left", "f4"), ("right", "f4")], MAX_FLOORS),  # where they are now; those that move, too
    ("shields", [("radius", "f4"), ("x", "f4"), ("y", "f4")], NUM_PLAYERS)])  # radius 0: none is up

SOMEBODY = game.FOX                                     # whose body stands for that of a fighter whom the game lacks
SHIELD_SIZE, TRIGGER_LEAST = 13.0, .3                   # of such a fighter; from where on the game reads a trigger


def layout(dtype: np.dtype) -> list | dict:
    """Where everything lies in a record, as JSON: [offset, "f4"] of a number, {"at", "each", "count", "of"} of an
    array, {"at", "fields"} of a record; offsets count from the enclosing one."""
    if dtype.subdtype is not None:
        element, shape = dtype.subdtype
        for count in reversed(shape[1:]):
            element = np.dtype((element, count))
        return {"at": 0, "each": element.itemsize, "count": shape[0], "of": layout(element)}
    if dtype.fields is None:
        return [0, dtype.kind + str(dtype.itemsize)]
    fields = {}
    for name in dtype.names:
        kind, at = dtype.fields[name][:2]
        inner = layout(kind)
        fields[name] = [at, inner[1]] if isinstance(inner, list) else inner | {"at": at}
    return {"at": 0, "fields": fields}


def pictures(frames: np.ndarray, controllers: np.ndarray) -> np.ndarray:
    """FRAME [T] of one game and the CONTROLLER [T, 2] that made them -> PICTURE [T]."""
    result = np.zeros(len(frames), PICTURE)
    result["frame"], result["controllers"] = frames, controllers
    stage = int(frames["stage"][0])
    if stage in STAGES.values():
        row = game.TABLES.stages[stage]
        floors = result["floors"]
        for name in ("y", "left", "right"):
            floors[name] = row["floor_" + name]
        if stage == FOUNTAIN:
            for floor, side in ((1, "platform_left"), (2, "platform_right")):
                floors["y"][:, floor] = frames[side] * PLATFORM_UNIT + PLATFORM_ZERO
        elif stage == YOSHIS_STORY:
            left, height = game.TABLES.randall[frames["frame_id"] % RANDALL_PERIOD].T
            floors["left"][:, RANDALL_FLOOR], floors["y"][:, RANDALL_FLOOR] = left, height
            floors["right"][:, RANDALL_FLOOR] = left + RANDALL_WIDTH
    action = frames["players"]["action"]
    shielding = (action >= game.SHIELD_START) & (action <= game.SHIELD_REFLECT) & (action != game.SHIELD_RELEASE)
    for t, k in np.argwhere(shielding).tolist():
        result["shields"][t, k] = shield(frames["players"][t, k], controllers[t, k])
    return result


def shield(player: np.void, controller: np.void) -> tuple[float, float, float]:
    """Radius, x and y of the bubble of a PLAYER who holds this CONTROLLER."""
    secret = np.zeros((), HIDDEN_PLAYER)
    secret["stick_x"], secret["stick_y"] = controller["main_x"], controller["main_y"]
    trigger = max(controller["l"], controller["r"])
    secret["buttons"], secret["trigger"] = controller["buttons"], trigger if trigger >= TRIGGER_LEAST else 0
    radius, bottom, top, forward = shield_bubble(player, secret[()], fighter(int(player["character"])))
    return radius, player["x"] + forward * player["facing"], player["y"] + (bottom + top) / 2


def fighter(character: int) -> np.void:
    """The game's row of a character; of one whom it does not play, a stand-in's without attacks."""
    if character in CHARACTERS.values():
        return game.TABLES.characters[character]
    row = game.TABLES.characters[SOMEBODY].copy()
    row["hit_row"], row["shield_size"], row["special_start"] = 0, SHIELD_SIZE, 0
    return row


# ---------------------------------------------------------------------------------------------------------------------
# What a game's pictures share
# ---------------------------------------------------------------------------------------------------------------------

def scene(stage: int, characters: list[int]) -> dict:
    """The stage and the fighters' shapes, for the page. JSON."""
    return {"stage": stage_shape(stage), "fighters": {k: fighter_shape(k) for k in sorted(set(characters))},
            "buttons": BUTTONS, "layout": layout(PICTURE), "size": PICTURE.itemsize}


def stage_shape(stage: int) -> dict:
    """Floors, underside and blast zones; floors 0 where the game does not know the stage."""
    row = game.TABLES.stages[stage if stage in STAGES.values() else STAGES["final_destination"]]
    names = {k: name for name, k in STAGES.items()}
    slope = [float(row[name]) for name in ("slope_start", "slope", "slope_length")]
    return {"name": names.get(stage, f"stage {stage}"), "floors": int(row["num_floors"]) if stage in names else 0,
            "blast": [float(row["blast_" + side]) for side in ("left", "right", "top", "bottom")],
            "slope": [min(value, 1e3) for value in slope], "bottom": float(row["wall_bottom"]),
            "hull": float(row["hull"])}


@functools.lru_cache(maxsize=64)
def fighter_shape(character: int) -> dict:
    """A character's name, height, hurtboxes, hitboxes and names of actions.

    bodies: [radius, bottom, top, forward] of the upright capsule, in "air", on "ground", in a "special" in the air, and
    by action where it is another; that a landing is low at first is not shown. hitboxes: by action and by the frame of
    the action, from 1, lists of [x, y, radius, damage, is a grab]; x points forward."""
    row = fighter(character)
    player = np.zeros((), PLAYER)
    player["character"] = character

    def capsule(action, airborne):
        player["action"], player["airborne"] = action, airborne
        return [round(float(value), 2) for value in body(player[()], row)]

    bodies = {"ground": capsule(game.WAIT, 0), "air": capsule(game.FALL, 1),
              "special": capsule(game.FIRST_OWN_ACTION, 1)}
    bodies |= {action: shape for action in range(game.TECH) if (shape := capsule(action, 0)) != bodies["ground"]}
    bodies |= {action: capsule(action, 1) for action in np.flatnonzero(row["aerial"] >= 0).tolist()}
    hitboxes = {}
    for action in np.flatnonzero(row["hit_row"].any(1)).tolist():
        for at in np.flatnonzero(row["hit_row"][action]).tolist():
            boxes = game.TABLES.hitboxes[row["hit_row"][action, at]]
            hitboxes.setdefault(action, {})[at] = [
                [round(float(boxes[name][k]), 2) for name in ("x", "y", "size", "damage")]
                + [int(boxes["effect"][k] == game.EFFECT_GRAB)] for k in np.flatnonzero(boxes["size"]).tolist()]
    lengths = {action: int(row["frames"][action]) for action in hitboxes}
    names = {k: name for name, k in FIGHTERS.items()}
    return {"name": names.get(character, f"fighter {character}"), "height": float(row["height"]), "bodies": bodies,
            "hitboxes": hitboxes, "lengths": lengths, "actions": action_names(row), "most_frames": MAX_FRAMES}


SPECIALS = {1: "neutral special", 2: "side special", 3: "up special", 4: "down special"}


def action_names(row: np.void) -> dict[int, str]:
    """By id. What all have in common is called as in libmelee; what a character has of his own after the special that
    begins before it, since their ids lie together."""
    names = {k: name for k, name in common_action_names().items() if k < game.FIRST_OWN_ACTION}
    starts = sorted((int(action), direction) for airborne in row["special_start"]
                    for direction, action in enumerate(airborne.tolist()) if action)
    for action in range(game.FIRST_OWN_ACTION, NUM_ACTIONS):
        before = [direction for start, direction in starts if start <= action]
        names[action] = f"{SPECIALS[before[-1]]} {action}" if before else f"action {action}"
    names |= {own: names[common] for common, own in enumerate(row["own_action"].tolist()) if own >= len(
        row["own_action"])}
    return names


@functools.lru_cache(maxsize=1)
def common_action_names() -> dict[int, str]:
    """libmelee's own, read where it is installed; importing it takes a second."""
    tree = ast.parse((libmelee_folder() / "enums.py").read_text())
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == "Action":
            for line in node.body:
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
                    names.setdefault(line.value.value, line.targets[0].id.replace("_", " ").lower())
    return names
