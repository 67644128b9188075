"""Holes: what a policy could exploit and a person could not. Each test is a search, in thousands of games side by side,
and asks the game's states alone; what Melee allows, it lets pass, and says so."""

import numpy as np
import pytest
from cleanmelee import game

A, B, X, Z, L, R = (game.BUTTON_A, game.BUTTON_B, game.BUTTON_X, game.BUTTON_Z, game.BUTTON_L, game.BUTTON_R)
ALL = np.array(sorted(game.CHARACTERS.values()))
ROW = game.TABLES.characters
EDGE = float(game.TABLES.stages[game.FINAL_DESTINATION]["floor_right"][0])
STICKS = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (.7, .7), (-.7, .7), (.7, -.7), (-.7, -.7)]
DEEP = -13                                             # no feet are so far above the position, no lip is so thick
# One press each, as (buttons, stick, c-stick): everything that could cut an action short.
PRESSES = [(A, (0, 0), (0, 0)), (B, (0, 0), (0, 0)), (B, (1, 0), (0, 0)), (B, (-1, 0), (0, 0)), (B, (0, 1), (0, 0)),
           (B, (0, -1), (0, 0)), (X, (0, 0), (0, 0)), (Z, (0, 0), (0, 0)), (L, (0, 0), (0, 0)), (L, (0, -1), (0, 0)),
           (L, (1, 0), (0, 0)), (0, (1, 0), (0, 0)), (0, (-1, 0), (0, 0)), (0, (0, 1), (0, 0)), (0, (0, -1), (0, 0)),
           (0, (0, 0), (1, 0)), (0, (0, 0), (0, 1)), (0, (0, 0), (0, -1))]


class Games:
    """N games on Final Destination; fields are set as arrays. Both stand far apart until they are placed."""

    def __init__(self, first, second, stage=game.FINAL_DESTINATION):
        first, second = np.broadcast_arrays(first, second)
        self.number = len(first)
        self.frames, self.hidden = np.zeros(self.number, game.FRAME), np.zeros(self.number, game.HIDDEN)
        game.reset_games(self.frames, self.hidden, np.ones(self.number, bool), np.stack([first, second], 1),
                         np.full(self.number, stage), np.arange(self.number, dtype=np.uint64))
        self.players, self.secrets = self.frames["players"], self.hidden["players"]
        self.pads = np.zeros((self.number, 2), game.CONTROLLER)

    def place(self, index, x, y=None, facing=None):
        """On the floor, or in the air at y."""
        player = self.players[:, index]
        player["x"], player["y"] = x, .0001 if y is None else y
        if facing is not None:
            player["facing"] = facing
        if y is not None:
            player["airborne"], player["action"], player["jumps"] = 1, game.FALL, 1
            self.secrets["air_frames"][:, index] = 20

    def act(self, index, action):
        """Put a player into the first frame of an action."""
        self.players["action"][:, index], self.secrets["action_frames"][:, index] = action, 0

    def press(self, index, buttons=0, stick=(0, 0), c_stick=(0, 0), trigger=0):
        pad = self.pads[:, index]
        pad["buttons"], pad["r"] = buttons, trigger
        pad["main_x"], pad["main_y"], pad["c_x"], pad["c_y"] = *np.transpose(stick), *np.transpose(c_stick)

    def step(self):
        game.step_games(self.frames, self.hidden, self.pads)


class Mash:
    """Random controllers, held for some frames: specials, jumps, shields and sticks that a search wants."""

    def __init__(self, games, seed, buttons=(0, 0, A, B, B, B, X, X, L, Z), change=.15):
        self.games, self.random, self.buttons, self.change = games, np.random.default_rng(seed), buttons, change

    def __call__(self):
        games, random = self.games, self.random
        change = random.random((games.number, 2)) < self.change
        sticks = np.array(STICKS)[random.integers(0, len(STICKS), (games.number, 2))]
        new = random.choice(np.array(self.buttons), (games.number, 2))
        games.pads["buttons"] = np.where(change, new, games.pads["buttons"])
        for axis, name in enumerate(("main_x", "main_y")):
            games.pads[name] = np.where(change, sticks[..., axis], games.pads[name])
        c = np.where(random.random((games.number, 2)) < .1, random.choice([-1, 1], (games.number, 2)), 0)
        games.pads["c_y"] = np.where(change, c, games.pads["c_y"])


