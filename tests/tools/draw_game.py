"""Draws a strip of a game of the embedded game: the stage, both players' bodies over time, and where hits land.

    python tests/tools/draw_game.py docs/game.png          # two attackers, Fox and Marth on Battlefield

Each panel is two thirds of a second. A body is the capsule that hits are tested against, drawn every eighth frame and
darker the later; a line is the path, a star a hit with the percent after it.
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from cleanmelee import game

STAGE, SEED, PANELS, PANEL_FRAMES, EVERY = 31, 8, 6, 40, 8
PLAYERS = (("Fox", 1, "#c8501e"), ("Marth", 18, "#2850b4"))


def record(frames_wanted):
    """[T] FRAME of two attackers against each other."""
    frames, hidden = np.zeros(1, game.FRAME), np.zeros(1, game.HIDDEN)
    bots, controllers = np.zeros((1, 2), game.BOT), np.zeros((1, 2), game.CONTROLLER)
    bots["kind"], bots["seed"] = game.BOTS["attacker"], [[SEED, SEED + 1]]
    game.reset_games(frames, hidden, np.ones(1, bool), np.array([[character for _, character, _ in PLAYERS]]),
                     np.array([STAGE]), np.array([SEED], np.uint64))
    history = np.zeros(frames_wanted, game.FRAME)
    for index in range(frames_wanted):
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)
        history[index] = frames[0]
    return history


def liveliest(history, length):
    """The start of the window with most hits and most ground covered in which nobody is dead."""
    players = history["players"]
    hits = np.maximum(np.diff(players["percent"], axis=0), 0).astype(bool).sum(1)
    steps = np.hypot(np.diff(players["x"], axis=0), np.diff(players["y"], axis=0)).sum(1)
    alive = (players["action"] > game.REBIRTH_WAIT).all(1)
    scores = [hits[start:start + length].sum() + steps[start:start + length].sum() / 40
              if alive[start:start + length].all() else -1 for start in range(len(history) - length)]
    return int(np.argmax(scores))


def draw_stage(axes):
    stage = game.TABLES.stages[STAGE]
    for floor in range(stage["num_floors"]):
        left, right, y = (stage[name][floor] for name in ("floor_left", "floor_right", "floor_y"))
        axes.plot([left, right], [y, y], color="#444", linewidth=3 if floor == 0 else 1.5, solid_capstyle="butt")
    axes.set_xlim(-85, 85), axes.set_ylim(-14, 86), axes.set_aspect("equal")
    axes.set_xticks([]), axes.set_yticks([])


def draw_body(axes, player, color, alpha):
    from matplotlib.patches import FancyBboxPatch
    radius, bottom, top, forward = game.combat.body(player, game.TABLES.characters[player["character"]])
    height = max(top - bottom, 2 * radius)
    axes.add_patch(FancyBboxPatch(
        (player["x"] + forward * player["facing"] - .01, player["y"] + bottom + radius), .02,
        max(height - 2 * radius, .02), boxstyle=f"round,pad={radius}", facecolor=color, edgecolor="none", alpha=alpha))


def draw(history, path):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, grid = pyplot.subplots(PANELS // 3, 3, figsize=(13, 5.6))
    start = liveliest(history, PANELS * PANEL_FRAMES)
    for panel, axes in enumerate(grid.flat):
        begin = start + panel * PANEL_FRAMES
        part = history["players"][begin:begin + PANEL_FRAMES + 1]
        draw_stage(axes)
        for index, (_, _, color) in enumerate(PLAYERS):
            own = part[:, index]
            axes.plot(own["x"], own["y"], color=color, linewidth=1)
            for frame in range(0, PANEL_FRAMES, EVERY):
                draw_body(axes, own[frame], color, .12 + .4 * frame / PANEL_FRAMES)
            for frame in np.flatnonzero(np.diff(own["percent"]) > 0) + 1:
                axes.plot(own["x"][frame], own["y"][frame] + 8, "*", color="black", markersize=9)
                axes.text(own["x"][frame] + 3, own["y"][frame] + 9, f"{own['percent'][frame]:.0f} %", fontsize=8)
        scores = ", ".join(f"{name} {part[-1, index]['percent']:.0f} %" for index, (name, _, _) in enumerate(PLAYERS))
        seconds = f"{(begin - start) / 60:.1f} to {(begin - start + PANEL_FRAMES) / 60:.1f} s"
        axes.set_title(f"{seconds}   {scores}", fontsize=9)
    lines = [pyplot.Line2D([], [], color=color, linewidth=5, label=name) for name, _, color in PLAYERS]
    grid.flat[0].legend(handles=lines, loc="upper right", fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=75)


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    draw(record(3600), sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
