"""Measures the embedded game's learned tables again, from replays, and derives its move tables from public frame data.

    python tests/tools/build_tables.py replays/         # actions, animations, feet, velocities, ledge_poses, specials,
                                                        # dodges, thrown, held
    python tests/tools/build_tables.py --frame-data folder replays/  # also moves.csv, aerials.csv and attacks.csv

Replays need Slippi 3.8 or later (velocities and hitlag) and two players. The frame data folder holds hitboxes_all.csv
and moves_all.csv. All numbers are modes or medians of what the game itself logged, and the column seen says how often;
fast falls, hitlag, walls, edges and the other's body are left out.
"""

import collections
import csv
import functools
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from cleanmelee import game
from cleanmelee.libmelee import libmelee_folder, zero_indexed_actions

DATA = game.tables.DATA
ANYONE = -1                                            # a row for every character without one of his own
MAX_FRAMES, NUM_ACTIONS = game.characters.MAX_FRAMES, game.characters.NUM_ACTIONS
REPEATING = (14, 15, 16, 17, 21, 29, 32, 35, 38, 40)   # actions that start over by themselves
LEDGE_ACTIONS = (254, 255, 256, 257, 258, 259, 260, 262)
JUMPS = (25, 26, 27, 28, 261, 263)                     # from the ledge, too: they seldom last to their end
FALLING = (29, 30, 31, 32, 33, 34, 35, 38)
FEET_LOCKED = 10                                       # frames in the air before the feet follow the animation
HOLDS = (213, 215, 216)                                # pulling in, also out of a dash, and holding
WALKING = (15, 16, 17, 21, 40, 253)                    # and hanging on the ledge
STRIDES = (15, 16, 17, 21)                             # animations as fast as the feet
RULED = (43, *range(70, 75), 181, *range(219, 223), *range(238, 243))  # as fast as a lag or a weight has them
NATURAL_NEXT = {12, 13, 14, 29, 30, 31, 32, 33, 34, 35, 38, 40, 179, 184, 192, 216, 246, 253, 261, 263,
                *range(341, 400)}
EDGES = {stage: rows[0][0][2] for stage, rows in game.stages.STAGE_ROWS.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Replays
# ---------------------------------------------------------------------------------------------------------------------

def load_players(path):
    """-> stage and two dicts of arrays, one per player, or None for a replay of no use here."""
    import peppi_py
    try:
        replay = peppi_py.read_slippi(str(path))
    except BaseException as error:                     # peppi panics on broken files with a BaseException
        if isinstance(error, KeyboardInterrupt):
            raise
        return None
    ports = replay.frames.ports if replay.frames is not None else []
    if tuple(replay.start.slippi.version) < (3, 8, 0) or len(ports) != 2 or any(port.follower for port in ports):
        return None
    ids = column(replay.frames.id)
    last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]  # rollback logs frames again; the last is real
    last = last[ids[last] >= -39]
    players = []
    for port in ports:
        pre, post = port.leader.pre, port.leader.post
        get = lambda array: np.nan_to_num(column(array)[last].astype(np.float64))
        player = dict(
            x=get(post.position.x), y=get(post.position.y), facing=np.where(get(post.direction) < 0, -1, 1),
            air_vx=get(post.velocities.self_x_air), vy=get(post.velocities.self_y),
            ground_vx=get(post.velocities.self_x_ground), kb_vx=get(post.velocities.knockback_x),
            kb_vy=get(post.velocities.knockback_y), age=get(post.state_age), hitlag=get(post.hitlag),
            action=get(post.state).astype(int), airborne=get(post.airborne).astype(int),
            character=get(post.character).astype(int), hurtbox=get(post.hurtbox_state).astype(int),
            stick_x=get(pre.joystick.x), stick_y=get(pre.joystick.y), buttons=get(pre.buttons).astype(int),
            fastfall=(get(post.state_flags[1]).astype(int) >> 3) & 1)
        player["frame"] = action_frames(player)
        players.append(player)
    find_contacts(int(replay.start.stage), players)
    return int(replay.start.stage), players


def find_contacts(stage, players):
    """Marks the frames on which something other than the action moves or stops somebody: the other's body, an edge."""
    first, second = players
    near = (abs(first["x"] - second["x"]) < 8) & (abs(first["y"] - second["y"]) < 1)
    for player in players:
        at_edge = np.zeros(len(player["x"]), bool)
        for _, left, right in game.stages.STAGE_ROWS.get(stage, [[]])[0]:
            at_edge |= np.minimum(abs(player["x"] - left), abs(player["x"] - right)) < .3
        player["contact"] = (near | at_edge) & (player["airborne"] == 0)
        wall = EDGES.get(stage, np.inf)
        player["contact"] |= (player["airborne"] == 1) & (player["y"] < 0) & (abs(player["x"]) < wall + 5)


def column(array):
    return np.asarray(array.to_numpy(zero_copy_only=False))


def action_frames(player):
    """Frames since the action began, standing still in hitlag."""
    action, age, hitlag = player["action"], player["age"], player["hitlag"]
    frames = np.zeros(len(action), int)
    for t in range(1, len(action)):
        same = action[t] == action[t - 1]
        onward = same and age[t] >= age[t - 1]
        if onward and hitlag[t - 1] > 1:
            frames[t] = frames[t - 1]
        elif onward or (same and action[t] in REPEATING):
            frames[t] = frames[t - 1] + 1
    return frames