def attacks():
    """-> [(character, action)]: everything on the ground that has hitboxes, grabs apart."""
    found = []
    for character in ALL:
        rows = ROW[character]["hit_row"]
        effects = game.TABLES.hitboxes["effect"][rows]
        hits = (rows > 0) & (effects != game.EFFECT_GRAB).any(2)
        found += [(character, action) for action in np.flatnonzero(hits.any(1)) if action not in (212, 214)]
    return np.array(found)


def is_held(action):
    return ((action >= 223) & (action <= 228)) | ((action >= 239) & (action <= 242)) | (
        (action >= 301) & (action <= 304))


def on_ledge(action):
    return (action >= 252) & (action <= 260) | (action == 262)


def is_alive(players):
    return (players["action"] > game.REBIRTH_WAIT) & (players["stocks"] > 0)


# ---------------------------------------------------------------------------------------------------------------------
# Bodies and the stage
# ---------------------------------------------------------------------------------------------------------------------

def blow_upon(inputs, percents=(0, 30, 60, 100), distances=(3, 8, 14), frames=75):
    """Every attack on every character, with these inputs on the frames of being hurt -> lowest y over the stage, and
    (character, action, victim) of those who fell through. Before he lands, a victim's position may lie a little below
    the floor: as deep as his feet are above it."""
    moves = attacks()
    cases = [(move, victim, percent, distance) for move in range(len(moves)) for victim in ALL
             for percent, distance in ((percents[(move + victim) % len(percents)], distance) for distance in distances)]
    move, victim, percent, distance = np.array(cases).T
    games = Games(moves[move, 0], victim)
    games.place(0, 0.0, facing=1)
    games.place(1, distance, facing=-1)
    games.players["percent"][:, 1] = percent
    games.act(0, moves[move, 1])
    lowest = np.zeros(games.number)
    for frame in range(frames):
        hurt = games.players["hitlag"][:, 1] > 0
        stick, c_stick = inputs(frame)
        games.press(1, stick=np.where(hurt[:, None], stick, 0), c_stick=np.where(hurt[:, None], c_stick, 0))
        games.step()
        player = games.players[:, 1]
        over = (abs(player["x"]) < EDGE - 1) & is_alive(player)
        lowest = np.where(over, np.minimum(lowest, player["y"]), lowest)
    return lowest, [(*moves[m], v) for m, v in zip(move[lowest < DEEP][:5], victim[lowest < DEEP][:5])]


@pytest.mark.parametrize("name", ["stick", "c-stick", "taps", "sideways"])
def test_no_shift_goes_through_the_stage(name):
    """Weak blows and a stick held down: SDI and its automatic twin collide like any other way."""
    inputs = {"stick": lambda frame: ((0, -1), (0, 0)), "c-stick": lambda frame: ((0, 0), (0, -1)),
              "taps": lambda frame: ((0, -1 if frame % 2 else 0), (0, 0)),
              "sideways": lambda frame: ((.7 if frame % 2 else -.7, -.7), (0, -1))}[name]
    lowest, cases = blow_upon(inputs)
    print(f"{name}: {(lowest < DEEP).sum()} of {len(lowest)} fall through")
    assert not (lowest < DEEP).any(), cases


def random_places(number, seed, stage=game.FINAL_DESTINATION, low=-60, high=60, wide=150):
    random = np.random.default_rng(seed)
    games = Games(random.choice(ALL, number), random.choice(ALL, number), stage)
    for index in range(2):
        x, y = random.uniform(-wide, wide, number), random.uniform(low, high, number)
        y = np.where((abs(x) < 95) & (y < 5), -70, y)
        games.place(index, x, y)
        games.players["percent"][:, index] = random.integers(0, 150, number)
    return games


def test_nobody_goes_through_the_stage_either_way():
    """Recovery from below, falls from above: flights, teleports, blows, shifts; who was above is not below without
    having been outside, nor the other way round, nor stuck in between."""
    games = random_places(1500, seed=1)
    mash = Mash(games, seed=2)
    ABOVE, BELOW = 1, 2
    place, between, through, stuck = np.zeros((games.number, 2), int), np.zeros((games.number, 2), int), set(), set()
    for _ in range(700):
        mash()
        games.step()
        players = games.players
        x, y, action = players["x"], players["y"], players["action"]
        free = is_alive(players) & ~on_ledge(action) & ~is_held(action)
        middle = (abs(x) < EDGE - 3) & free
        now = np.where(~middle, 0, np.where(y > -.5, ABOVE, np.where(y < -13 - .51 * EDGE, BELOW, place)))
        wrong = (place > 0) & (now > 0) & (place != now)
        through |= {(*row, "up" if up == ABOVE else "down") for *row, up in zip(
            players["character"][wrong].tolist(), action[wrong].tolist(), now[wrong])}
        frame = np.minimum(games.hidden["players"]["action_frames"], ROW["feet"].shape[2] - 1)
        feet = y + ROW["feet"][players["character"], action, frame]
        between = np.where(middle & (feet < -.5) & (y > -12), between + 1, 0)
        stuck |= set(zip(players["character"][between == 40].tolist(), action[between == 40].tolist()))
        place = now
    print(f"ways through the stage: {sorted(through)}; stuck: {sorted(stuck)}")
    assert not through and not stuck


