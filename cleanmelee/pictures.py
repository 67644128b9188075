"""What runs look like: matplotlib figures of rows of metrics.jsonl and eval.jsonl, of results and of controllers."""

import io
from pathlib import Path

import numpy as np

from cleanmelee.files import atomic_write, read_jsonl
from cleanmelee.fingerprint import usual


def figure(width: float = 7, height: float = 4):
    from matplotlib.figure import Figure                                    # not pyplot: no display, no global state
    return Figure(figsize=(width, height), layout="constrained")


def png(picture) -> bytes:
    buffer = io.BytesIO()
    picture.savefig(buffer, dpi=120, metadata={"Software": None})           # the same figure is the same file
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# Strength
# ---------------------------------------------------------------------------------------------------------------------

def winrates(rows: list[dict], title: str):
    """Rows of eval.jsonl: win rate against each opponent over game frames, with 95 % intervals; None below two rows."""
    if len(rows) < 2:
        return None
    axes = (picture := figure()).subplots()
    names = dict.fromkeys(key.removeprefix("eval/winrate_") for row in rows for key in row if f"{key}_low" in row)
    names.pop("control", None)
    for name in names:                                                      # a row may lack one, whose file was gone
        keys = "global_step", *(f"eval/winrate_{name}{end}" for end in ("_low", "", "_high"))
        points = [[row[key] for key in keys] for row in rows if row.keys() >= set(keys)]
        steps, low, rate, high = zip(*points, strict=True)
        axes.fill_between(steps, low, high, alpha=.2)
        axes.plot(steps, rate, marker=".", label=name)
    axes.set(xlabel="game frames", ylabel=f"win rate in {rows[-1].get('games')} games", ylim=(-.02, 1.02), title=title)
    if names:
        axes.legend()
    return picture


def plot_winrates(run: Path) -> Path | None:
    """winrates.png in the folder of a run."""
    picture = winrates([row for _, row in read_jsonl(run / "eval.jsonl")], run.name)
    if picture is None:
        return None
    atomic_write(run / "winrates.png", png(picture))
    return run / "winrates.png"


def payoff_matrix(rows: list[str], columns: list[str], payoff: dict[str, dict[str, list]], title: str):
    """payoff[row][column] = [wins, draws, losses]: the row's score against the column, grey where none was played."""
    scores = np.full((len(rows), len(columns)), np.nan)
    for i, a in enumerate(rows):
        for j, b in enumerate(columns):
            if b in payoff.get(a, {}):
                wins, draws, losses = payoff[a][b]
                scores[i, j] = (wins + draws / 2) / (wins + draws + losses)
    axes = (picture := figure(4 + .32 * len(columns), 3 + .32 * len(rows))).subplots()
    axes.set_facecolor("lightgrey")
    image = axes.imshow(scores, cmap="RdBu", vmin=0, vmax=1)
    for i, j in np.argwhere(~np.isnan(scores)):
        axes.text(j, i, f"{100 * scores[i, j]:.0f}", ha="center", va="center", fontsize=7,
                  color="white" if abs(scores[i, j] - .5) > .3 else "black")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set(xlabel="against", title=title)
    picture.colorbar(image, ax=axes, label="wins and half the draws, of all games", shrink=.8)
    return picture


# ---------------------------------------------------------------------------------------------------------------------
# Learning
# ---------------------------------------------------------------------------------------------------------------------

def curves(runs: dict[str, list[tuple[float, float]]], label: str, unit: str):
    """{run: its (step, value) points}: a line a run; of several the median and the range between the lowest and the
    highest, wherever all of them have come."""
    axes = (picture := figure(5, 3)).subplots()
    lines = {name: np.array(sorted(points), float).T for name, points in runs.items() if points}
    several = len(lines) > 1
    for name, (steps, values) in lines.items():
        axes.plot(steps, values, label=name, alpha=.5 if several else 1, linewidth=1)
    if several:
        first, last = max(steps[0] for steps, _ in lines.values()), min(steps[-1] for steps, _ in lines.values())
        if first < last:
            common = np.linspace(first, last, 200)
            values = np.array([np.interp(common, *line) for line in lines.values()])
            axes.fill_between(common, values.min(0), values.max(0), color="black", alpha=.12, label="range")
            axes.plot(common, np.median(values, 0), color="black", linewidth=2, label="median")
        axes.legend(fontsize=7)
    axes.set(xlabel=unit, title=label)
    return picture


# ---------------------------------------------------------------------------------------------------------------------
# Style
# ---------------------------------------------------------------------------------------------------------------------

def press_rates(rows: list[dict], step: str, title: str):
    """Rows with eval/press_BUTTON (and of people eval/true_press_BUTTON, dashed): the share of decisions in which each
    button is held, over `step`; None if there are none."""
    rows = [row for row in rows if any(key.startswith("eval/press_") for key in row)]
    if not rows:
        return None
    axes = (picture := figure()).subplots()
    names = [key.removeprefix("eval/press_") for key in rows[-1] if key.startswith("eval/press_")]
    for k, name in enumerate(names):
        for kind, line in (("press", "-"), ("true_press", "--")):
            points = [(row[step], row[f"eval/{kind}_{name}"]) for row in rows if f"eval/{kind}_{name}" in row]
            if points:
                axes.plot(*zip(*points, strict=True), line, marker="." if line == "-" else None, color=f"C{k}",
                          label=name if line == "-" else None)
    axes.set(xlabel=step, ylabel="share of decisions", title=title)
    axes.legend(fontsize=7, ncols=2)
    return picture


def stick_heat(controllers: np.ndarray, title: str):
    """CONTROLLER records: how often each stick was where; the colour is logarithmic, as sticks rest most of the
    time."""
    from matplotlib.colors import LogNorm
    picture = figure(7, 3.4)
    edges = np.linspace(-1.0625, 1.0625, 18)                                # 17 places, the middle one is at rest
    for axes, stick in zip(picture.subplots(1, 2), ("main", "c"), strict=True):
        counts, _, _ = np.histogram2d(controllers[f"{stick}_x"].ravel(), controllers[f"{stick}_y"].ravel(), [edges] * 2)
        share = counts.T / max(counts.sum(), 1)
        image = axes.pcolormesh(edges, edges, np.ma.masked_equal(share, 0), norm=LogNorm(1e-4, 1), cmap="viridis")
        axes.set(title=f"{stick} stick", aspect="equal")
    picture.colorbar(image, ax=picture.axes, label="share of frames")
    picture.suptitle(title)
    return picture


def fingerprints(runs: dict[str, dict[str, float]]):
    """{run: figures of its style}: each figure in widths of people's band, which is the grey strip from 0 to 1."""
    bands = usual()
    axes = (picture := figure(7, .35 * len(bands) + 1.2)).subplots()
    axes.axvspan(0, 1, color="lightgrey", label="nine of ten people's games")
    for k, (run, figures) in enumerate(runs.items()):
        places = [(np.clip((figures[name] - low) / (high - low), -2, 3), row)
                  for row, (name, (low, high)) in enumerate(bands.items()) if name in figures]
        if places:
            axes.scatter(*zip(*places, strict=True), color=f"C{k}", label=run, zorder=2)
    axes.set_yticks(range(len(bands)), bands)
    axes.set(xlim=(-2.2, 3.2), xlabel="widths of people's band, cut off at -2 and 3")
    axes.invert_yaxis()
    axes.legend(fontsize=7)
    return picture