# ---------------------------------------------------------------------------------------------------------------------
# What is measured
# ---------------------------------------------------------------------------------------------------------------------

def measure_endings(player, endings):
    """How long an action lasts when nothing cuts it short, and what follows; 0 follows a jump that was cut short."""
    action, frame = player["action"], player["frame"]
    start = 0
    while start < len(action) - 1:
        end = start
        while end < len(action) - 1 and action[end + 1] == action[start] and frame[end + 1] == frame[end] + 1:
            end += 1
        if end < len(action) - 1 and frame[start] == 0 and not player["hitlag"][start:end + 1].any():
            now, following = action[start], action[end + 1]
            special = following >= 341 and now < 341
            lands = following in FALLING and not player["airborne"][end]
            touches = game.characters.HIT_ROWS.get(player["character"][start], {}).get(now) == following
            lands |= now in WALKING or (following == 40 and now != 39)  # what the stick ends is no length
            if following in NATURAL_NEXT and following != now and not (special or lands or touches):
                endings[player["character"][start], now][end + 1 - start, following] += 1
            elif now in JUMPS:
                endings[player["character"][start], now][end + 1 - start, 0] += 1
        start = end + 1


def measure_animations(player, seen):
    """How Slippi's animation frame begins in an action and goes on: by "first", "rate", "loop", "last" and "stride",
    and by character and action, how often each value was seen. Hitlag stops it."""
    action, age, hitlag = player["action"], player["age"], player["hitlag"]
    for t in range(2, len(action)):
        key = player["character"][t], action[t]
        seen["most", *key][age[t]] += 1
        if action[t] != action[t - 1] or player["character"][t] != player["character"][t - 1]:
            seen["first", *key][age[t]] += 1
        elif hitlag[t] == 0 and hitlag[t - 1] <= 1:
            step, speed = age[t] - age[t - 1], player["ground_vx"][t - 1]
            if step > 0:
                seen["rate", *key][round(step, 2)] += 1
                if action[t] in STRIDES and abs(speed - player["ground_vx"][t - 2]) < .005 and speed:
                    seen["stride", *key][round(step / abs(speed), 2)] += 1
            elif step == 0:
                seen["last", *key][age[t]] += 1
            else:
                rate = age[t - 1] - age[t - 2] if action[t - 2] == action[t] and age[t - 1] > age[t - 2] else 1
                seen["loop", *key][round(age[t - 1] + rate - age[t])] += 1


def measure_feet(player, feet):
    """Where the feet are above the position, by frame: a landing gives an interval, as they were above the floor on the
    frame before, and below it where the fall led to. For the first frames in the air they are at the position."""
    characters, airborne, in_air = game.TABLES.characters, player["airborne"], 0
    for t in range(1, len(player["y"]) - 1):
        in_air = in_air + 1 if airborne[t] else 0
        landed = in_air >= FEET_LOCKED and not airborne[t + 1] and not player["hitlag"][t] + player["hitlag"][t + 1]
        character, action = player["character"][t], player["action"][t]
        if not landed or character not in game.CHARACTERS.values() or action < 14 or 239 <= action <= 243:
            continue
        if 252 <= action <= 263 or player["action"][t + 1] == 12 or 252 <= player["action"][t + 1] <= 263:
            continue
        before, floor, row = player["y"][t], player["y"][t + 1], characters[character]
        speed = -row["fast_fall"] if player["fastfall"][t] else max(player["vy"][t] - row["gravity"], -row["fall_max"])
        flight = np.hypot(player["kb_vx"][t], player["kb_vy"][t])
        after = before + min(speed, player["vy"][t + 1]) + player["kb_vy"][t] * (1 - min(.051 / max(flight, .051), 1))
        low, high = floor - before, floor - after
        if high - low > .3 and low > -5 and high < 16:  # else something else moved him
            feet[character, action].append((min(player["frame"][t] + 1, MAX_FRAMES - 1), low, high))