def test_no_throw_lets_go_below_the_floor():
    cases = np.array([(character, victim, way, percent) for character in ALL for victim in ALL
                      for way in (game.THROW_FORWARD, game.THROW_BACK, game.THROW_UP, game.THROW_DOWN)
                      for percent in (0, 80)])
    character, victim, way, percent = cases.T
    games = Games(character, victim)
    games.place(0, 0.0, facing=1)
    games.place(1, ROW["hold_reach"][character], facing=-1)
    games.players["percent"][:, 1] = percent
    games.act(0, way)
    games.act(1, game.HELD)
    games.secrets["throw_frames"][:, 0] = 99
    lowest, rises = np.zeros(games.number), np.zeros(games.number)
    for _ in range(120):
        games.press(1, stick=(0, -1))
        before = games.players["percent"][:, 1].copy()
        held = is_held(games.players["action"][:, 1])
        games.step()
        player = games.players[:, 1]
        rises += np.where(held, player["percent"] - before, 0)
        over = (abs(player["x"]) < EDGE - 1) & is_alive(player) & ~is_held(player["action"])
        lowest = np.where(over, np.minimum(lowest, player["y"]), lowest)
    most = ROW["throw_damage"][character, way - game.THROW_FORWARD] + ROW["throw_strike"][
        character, way - game.THROW_FORWARD]
    lasers = np.isin(character, (game.FOX, game.FALCO))
    print(f"{(lowest < DEEP).sum()} of {len(cases)} through the floor; "
          f"{((rises > most + .01) & ~lasers).sum()} hurt more than the throw does")
    assert not (lowest < DEEP).any() and not ((rises > most + .01) & ~lasers).any()


@pytest.mark.parametrize("percent", [0, 120])
def test_every_way_off_the_ledge_leads_up(percent):
    """Climbing, rolling, attacking end on the stage, jumps above the lip: none of them just lets go, which would make
    the ledge free again at once."""
    options = {"climb": (0, (1, 0)), "attack": (A, (0, 0)), "roll": (L, (0, 0)), "jump": (X, (0, 0))}
    cases = [(character, name) for character in ALL for name in options]
    games = Games([character for character, _ in cases], np.full(len(cases), game.FOX))
    games.place(0, -EDGE - 6, -6.0, facing=1)
    games.place(1, 60.0)
    games.players["percent"][:, 0] = percent
    games.act(0, game.LEDGE_HANG)
    buttons, sticks = (np.array([options[name][part] for _, name in cases]) for part in (0, 1))
    highest, grounded = np.full(len(cases), -99.0), np.zeros(len(cases), bool)
    for frame in range(150):
        games.press(0, buttons if frame == 10 else 0, sticks if frame == 10 else (0, 0))
        games.step()
        player = games.players[:, 0]
        highest = np.maximum(highest, player["y"])
        grounded |= (player["airborne"] == 0) & (abs(player["y"]) < .01) & (player["action"] < 252)
    jump = np.array([name == "jump" for _, name in cases])
    wrong = np.where(jump, highest < 0, ~grounded)
    print(f"{wrong.sum()} of {len(cases)}: {[(int(c), n) for (c, n), w in zip(cases, wrong) if w]}")
    assert not wrong.any()


@pytest.mark.parametrize("stage", [game.FINAL_DESTINATION, game.BATTLEFIELD, game.DREAM_LAND])
def test_nobody_stands_on_air(stage):
    """Whoever is on the ground has a floor under him, also when shifted, pushed, thrown or let go."""
    s = game.TABLES.stages[stage]
    random = np.random.default_rng(3)
    number = 1200
    games = Games(random.choice(ALL, number), random.choice(ALL, number), stage)
    side = random.choice([-1, 1], number)
    for index in range(2):
        games.place(index, side * (s["floor_right"][0] - random.uniform(0, 15, number)), facing=side)
        games.players["percent"][:, index] = random.integers(0, 150, number)
    mash = Mash(games, seed=4, buttons=(0, A, A, Z, Z, Z, L, B), change=.1)
    floating, last = 0, np.zeros((number, 2), bool)
    for _ in range(500):
        mash()
        games.step()
        players = games.players
        on_floor = np.zeros(players.shape, bool)
        for floor in range(s["num_floors"]):
            within = (players["x"] > s["floor_left"][floor] - 1) & (players["x"] < s["floor_right"][floor] + 1)
            on_floor |= within & (abs(players["y"] - s["floor_y"][floor]) < .5)
        wrong = is_alive(players) & (players["airborne"] == 0) & ~on_floor & ~is_held(players["action"])
        wrong &= ~on_ledge(players["action"])
        floating += (wrong & last).sum()               # who is let go beyond the edge falls on the next frame
        last = wrong
    print(f"{floating} frames on air")
    assert floating == 0


# ---------------------------------------------------------------------------------------------------------------------
# Staying in the air, on the ledge, untouchable
# ---------------------------------------------------------------------------------------------------------------------

def special_rhythms(frames=1200):
    """Two specials in turn, with a wait between them, jumping or not: yields the games frame by frame. Both players
    of a game are at it, far apart and high up, beside the stage (no ledge, no floor)."""
    directions = [(B, stick) for stick in STICKS[:5]] + [(X, (0, 0)), (0, (0, 0))]
    cases = [(character, one, two, wait) for character in ALL for one in range(7) for two in range(one, 7)
             for wait in (8, 15, 24, 36, 50)]
    half = (len(cases) + 1) // 2
    pairs = np.array(cases + cases[:2 * half - len(cases)]).reshape(half, 2, 4)
    games = Games(pairs[:, 0, 0], pairs[:, 1, 0])
    for index, x in ((0, -160.0), (1, 160.0)):
        games.place(index, x, 150.0, facing=np.sign(x))
    buttons = np.array([button for button, _ in directions])
    sticks = np.array([stick for _, stick in directions], float)
    for frame in range(frames):
        turn, rest = np.divmod(frame, pairs[..., 3])
        which = np.where(turn % 2 == 0, pairs[..., 1], pairs[..., 2])
        begin = rest == 0
        games.pads["buttons"] = np.where(begin | (rest % 4 == 0) & (buttons[which] == X), buttons[which], 0)
        back = np.where(games.players["x"] > 0, -1, 1)
        games.pads["main_x"], games.pads["main_y"] = sticks[which, 0] * back, sticks[which, 1]
        games.step()
        yield games, pairs


def test_no_rhythm_of_specials_and_jumps_stays_in_the_air():
    """Nobody is above for more than thirteen seconds without a floor or a ledge, whatever he presses in turn."""
    up, longest = 0, 0
    for games, pairs in special_rhythms():
        players = games.players
        flying = is_alive(players) & (players["airborne"] == 1) & ~on_ledge(players["action"])
        up = np.where(flying, up + 1, 0)
        if np.max(up) > longest:
            longest, case = np.max(up), pairs.reshape(-1, 4)[np.argmax(up)]
    print(f"longest flight {longest} frames: {case}")
    assert longest < 800, case


def test_the_air_jump_comes_back_only_on_floor_or_ledge():
    games = random_places(1500, seed=5, low=5, high=120)
    mash = Mash(games, seed=6)
    found = set()
    for _ in range(600):
        before = games.players[["airborne", "jumps", "action", "stocks"]].copy()
        mash()
        games.step()
        players = games.players
        alive = is_alive(players) & (before["action"] > game.REBIRTH_WAIT)
        air = (before["airborne"] == 1) & (players["airborne"] == 1) & alive
        again = air & (players["jumps"] > before["jumps"]) & ~on_ledge(players["action"]) & ~on_ledge(before["action"])
        again &= (players["action"] < 75) | (players["action"] > 91)  # landed, and struck or caught on the same frame
        again &= ~is_held(players["action"]) & (players["action"] != game.CAUGHT_IN_DIVE)
        again &= ROW["restores_jump"][players["character"]] != before["action"]  # Falcon Kick and Wizard's Foot may
        found |= set(zip(players["character"][again], before["action"][again], players["action"][again]))
    print(f"jumps back in the air: {sorted((int(a), int(b), int(c)) for a, b, c in found)}")
    assert not found