def measure_velocities(stage, player, curves):
    """Velocities by frame of the action, along the facing; only what repeats exactly is kept afterwards. What gravity
    and friction make of the frame before says nothing of the action, however often it was seen: marked as natural."""
    frozen = player["hitlag"] > 0
    frozen[1:] |= frozen[:-1]                          # what a blow leaves shows on the frame after
    free = ~frozen & (player["kb_vx"] == 0) & (player["frame"] < MAX_FRAMES)
    mewtwo_jump = (player["character"] == game.MEWTWO) & np.isin(player["action"], (27, 28))
    wanted = free & ((player["action"] >= 183) | mewtwo_jump) & (player["action"] < NUM_ACTIONS)
    on_ledge = np.isin(player["action"], LEDGE_ACTIONS)
    wanted &= ~player["contact"] | on_ledge
    wanted &= game.TABLES.characters["aerial"][player["character"], np.minimum(player["action"], NUM_ACTIONS - 1)] < 0
    for t in np.flatnonzero(wanted):
        air, facing = player["airborne"][t], player["facing"][t]
        if player["character"][t] == game.MEWTWO and player["action"][t] == 345:
            continue                                   # Shadow Ball pushes him back the more the more it is charged
        if on_ledge[t]:                                # the game logs no velocity there, but he moves
            if stage == game.DREAM_LAND or player["action"][t - 1] < 252:
                continue                               # the wind moves him too
            curves[player["character"][t], player["action"][t], player["frame"][t]].append((
                np.nan, (player["x"][t] - player["x"][t - 1]) * facing, player["y"][t] - player["y"][t - 1],
                False, False, False))
            continue
        if player["action"][t] in game.characters.RISE_ROWS.get(player["character"][t], ((),))[0]:
            continue                                   # turned by the stick: special_motion.csv has it
        c, vx, vy = game.TABLES.characters[player["character"][t]], player["air_vx"], player["vy"]
        falls = air and player["airborne"][t - 1] and not mewtwo_jump[t]
        slower = np.sign(vx[t - 1]) * max(abs(vx[t - 1]) - c["air_friction"], 0)
        curves[player["character"][t], player["action"][t], player["frame"][t]].append((
            np.nan if air else player["ground_vx"][t] * facing,
            vx[t] * facing if air and not mewtwo_jump[t] else np.nan,
            vy[t] if air and not player["fastfall"][t] else np.nan, False, falls and abs(vx[t] - slower) < .003,
            falls and abs(vy[t] - max(vy[t - 1] - c["gravity"], -c["fall_max"])) < .003))


def measure_specials(player, starts):
    pressed = player["buttons"][1:] & ~player["buttons"][:-1] & game.BUTTON_B
    begins = (player["action"][1:] >= 341) & (player["action"][:-1] < 341) & (pressed != 0)
    for t in np.flatnonzero(begins):
        x, y = player["stick_x"][t + 1], player["stick_y"][t + 1]
        direction = 3 if y >= .55 else 4 if y <= -.55 else 2 if abs(x) >= .6 else 1
        starts[player["character"][t], player["airborne"][t], direction][player["action"][t + 1]] += 1


def measure_ledge(stage, player, poses):
    for t in np.flatnonzero((player["action"] == 252) | (player["action"] == 253)):
        pose = 7 if player["action"][t] == 253 else min(player["frame"][t], 6)
        poses[player["character"][t], pose].append((abs(player["x"][t]) - EDGES[stage],
                                                    player["y"][t] - corner_height(stage)))


def corner_height(stage):
    start, slope, length = game.stages.SLOPES.get(stage, (999, 0, 0))
    return game.stages.STAGE_ROWS[stage][0][0][0] - min(max(0.0, EDGES[stage] - start), length) * slope


def measure_dodges(player, dodges):
    """Frames of an action on which the character cannot be touched."""
    dodging = np.isin(player["action"], (186, 187, 188, 189, 194, 195, 196, 197, 199, 200, 201, 233, 234, 235, 236,
                                         *range(254, 264)))
    for t in np.flatnonzero(dodging & (player["hitlag"] == 0) & (player["frame"] < MAX_FRAMES)):
        dodges[player["character"][t], player["action"][t], player["frame"][t]].append(player["hurtbox"][t] == 2)


def measure_throws(players, paths):
    """Where the thrown player is by the frame of his animation, which runs the faster the lighter he is, seen from the
    thrower and along the facing he began with; where he is let go; where the held one is, by the frame of a pummel."""
    for thrower, thrown in (players, players[::-1]):
        dx, dy = thrown["x"] - thrower["x"], thrown["y"] - thrower["y"]
        held = (thrown["action"] >= 239) & (thrown["action"] <= 242) & np.isin(thrower["action"], range(219, 223))
        for start in np.flatnonzero(held[1:] & ~held[:-1]) + 1:
            end = start + np.argmin(held[start:])      # the frame he is let go on
            if end - start < 4 or thrower["frame"][start] > 0:
                continue
            character, action, facing = (thrower[name][start] for name in ("character", "action", "facing"))
            victim, x, y = thrown["character"][start], dx * facing, dy
            by_weight = game.TABLES.characters[character]["throw_by_weight"][action - game.THROW_FORWARD]
            ages = thrown["age"] if by_weight else thrower["frame"] + 1.0
            paths[character, action].extend((victim, ages[t], x[t], y[t]) for t in range(start, end))
            if 75 <= thrown["action"][end] < 92:       # where he was before he flew off; unknown below a floor
                before = y[end] - thrown["kb_vy"][end] - thrown["vy"][end]
                on_floor = abs(before) < .02
                paths[character, action].append((
                    victim, np.inf, x[end] - (thrown["kb_vx"][end] + thrown["air_vx"][end]) * facing,
                    np.nan if on_floor else before))
        pummelled = (thrower["action"] == 217) & (thrown["action"] >= 224) & (thrown["action"] <= 228)
        for t in np.flatnonzero(pummelled & (thrower["frame"] < 30) & (thrower["hitlag"] == 0)):
            begin = t
            while pummelled[begin]:                    # heights are relative to that before the pummel
                begin -= 1
            height = dy[t] - dy[begin] if thrown["airborne"][t] else np.nan
            paths[thrower["character"][t], 217].append((-1, thrower["frame"][t], dx[t] * thrower["facing"][t], height))
        caught = np.isin(thrower["action"], HOLDS) & (thrown["action"] >= 223) & (thrown["action"] <= 228)
        for t in np.flatnonzero(caught & ((thrower["frame"] > 0) | (thrower["action"] == 216))):
            paths[thrower["character"][t], thrower["action"][t]].append((-1, 0, dx[t] * thrower["facing"][t], 0))