def untouchable_games(number, seed, frames, prepare):
    games = random_places(number, seed, low=5, high=60, wide=80)
    prepare(games)
    mash = Mash(games, seed + 1)
    for _ in range(frames):
        before = games.players["action"].copy()
        mash()
        games.step()
        yield games, before


def test_respawn_invulnerability_ends_after_two_seconds():
    def on_the_platform(games):
        games.players["action"], games.secrets["action_frames"] = game.REBIRTH_WAIT, 5
        games.players["x"], games.players["y"] = np.array([-30., 30.]), 80

    since = 0
    for games, _ in untouchable_games(1000, 7, 420, on_the_platform):
        action = games.players["action"]
        since = np.where(action <= game.REBIRTH_WAIT, 0, since + 1)
        throwing = (action >= game.THROW_FORWARD) & (action <= game.THROW_DOWN)
        shielded = (games.players["hurtbox"] == 1) & (since > 120) & ~throwing
        assert not shielded.any(), np.unique(action[shielded])


def test_ledges_protect_for_37_frames_and_are_free_again_after_30():
    """Dropping and coming back refreshes it, as in Melee; staying or coming back at once does not."""
    def at_the_ledge(games):
        side = np.random.default_rng(9).choice([-1, 1], games.number)
        for index, sign in ((0, side), (1, -side)):
            games.place(index, sign * (EDGE + 6), 4.0, facing=-sign)

    hanging, away, shortest, longest = 0, np.full((1000, 2), 999), 999, 0
    for games, before in untouchable_games(1000, 8, 700, at_the_ledge):
        action = games.players["action"]
        hang = (action == game.LEDGE_CATCH) | (action == game.LEDGE_HANG)
        hanging = np.where(hang & (games.players["hurtbox"] == 2), hanging + 1, 0)
        caught = (action == game.LEDGE_CATCH) & ~on_ledge(before)
        shortest = min(shortest, away[caught].min(initial=999))
        away = np.where(on_ledge(action), 0, away + 1)
        away[~is_alive(games.players)] = 999
        longest = max(longest, hanging.max())
    print(f"untouchable for {longest} frames while hanging; back on the ledge after {shortest}")
    assert longest <= 37 and shortest >= 29


# ---------------------------------------------------------------------------------------------------------------------
# Grabs
# ---------------------------------------------------------------------------------------------------------------------

def test_every_hold_ends():
    """Whatever the rhythm of pummels; the victim does nothing, or mashes."""
    cases = np.array([(character, victim, percent, rhythm, mashes) for character in ALL for victim in ALL[::3]
                      for percent in (0, 60, 120) for rhythm in range(1, 31) for mashes in (0, 1)])
    character, victim, percent, rhythm, mashes = cases.T
    games = Games(character, victim)
    games.place(0, 0.0, facing=1)
    games.place(1, ROW["pull_reach"][character], facing=-1)
    games.players["percent"][:, 1] = percent
    games.act(0, game.GRAB_PULL)
    games.act(1, game.CAUGHT)
    games.players["facing"][:, 1] = -1
    games.secrets["grab_timer"][:, 1] = 90 + (1.7 * percent).astype(int)
    held, free = np.zeros(games.number), np.zeros(games.number, bool)
    for frame in range(500):
        games.press(0, np.where(frame % rhythm == 0, A, 0))
        games.press(1, np.where((mashes == 1) & (frame % 2 == 0), A, 0))
        games.step()
        free |= ~is_held(games.players["action"][:, 1])
        held += ~free
    limit = 90 + 1.7 * percent + 24 + 6                # the last pummel, and the hitlag of its blow
    print(f"longest beyond the limit {np.max(held - limit):.0f}; {(held > limit).sum()} of {len(held)} too long, "
          f"{(held >= 499).sum()} without end; who mashes: {held[mashes == 1].max():.0f} frames at most")
    assert (held <= limit).all()


def test_grabs_reach_as_far_as_arms():
    """No grab takes hold of somebody whom its box, as listed, cannot touch; hookshots are the longest."""
    distances, heights = np.arange(2, 60, 1.0), np.array([0, 5, 10, 15, 20, 30.])
    cases = [(character, action, distance, height) for character in ALL for action in (game.GRAB, game.GRAB_DASH)
             for distance in distances for height in heights]
    character, action, distance, height = np.array(cases).T
    character, action = character.astype(int), action.astype(int)
    games = Games(character, np.full(len(cases), game.FALCO))
    games.place(0, 0.0, facing=1)
    games.place(1, distance, height + .0001, facing=-1)
    games.players["airborne"][:, 1] = height > 0
    games.players["action"][:, 1] = np.where(height > 0, game.FALL, game.WAIT)
    games.act(0, action)
    reach = np.full(games.number, -1.0)
    for _ in range(45):
        games.players["x"][:, 0] = 0
        caught = is_held(games.players["action"][:, 1])
        free = games.players[:, 1]
        free["x"] = np.where(caught, free["x"], distance)
        free["y"] = np.where(caught, free["y"], height + .0001)
        free["self_vy"] = 0
        games.step()
        reach = np.where(is_held(games.players["action"][:, 1]) & (reach < 0), distance, reach)
    for who in ALL:
        mine = character == who
        boxes = game.TABLES.hitboxes[ROW["hit_row"][who][[game.GRAB, game.GRAB_DASH]]]
        grabs = (boxes["size"] > 0) & (boxes["effect"] == game.EFFECT_GRAB)
        longest = np.where(grabs, boxes["x"] + boxes["size"], 0).max()
        print(int(who), "reaches", reach[mine].max(), "listed", round(float(longest), 1), "highest",
              height[mine & (reach >= 0)].max())
        assert reach[mine].max() <= longest + 5 and height[mine & (reach >= 0)].max() <= 20


def test_nobody_is_kept_in_a_loop_of_grabs_by_what_follows_a_break():
    """Who breaks free is not grabbed again before he can act: both are free within the same frame or so."""
    games = Games(ALL, np.full(len(ALL), game.FOX))
    games.place(0, 0.0, facing=1)
    games.place(1, ROW["pull_reach"][ALL], facing=-1)
    games.act(0, game.GRAB_PULL)
    games.act(1, game.CAUGHT)
    games.secrets["grab_timer"][:, 1] = 20
    again, was_free = np.zeros(len(ALL), bool), np.zeros(len(ALL), bool)
    for frame in range(120):
        games.press(0, Z if frame > 30 and frame % 2 else 0)
        games.press(1, 0, (1, 0) if frame % 2 else (0, 0))
        games.step()
        action = games.players["action"][:, 1]
        was_free |= np.isin(action, (game.WAIT, game.DASH, game.TURN, game.WALK_SLOW))
        again |= is_held(action) & ~was_free & (frame > 40)
    assert not again.any(), ALL[again]


# ---------------------------------------------------------------------------------------------------------------------
# End lag
# ---------------------------------------------------------------------------------------------------------------------

def frames_until_out(character, action, stays, airborne, press=None, every=2, held=None):
    """Frames until each game's player has left what `stays` counts as still the same, mashing this press."""
    games = Games(character, np.full(len(character), game.FOX))
    games.place(0, 0.0, 180.0 if airborne else None, facing=1)
    games.place(1, 80.0)
    games.act(0, action)
    out = np.full(games.number, 999)                   # nearly so for who lands, hangs or dies: it was no press
    for frame in range(260):
        buttons, stick, c_stick = (np.zeros(games.number, int), np.zeros((games.number, 2)), np.zeros((games.number, 2))
                                   ) if press is None else press
        down = (frame % every == 0)
        games.press(0, buttons * down, stick * down, c_stick * down)
        games.step()
        now = games.players["action"][:, 0]
        left = ~stays(now, action) & (out == 999)
        elsewhere = np.isin(now, (game.LANDING, game.LANDING_SPECIAL, game.LEDGE_CATCH)) | (now <= game.REBIRTH_WAIT)
        out[left] = np.where(elsewhere[left], 998, frame)
    return out


def lags(character, action, stays, airborne=False):
    """-> frames until free without any input, and the fewest over all presses, each mashed every 2nd frame."""
    idle = frames_until_out(character, action, stays, airborne)
    fewest, which = idle.copy(), np.full(len(idle), -1)
    for number, (buttons, stick, c_stick) in enumerate(PRESSES):
        n = len(character)
        frames = frames_until_out(character, action, stays, airborne,
                                  (np.full(n, buttons), np.full((n, 2), stick), np.full((n, 2), c_stick)))
        which = np.where(frames < fewest, number, which)
        fewest = np.minimum(fewest, frames)
    return idle, fewest, which


def print_early(cases, early, idle, fewest, which):
    found = [(*cases[row].tolist(), int(idle[row]), int(fewest[row]), PRESSES[which[row]])
             for row in np.flatnonzero(early)]
    print(f"{len(found)} of {len(cases)} too early: {found[:8]}")