# ---------------------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------------------

def write_csv(folder, name, header, rows):
    with open(folder / name, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    print(f"{name}: {len(rows)} rows")


write = functools.partial(write_csv, DATA)


def exactly(value):
    return "" if np.isnan(value) else f"{value:.4f}"


def most_agreed(intervals):
    """The height inside most of the intervals."""
    grid, bounds = np.arange(0, 14, .1), np.array(intervals)
    votes = ((grid[:, None] >= bounds[:, 1]) & (grid[:, None] < bounds[:, 2])).sum(1)
    return grid[votes == votes.max()].mean()


def height_curve(intervals, guess, smooth=1.0, pull=.05):
    """[MAX_FRAMES] heights inside the intervals of their frames where they can be, elsewhere of the guess's shape."""
    frames, low, high = np.array(intervals).T
    frames, margin = frames.astype(int), np.minimum(.25, (high - low) / 4)
    slopes, curve = np.diff(np.eye(MAX_FRAMES), axis=0), guess.copy()
    shape = smooth * slopes.T @ slopes + pull * np.eye(MAX_FRAMES)
    for _ in range(40):
        height = curve[frames]
        wanted = np.clip(height, low + margin, high - margin)
        weight = (height != wanted) / np.maximum(abs(height - wanted), .3)  # a wrong one shall not pull the harder
        matrix, right = shape.copy(), shape @ guess
        np.add.at(matrix, (frames, frames), weight)
        np.add.at(right, frames, weight * wanted)
        curve = np.linalg.solve(matrix, right)
    return curve


def feet_rows(feet):
    """Heights by character and action, from a first frame on. What a character's landings do not tell: his usual
    height, raised as the action raises it for the others, along their shape."""
    known, rows = sorted(game.CHARACTERS.values()), []
    own = {who: [entry for (other, _), entries in feet.items() if other == who for entry in entries] for who in known}
    usual = {who: most_agreed(entries) for who, entries in own.items() if len(entries) > 3}
    for who in known:
        usual.setdefault(who, np.median(list(usual.values())))
        rows.append([who, -1, 0, f"{usual[who]:.2f}", len(own[who])])
    level = {key: most_agreed(entries) for key, entries in feet.items() if len(entries) >= 3}
    shapes = {key: height_curve(feet[key], np.full(MAX_FRAMES, level[key])) - level[key] for key in level
              if len(feet[key]) >= 6 and key[1] not in REPEATING}
    actions = sorted({action for _, action in level if action < 341} | {action for _, action in feet})
    for who in known:
        for action in actions:
            seen = feet.get((who, action), [])
            if action >= 341 and not seen:             # others' specials are others
                continue
            raised = [level[key] - usual[key[0]] for key in level if key[1] == action and key[0] != who]
            guess = usual[who] + (.7 * np.median(raised) if raised and action < 341 else 0)
            heights = np.full(MAX_FRAMES, level.get((who, action), guess))
            if action not in REPEATING:
                alike = [shapes[key] for key in shapes if key[1] == action and key[0] != who]
                if alike and action < 341 and not 65 <= action <= 69:
                    heights += .8 * np.median(alike, 0)
                if seen:
                    heights = height_curve(seen, heights)
            rows += [[who, action, first, f"{height:.2f}", len(seen)] for first, height in stretches(heights)]
    return rows


def stretches(heights, step=.4):
    """(first frame, height) of stretches in which the height changes by no more than step."""
    first, result = 0, []
    for frame in range(1, len(heights) + 1):
        if frame == len(heights) or np.ptp(heights[first:frame + 1]) > step:
            result.append((first, (heights[first:frame].max() + heights[first:frame].min()) / 2))
            first = frame
    return result


def listed_frames():
    """Lengths of actions as libmelee lists them, without what was measured before."""
    listed = collections.Counter()
    with open(libmelee_folder() / "framedata.csv", newline="") as file:
        for line in csv.DictReader(file):
            key = int(line["character"]), int(line["action"])
            listed[key] = max(listed[key], int(line["frame"]))
    return listed


def action_rows(endings):
    rows, known, by_action, listed = {}, set(game.CHARACTERS.values()), collections.defaultdict(list), listed_frames()
    longest = {key: max(frames for frames, _ in counts) for key, counts in endings.items()}
    for (character, action), counts in endings.items():
        whole = {ending: times for ending, times in counts.items() if ending[1]}
        if not whole:
            continue
        (frames, following), times = max(whole.items(), key=lambda item: (item[1], item[0][0]))  # longest of equals
        longer = 44 <= action <= 64 and frames > listed[character, action]  # than libmelee has it
        enough = times >= 2 or action in JUMPS or longer
        if enough and character in known and action < NUM_ACTIONS:
            rows[character, action] = [frames, following, times]
            if action < 341:
                by_action[action].append((frames, following))
    for action, values in by_action.items():
        following = collections.Counter(value[1] for value in values).most_common(1)[0][0]
        usual = int(np.median([value[0] for value in values]))
        rows[ANYONE, action] = [usual, following, len(values)]
        for character in known if action in JUMPS else ():  # nobody's ends before the longest that was seen of him
            if longest.get((character, action), 0) > rows.get((character, action), [usual])[0]:
                rows[character, action] = [longest[character, action], following, 0]
    return [[*key, *row] for key, row in sorted(rows.items())]


def animation_rows(seen):
    """Where an animation begins, what it gains a frame, where it starts over or stands still (0 nowhere), and how far
    it goes for a unit of ground. Nothing where that is as for anyone, and for anyone as usual: from 1, or 0 where
    libmelee counts from there, by 1 a frame."""
    counted, measured, rows = zero_indexed_actions(), {}, {}
    for character, action in sorted({tuple(map(int, key[1:])) for key in seen}):
        if character in game.CHARACTERS.values() and action < NUM_ACTIONS:
            measured[character, action] = animation(seen, character, action)
    usual = lambda character, action: (1 - counted[character, action], 1, None, None, None)
    for action in sorted({action for _, action in measured if action < 341}):
        columns = [[None if value == known else value for value, known in column if value is not None or place > 1]
                   for place, column in enumerate(zip(*(zip(values, usual(character, other), strict=True)
                                                        for (character, other), values in measured.items()
                                                        if other == action), strict=True))]
        rows[ANYONE, action] = [collections.Counter(column or [None]).most_common(1)[0][0] for column in columns[:4]]
        strides = [stride for stride in columns[4] if stride]
        rows[ANYONE, action].append(np.median(strides) if strides else None)
    for (character, action), values in measured.items():
        anyone = [at_all if of_anyone is None else of_anyone for at_all, of_anyone in zip(
            usual(character, action), rows.get((ANYONE, action), (None,) * 5), strict=True)]
        most = max(seen["most", character, action])
        past = [0 if known and most > known - early else None for known, early in zip(anyone[2:4], (1, 0), strict=True)]
        rows[character, action] = [  # 0: he was seen past where others start over or stand still
            none if value is None else None if value == known else value
            for value, known, none in zip(values, anyone, [None, None, *past, None], strict=True)]
    return [[*key, *("" if value is None else f"{value:g}" for value in row)] for key, row in sorted(rows.items())
            if any(value is not None for value in row)]


def animation(seen, character, action):
    """first, rate, loop, last and stride of one character's action; None where there is too little to say."""
    def agreed(name, share, least=2):
        counts = seen.get((name, character, action), {})
        value, times = max(counts.items(), key=lambda item: item[1], default=(None, 0))
        return value if times >= max(least, share * sum(counts.values())) else None

    first, rate = agreed("first", .5), agreed("rate", .8, 8)
    last, loop, most = agreed("last", .9, 8), agreed("loop", .6), max(seen["most", character, action])
    if last is not None and not seen["rate", character, action]:
        rate = 0
    if action in STRIDES or action in RULED:
        rate = None
    if action in STRIDES or 219 <= action <= 242:
        first = None
    return (first, rate, loop if loop and most < loop else None,
            last if last == most and rate != 0 else None, agreed("stride", .2, 8))


def repeats(samples, action):
    """The same each time; for specials it is enough to be alike, as the stick bends most of them a little."""
    if len(samples) == 0:
        return False
    spread, size = np.ptp(np.percentile(samples, [10, 90])), abs(np.median(samples))
    if action >= 341 and size > .5:
        return spread < .25 * size
    return len(samples) >= (2 if action in LEDGE_ACTIONS else 3) and spread < .04  # nothing else moves who hangs there


def velocity_rows(curves):
    rows = []
    for (character, action, frame), values in sorted(curves.items()):
        medians, times, values = [], 0, np.array(values).T
        for samples, natural in zip(values[:3], values[3:], strict=True):
            natural, samples = natural[~np.isnan(samples)], samples[~np.isnan(samples)]
            known = len(samples) and natural.mean() < .8 and repeats(samples, action)
            medians.append(np.median(samples) if known else np.nan)
            times = max(times, len(samples) if known else 0)
        half = action in LEDGE_ACTIONS and np.isnan(medians[1:]).any()  # a way has both its parts
        if character in game.CHARACTERS.values() and not np.isnan(medians).all() and not half:
            rows.append([character, action, frame, *map(exactly, medians), times])
    return rows


def ledge_rows(poses):
    table, times = np.full((game.characters.NUM_CHARACTERS, 8, 2), np.nan), collections.Counter()
    for (character, pose), values in poses.items():
        if character in game.CHARACTERS.values():
            table[character, pose], times[character, pose] = np.median(values, 0), len(values)
    usual = np.nanmedian(table, 0)
    table = np.where(np.isnan(table), usual, table)
    return [[character, pose, *map(exactly, table[character, pose]), times[character, pose]]
            for character in sorted(game.CHARACTERS.values()) for pose in range(8)
            if not np.isnan(table[character, pose]).any()]  # else seen of nobody


def dodge_rows(dodges):
    """First and last untouchable frame per action; the usual one where a character was not seen."""
    frames = collections.defaultdict(list)
    for (character, action, frame), seen in dodges.items():
        if len(seen) >= 2 and np.mean(seen) > .6:
            frames[character, action].append(frame)
    windows = {key: (min(value), max(value)) for key, value in frames.items()}
    rows = [[character, action, *window] for (character, action), window in sorted(windows.items())
            if character in game.CHARACTERS.values()]
    for action in sorted({action for _, action in windows}):
        usual = np.median([window for (_, other), window in windows.items() if other == action], 0).astype(int)
        rows.insert(0, [ANYONE, action, *usual])
    return sorted(rows)


def alike(places):
    """The same victim at the same age: the median place, once."""
    keys = np.round(np.where(np.isfinite(places[:, :2]), places[:, :2], 999), 2)
    groups = [places[(keys == key).all(1)] for key in np.unique(keys, axis=0)]
    return np.array([[*group[0, :2], np.median(group[:, 2]), nanmedian(group[:, 3])] for group in groups])


def nanmedian(values):
    return np.nan if np.isnan(values).all() else np.nanmedian(values)


def thrown_rows(paths):
    """Paths of throws, and how each victim hangs from a hand: one offset from any path, none for Captain Falcon. Paths
    are straight between whole frames of the animation, and every weight shows other places on them: all of them, and
    the offsets, by least squares at once. Medians for pulls, holds and pummels."""
    rows, known, throws = [], set(game.CHARACTERS.values()), {}
    for (character, action), places in sorted(paths.items()):
        places = np.array(places)
        if action < 219:
            for frame in np.unique(places[:, 1]) if character in known else ():
                here = places[places[:, 1] == frame]
                height = np.nan_to_num(nanmedian(here[:, 3]))
                rows.append([character, action, int(frame), exactly(np.median(here[:, 2])), exactly(height), len(here)])
        else:
            throws[character, action] = alike(places[(places[:, 1] < MAX_FRAMES - 3) | np.isinf(places[:, 1])])
    if not throws:
        return sorted(rows), []
    offset_of = {victim: index for index, victim in enumerate(sorted(
        {int(victim) for places in throws.values() for victim in places[:, 0]} - {game.CAPTAIN_FALCON}))}
    starts, size = {}, len(offset_of)
    for key, places in throws.items():
        starts[key] = size
        size += int(places[np.isfinite(places[:, 1]), 1].max()) + 3  # frame 0, all, one beyond, and the release
    fitted = np.zeros((size, 2))
    for axis in (0, 1):
        weights, wanted = [], []
        for key, places in throws.items():
            last = int(places[np.isfinite(places[:, 1]), 1].max()) + 1
            for victim, age, *place in places:
                if np.isnan(place[axis]):
                    continue
                row, before = np.zeros(size), int(age) if np.isfinite(age) else last + 1
                part = age - before if np.isfinite(age) else 0
                row[starts[key] + before], row[starts[key] + before + (part > 0)] = 1 - part, part or 1
                if int(victim) in offset_of:
                    row[offset_of[int(victim)]] = 1
                weights.append(row)
                wanted.append(place[axis])
            for frame in range(1, last):               # smooth where nothing was seen
                row = np.zeros(size)
                row[starts[key] + frame - 1:starts[key] + frame + 2] = np.array([1, -2, 1]) * .02
                weights.append(row)
                wanted.append(0)
        weights, wanted = np.array(weights), np.array(wanted)
        trust = np.ones(len(wanted))
        for _ in range(12):                            # least absolute differences: a few throws end at a wall
            gram = (weights * trust[:, None]).T @ weights + np.eye(size) * 1e-9
            fitted[:, axis] = np.linalg.solve(gram, weights.T @ (trust * wanted))
            trust = 1 / np.maximum(abs(weights @ fitted[:, axis] - wanted), .02)
    hanging = fitted[:len(offset_of)]
    for key, places in throws.items():
        if key[0] not in known:
            continue
        last = int(places[np.isfinite(places[:, 1]), 1].max()) + 1
        path, seen = fitted[starts[key]:starts[key] + last + 2], (np.array(paths[key])[:, 1] < 1.4).sum()
        let_go = path[last + 1].copy()
        released = places[np.isinf(places[:, 1])]
        let_go[np.isnan(released[:, 2:]).all(0)] = path[last - 1][np.isnan(released[:, 2:]).all(0)]
        rows += [[*key, frame, *map(exactly, path[frame]), seen] for frame in range(1, last + 1)]
        if len(released):
            rows.append([*key, game.tables.LET_GO, *map(exactly, let_go), np.isinf(np.array(paths[key])[:, 1]).sum()])
    held = [[ANYONE, *map(exactly, np.median(hanging, 0)), 0], [game.CAPTAIN_FALCON, "0", "0", 0]]
    for victim, index in offset_of.items():
        times = sum((np.array(places)[:, 0] == victim).sum() for (_, action), places in paths.items() if action >= 219)
        if victim in known:
            held.append([victim, *map(exactly, hanging[index]), times])
    return sorted(rows, key=lambda row: (row[0], row[1], 999 if isinstance(row[2], str) else row[2])), sorted(held)


def known_specials():
    with open(DATA / "specials.csv", newline="") as file:
        return {tuple(map(int, row[:3])): int(row[3]) for row in list(csv.reader(file))[1:]}


def special_rows(starts, known):
    """Adds what replays show to the rows of before; those stay, as a special on landing or leaving a floor misleads."""
    rows = dict(known)
    for key, counts in starts.items():
        (action, times), = counts.most_common(1)
        if times >= 3 and key[0] in game.CHARACTERS.values():
            rows.setdefault(tuple(map(int, key)), int(action))
    return [[*key, action] for key, action in sorted(rows.items())]


def build_learned(paths, out=DATA, known=None):
    """Measure the learned tables from these replays alone and write them to the folder out. known: specials found
    before, None for the repository's."""
    endings, starts, animations = (collections.defaultdict(collections.Counter) for _ in range(3))
    feet, curves, poses, dodges, thrown = (collections.defaultdict(list) for _ in range(5))
    used = 0
    for path in paths:
        loaded = load_players(path)
        if loaded is None:
            print(f"skipped {path.name}")
            continue
        used += 1
        stage, players = loaded
        measure_throws(players, thrown)
        for player in players:
            measure_endings(player, endings)
            measure_animations(player, animations)
            measure_feet(player, feet)
            measure_velocities(stage, player, curves)
            measure_specials(player, starts)
            measure_dodges(player, dodges)
            if stage in EDGES:
                measure_ledge(stage, player, poses)
    print(f"{used} replays")
    write = functools.partial(write_csv, out)
    write("actions.csv", ["character", "action", "frames", "next_action", "seen"], action_rows(endings))
    write("animations.csv", ["character", "action", "first", "rate", "loop", "last", "stride"],
          animation_rows(animations))
    write("feet.csv", ["character", "action", "first_frame", "height", "seen"], feet_rows(feet))
    write("velocities.csv", ["character", "action", "frame", "ground_vx", "air_vx", "vy", "seen"],
          velocity_rows(curves))
    write("ledge_poses.csv", ["character", "frame", "dx", "dy", "seen"], ledge_rows(poses))
    write("dodges.csv", ["character", "action", "first_frame", "last_frame"], dodge_rows(dodges))
    paths, held = thrown_rows(thrown)
    write("thrown.csv", ["character", "action", "frame", "dx", "dy", "seen"], paths)
    write("held.csv", ["character", "dx", "dy", "seen"], held)
    write("specials.csv", ["character", "airborne", "direction", "action"],
          special_rows(starts, known_specials() if known is None else known))


# ---------------------------------------------------------------------------------------------------------------------
# Moves, from public frame data
# ---------------------------------------------------------------------------------------------------------------------

FRAME_DATA_NAMES = {"fox": 1, "captainfalcon": 2, "link": 6, "sheik": 7, "mewtwo": 16, "marth": 18, "zelda": 19,
                    "falco": 22, "mrgame&watch": 24, "ganondorf": 25}

COMMON_MOVES = {  # name: (actions, Slippi's attack id)
    "jab1": ([44], 2), "jab2": ([45], 3), "jab3": ([46], 4), "rjab": ([48], 5), "dattack": ([50], 6),
    "uaft": ([51, 52], 7), "ftilt": ([53], 7), "daft": ([54, 55], 7), "utilt": ([56], 8), "dtilt": ([57], 9),
    "fsmash": ([58, 59, 60, 61, 62], 10), "usmash": ([63], 11), "dsmash": ([64], 12),
    "nair": ([65], 13), "fair": ([66], 14), "bair": ([67], 15), "uair": ([68], 16), "dair": ([69], 17),
    "grab": ([212], 0), "dashgrab": ([214], 0), "fgetup": ([187, 195], 50), "edge": ([256, 257], 61),
    "pummel": ([217], 52), "fthrow": ([219], 53), "bthrow": ([220], 54), "uthrow": ([221], 55), "dthrow": ([222], 56)}

SPECIAL_MOVES = {  # character: {(name, substring of the hit's name): (actions, attack id, frames if not given there)}
    1: {("downb", ""): ([360], 21), ("adownb", ""): ([365], 21), ("sideb", ""): ([348, 349], 19),
        ("asideb", ""): ([351, 352], 19), ("upb", "charge"): ([353, 354], 20), ("upb", "launch"): ([355, 356], 20)},
    2: {("neutralb", ""): ([347], 18), ("aneutralb", ""): ([348], 18), ("sideb", "uppercut"): ([350], 19),
        ("sideb", "detector"): ([349, 351], 19),
        ("sideb", "downpunch"): ([352], 19), ("upb", "release"): ([353, 354], 20), ("downb", "ground"): ([357], 21),
        ("adownb", ""): ([359], 21), ("downb", "landing"): ([360], 21)},
    7: {("upb", ""): ([355, 358], 20), ("sideb", ""): ([349, 350, 351, 352, 353, 354], 19)},
    6: {("upb", ""): ([356], 20), ("aupb", ""): ([357], 20), ("fsmash2", ""): ([341], 10)},
    16: {("sideb", ""): ([351], 19), ("asideb", ""): ([352], 19), ("downb", ""): ([359, 360], 21)},
    18: {("sideb", ""): ([349, 358], 19), ("sideb2", ""): ([351, 360], 19), ("sideb2up", ""): ([350, 359], 19),
         ("sideb3", ""): ([353, 362], 19), ("sideb3up", ""): ([352, 361], 19), ("sideb3down", ""): ([354, 363], 19),
         ("sideb4", ""): ([356, 365], 19), ("sideb4up", ""): ([355, 364], 19), ("sideb4down", ""): ([357, 366], 19),
         ("neutralb", "uncharged"): ([343, 347], 18), ("neutralb", "fully"): ([344, 348], 18),
         ("upb", ""): ([367, 368], 20, (5, 5)), ("aupb", ""): ([367, 368], 20, (6, 10)),
         ("downb", ""): ([370, 372], 21)},
    19: {("neutralb", "hits1_5"): ([341, 342], 18, (12, 25)), ("neutralb", "hit6"): ([341, 342], 18, (26, 28)),
         ("upb", "hit1"): ([349, 352], 20), ("upb", "hit2"): ([351, 354], 20)},
    22: {("downb", ""): ([360], 21), ("adownb", ""): ([365], 21), ("sideb", ""): ([348, 349], 19),
         ("asideb", ""): ([351, 352], 19), ("upb", "launch"): ([355, 356], 20)},
    25: {("neutralb", ""): ([347, 348], 18), ("sideb", "detector"): ([349, 351], 19),
         ("sideb", "uppercut"): ([350], 19), ("sideb", "downpunch"): ([352], 19),
         ("upb", "release"): ([353, 354], 20), ("downb", "ground"): ([357], 21),
         ("adownb", "air"): ([359], 21), ("downb", "landing"): ([360], 21)},
    24: {("upb", ""): ([373, 374], 20), ("neutralb", "pan"): ([353, 354], 18), ("adownb", ""): ([377, 380], 21),
         **{("sideb", f"number_{n}"): ([354 + n, 363 + n], 19) for n in range(1, 10)}},
}


def move_actions(character, move, hit):
    if move == "edge" and hit in ("slow", "fast"):     # attacks from the ledge, above and below 100 %
        return ([256], 61, None) if hit == "slow" else ([257], 62, None)
    if move in COMMON_MOVES:
        return *COMMON_MOVES[move], None
    for (name, part), target in SPECIAL_MOVES.get(character, {}).items():
        if name == move and part in hit:
            return target if len(target) == 3 else (*target, None)
    return [], 0, None


def build_moves(folder):
    rows = []
    for line in csv.DictReader(open(folder / "hitboxes_all.csv", newline="")):
        character = FRAME_DATA_NAMES.get(line["char"])
        if character is None:
            continue
        actions, attack, frames = move_actions(character, line["move"], line["hit"])
        first, last = frames or (int(line["hit_start"] or 0), int(line["hit_end"] or 0))
        for action in actions:
            if character == game.GAMEANDWATCH:
                action = game.characters.GAMEANDWATCH_ACTIONS.get(action, action)
            numbers = [float(line[name] or 0) for name in ("damage", "angle", "kbg", "wdsk", "bkb")]
            rows.append([character, action, attack, first, last, int(line["hitbox"][2:]),
                         *(f"{number:g}" for number in numbers), line["effect"].lower()])
    write("moves.csv", ["character", "action", "attack_id", "first_frame", "last_frame", "hitbox", "damage", "angle",
                        "growth", "set_knockback", "base", "effect"], sorted(rows))
    aerials = {"nair": 65, "fair": 66, "bair": 67, "uair": 68, "dair": 69}
    rows = [[FRAME_DATA_NAMES[line["char"]], aerials[line["move"]], line["landlag"], line["autocancel_before"],
             line["autocancel_after"]] for line in csv.DictReader(open(folder / "moves_all.csv", newline=""))
            if line["char"] in FRAME_DATA_NAMES and line["move"] in aerials]
    write("aerials.csv", ["character", "action", "landing_lag", "autocancel_before", "autocancel_after"], sorted(rows))
    build_attacks(folder)


def build_attacks(folder):
    """Lengths of attacks, and the frame from which anything may follow, 0 none; of throws, which wait for the victim,
    throws.csv has them."""
    rows = []
    for line in csv.DictReader(open(folder / "moves_all.csv", newline="")):
        character, name = FRAME_DATA_NAMES.get(line["char"]), line["move"]
        if character is None or name not in COMMON_MOVES or name in ("pummel", "edge") or name.endswith("throw"):
            continue
        for action in COMMON_MOVES[name][0]:
            if character == game.GAMEANDWATCH:
                action = game.characters.GAMEANDWATCH_ACTIONS.get(action, action)
            rows.append([character, action, *(int(float(line[field] or 0)) for field in ("total", "iasa"))])
    write("attacks.csv", ["character", "action", "frames", "interruptible"], sorted(rows))


def main():
    arguments = sys.argv[1:]
    if "--frame-data" in arguments:
        place = arguments.index("--frame-data")
        build_moves(pathlib.Path(arguments[place + 1]))
        del arguments[place:place + 2]
    paths = [path for argument in map(pathlib.Path, arguments)
             for path in (sorted(argument.rglob("*.slp")) if argument.is_dir() else [argument])]
    if paths:
        build_learned(paths)
    elif len(sys.argv) < 2:
        print(__doc__)


if __name__ == "__main__":
    main()