def test_no_press_cuts_a_ground_attack_short():
    """Before its interruptible frame only what Melee lets out: the next jab, Link's second slash."""
    cases = np.array([(character, own) for character in ALL for own in sorted(set(
        ROW[character]["own_action"][[50, 51, 53, 55, 56, 57, 60, 63, 64]])) if ROW["hit_row"][character, own].any()])
    character, action = cases.T
    link = (character == game.LINK) & (action == 60)
    idle, fewest, which = lags(character, action, lambda now, then: now == then)
    due = ROW["interruptible"][character, action]
    due = np.where(due > 0, np.minimum(due - 2, idle), idle)  # the press counts from frame 1 on
    early = (fewest < due) & ~link
    print_early(cases, early, idle, fewest, which)
    assert not early.any()


def test_no_press_cuts_an_aerial_short():
    cases = np.array([(character, own) for character in ALL for own in ROW[character]["own_action"][65:70]])
    character, action = cases.T
    idle, fewest, which = lags(character, action, lambda now, then: now == then, airborne=True)
    due = ROW["interruptible"][character, action]
    due = np.where(due > 0, np.minimum(due - 2, idle), idle)
    early = fewest < due
    print_early(cases, early, idle, fewest, which)
    assert not early.any()


UNFREE = [(action, False) for action in (
    43, 70, 71, 72, 73, 74, 180, 186, 187, 188, 189, 194, 195, 196, 197, 199, 200, 201, 211, 218, 229, 233, 234, 235,
    238, 205)] + [(action, True) for action in (35, 236)]


def test_no_press_cuts_a_dodge_a_landing_or_a_get_up_short():
    """Rolls, spot and air dodges, techs, get-ups, landings of aerials and helpless falls, dizziness, breaking free."""
    for airborne in (False, True):
        cases = np.array([(character, action) for character in ALL for action, air in UNFREE if air == airborne])
        character, action = cases.T
        own = np.where(action < 80, ROW["own_action"][character, np.minimum(action, 79)], action)
        games_timer = (action == 211)
        idle, fewest, which = lags(character, own, lambda now, then: now == then, airborne)
        free = games_timer | (action == 180)           # mashing wakes up; a jump leaves the shield's release
        early = (fewest < idle) & ~free
        print_early(cases, early, idle, fewest, which)
        assert not early.any()


@pytest.mark.parametrize("airborne", [False, True])
def test_no_press_cuts_a_special_short(airborne):
    """From its first frame to the last of what follows it; what B, a shield or a jump ends in Melee too is left out:
    shines, charges, the specials that go on while B is held, the sword dance."""
    cases = np.array([(character, ROW["special_start"][character, int(airborne), direction]) for character in ALL
                      for direction in (1, 2, 3, 4) if ROW["special_start"][character, int(airborne), direction]])
    character, action = cases.T
    open_ended = np.zeros(len(cases), bool)
    for index, (who, special) in enumerate(cases):
        row = ROW[who]
        held = set(row["hold_action"]) | set(row["charge_action"]) | set(row["hold_end"])
        starts = {special, int(row["next_action"][special])}
        shine = who in (game.FOX, game.FALCO) and 360 <= special <= 369
        open_ended[index] = shine or bool(starts & held) or (who == game.MARTH and special in (349, 358))
        open_ended[index] |= special in row["launch_actions"][:2]  # the stick may aim at the floor, or along it
        open_ended[index] |= who == game.LINK          # bow, boomerang, bombs end in throws
    idle, fewest, which = lags(character, action, lambda now, then: (now >= 341), airborne)
    early = (fewest < idle - 1) & ~open_ended
    print_early(cases, early, idle, fewest, which)
    assert not early.any()


# ---------------------------------------------------------------------------------------------------------------------
# Hits, shields, projectiles
# ---------------------------------------------------------------------------------------------------------------------

def test_a_swing_hits_as_often_as_its_boxes_come_out():
    """The victim is put back before the attacker on every frame; each hit counts once per activation of the boxes."""
    moves = attacks()
    moves = moves[~np.isin(moves[:, 1], (48, 343))]    # rapid jabs go round
    shown = ROW["hit_row"][moves[:, 0], moves[:, 1]] > 0
    activations = (shown[:, 1:] & ~shown[:, :-1]).sum(1) + shown[:, 0]
    games = Games(moves[:, 0], np.full(len(moves), game.GANONDORF))
    games.place(0, 0.0, facing=1)
    games.act(0, moves[:, 1])
    hits, percent = np.zeros(len(moves), int), np.zeros(len(moves))
    for _ in range(120):
        victim = games.players[:, 1]
        victim["x"] = games.players["x"][:, 0] + 9 * games.players["facing"][:, 0]
        victim["y"], victim["airborne"] = 5, 1
        for name in ("kb_vx", "kb_vy", "self_vy", "hitlag", "in_hitstun"):
            victim[name] = 0
        victim["action"] = game.FALL
        games.frames["items"]["present"] = 0
        games.step()
        same = games.players["action"][:, 0] == moves[:, 1]
        hits += (games.players["percent"][:, 1] > percent + .001) & same
        percent = games.players["percent"][:, 1].copy()
    wrong = hits > activations
    found = [(*moves[row].tolist(), int(hits[row]), int(activations[row])) for row in np.flatnonzero(wrong)]
    print(f"{len(found)} of {len(moves)}: {found[:8]}; most {hits.max()}")
    assert not wrong.any()


def test_what_a_shield_takes_the_body_does_not():
    """A blow is either blocked, and costs shield, or it reaches past it, and costs percent; never both, and no
    projectile gets past. A full and unmoved shield covers nearly everything from in front."""
    moves = attacks()
    cases = np.array([(move, victim, distance) for move in range(len(moves)) for victim in ALL
                      for distance in (6, 10, 16)])
    move, victim, distance = cases.T
    games = Games(moves[move, 0], victim)
    games.place(0, 0.0, facing=1)
    games.place(1, distance, facing=-1)
    games.press(1, R, trigger=1.0)
    for _ in range(20):
        games.step()
    games.players["shield"][:, 1] = 60
    games.place(0, 0.0, facing=1)
    games.place(1, distance, facing=-1)
    games.act(0, moves[move, 1])
    both, poked, blocked = 0, np.zeros(len(cases), bool), np.zeros(len(cases), bool)
    for _ in range(60):
        before = games.players[:, 1][["percent", "shield", "action"]].copy()
        games.step()
        after = games.players[:, 1]
        shielding = (before["action"] >= 178) & (before["action"] <= 182) & (before["action"] != 180)
        through = shielding & (after["percent"] > before["percent"]) & ~is_held(after["action"])
        struck = shielding & (after["shield"] < before["shield"] - .5)
        both += (through & struck).sum()
        poked |= through & ~blocked & (before["shield"] > 55)
        blocked |= struck
    print(f"{both} both; full shields: {blocked.sum()} blocked, {poked.sum()} poked")
    assert both == 0 and blocked.sum() > 1000 and poked.sum() < .1 * blocked.sum()


def test_projectiles_are_few_and_end():
    """Mashing specials for ten seconds, then nothing: eight slots at most, one boomerang and bomb each, all gone."""
    games = Games(np.repeat(ALL, 40), np.tile(np.repeat(ALL[::-1], 4), 10))
    games.place(0, -60.0, facing=1)
    games.place(1, 60.0, facing=-1)
    mash = Mash(games, seed=11, buttons=(0, B, B, B, A, X))
    items = games.frames["items"]
    most = 0
    for frame in range(1200):
        if frame < 600:
            mash()
        else:
            games.pads[:] = 0
        games.step()
        present = items["present"] == 1
        most = max(most, present.sum(1).max())
        assert np.isfinite(items["x"][present]).all() and (items["timer"][present] >= 0).all()
        for owner in range(2):
            for item_type in (game.BOOMERANG, game.BOMB):
                assert ((items["type"] == item_type) & present & (items["owner"] == owner)).sum(1).max() <= 2
    left = (items["present"] == 1) & (items["timer"] < game.items.HELD_TIMER)  # a ball that is being charged stays
    print(f"most at once {most}; left over {sorted(set(map(hex, items['type'][left])))}")
    assert most <= 8 and not left.any()


def test_games_of_random_play_end():
    """A hundred games of mashing: nobody is stuck anywhere, and all end long before the clock."""
    games = Games(np.resize(ALL, 100), np.resize(ALL[::-1], 100))
    mash = Mash(games, seed=12)
    over = np.zeros(100, bool)
    for _ in range(9000):
        mash()
        games.step()
        over |= game.game_over(games.frames)
        if over.all():
            break
    print(f"{over.sum()} of 100 over")
    assert over.mean() > .97
