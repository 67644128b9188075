"""One HTML page about a run, or about several seeds of one: what was learnt, how strong it is, how it plays.

    python tests/tools/report.py runs/NAME                                  # writes runs/NAME/report.html
    python tests/tools/report.py runs/a runs/b runs/c --output report.html  # three seeds side by side
    python tests/tools/report.py runs/NAME --wandb                          # also a report at Weights & Biases

For runs of bc.py, ppo_selfplay.py and distill.py. Of several the curves show each, their median and their range. The
page needs nothing beside it: its pictures are in it.
"""

import base64
import html
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from cleanmelee import pictures  # noqa: E402 (after the path is set)
from cleanmelee.cli import PATH, UserError, run_script
from cleanmelee.files import atomic_write, check_writable, read_file, read_json, read_jsonl
from cleanmelee.replays import read_replay
from cleanmelee.terminal import warn
from melee_common import load_checkpoint

CURVES = (  # of metrics.jsonl and eval.jsonl, what matters most first
    "eval/score", "selfplay/elo", "eval/nll", "eval/nll_changed", "eval/student_nll", "eval/kl", "losses/nll",
    "losses/entropy", "losses/approx_kl", "losses/explained_variance", "charts/episodic_return", "eval/drift",
    "charts/SPS", "charts/frames_per_second")
REST = ("losses/", "rewards/", "eval/value")                                # what else is worth one
LAST_GAMES = 4                                                              # of games/, for where the sticks were

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
section { display: flex; flex-wrap: wrap; gap: 1rem } h2 { flex-basis: 100%; margin: 2rem 0 0 }
img { max-width: calc(50% - .5rem); height: auto; background: white; border-radius: .3rem; align-self: start }
img.wide, pre { max-width: 100% } @media (max-width: 50rem) { img { max-width: 100% } }
table { border-collapse: collapse; display: block; overflow-x: auto } td, th { padding: .1rem .8rem; text-align: left }
pre { overflow-x: auto }
"""


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[str, ...]]
    """folders of runs of one stage"""
    output: Annotated[str, PATH] = ""
    """file of the page (default: report.html in the folder of the first run)"""
    wandb: bool = False
    """also make a report at Weights & Biases of these runs, which were tracked; needs wandb-workspaces and an account
    (off: False)"""


@dataclass
class Run:
    """What a run's folder holds."""
    folder: Path
    flags: dict
    step: str                                                               # the name of the axis
    metrics: list[dict]
    evaluations: list[dict]

    @property
    def name(self) -> str:
        return self.folder.name


def read_run(folder: Path) -> Run:
    if not (folder / "args.json").is_file():
        raise UserError(f"{folder}: not a run folder (no args.json in it); give the folder of a run, e.g. runs/NAME")
    step = "global_step" if (folder / "ppo_selfplay.py").exists() else "step"
    metrics, evaluations = ([row for _, row in read_jsonl(folder / f"{name}.jsonl", step)] for name in
                            ("metrics", "eval"))
    if not metrics:
        raise UserError(f"{folder}: no row in its metrics.jsonl yet; let it run for longer")
    return Run(folder, read_json(folder / "args.json"), step, metrics, evaluations)


# ---------------------------------------------------------------------------------------------------------------------
# Sections: {heading: [figures or HTML]}
# ---------------------------------------------------------------------------------------------------------------------

def about(runs: list[Run]) -> str:
    """What was run, with which flags: those in which the runs differ as a table."""
    names = [name for name in runs[0].flags if len({repr(run.flags.get(name)) for run in runs}) > 1]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("run", *names, f"last {runs[0].step}"))
    cells = [[run.name, *(run.flags.get(name) for name in names), f"{run.metrics[-1][run.step]:,}"] for run in runs]
    lines = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in cells)
    files = [(run.folder / name).read_text(errors="replace") for run in runs[:1] for name in (
        "command.txt", "versions.txt") if (run.folder / name).is_file()]
    return f"<table><tr>{head}</tr>{lines}</table><pre>{html.escape(''.join(files))}</pre>"


def curves(runs: list[Run]) -> list:
    """A picture a quantity, of those that all have."""
    points = {}
    for run in runs:
        for row in (*run.metrics, *run.evaluations):
            for key, value in row.items():
                if type(value) in (int, float) and np.isfinite(value):
                    points.setdefault(key, {}).setdefault(run.name, []).append((row[run.step], value))
    shown = [key for key in CURVES if key in points]
    shown += [key for key in points if key.startswith(REST) and key not in shown]
    return [pictures.curves(points[key], key, runs[0].step) for key in shown]


def strength(runs: list[Run]) -> list:
    """Win rates of each run, and who scored how much against whom in its training games."""
    found = []
    for run in runs:
        found.append(pictures.winrates(run.evaluations, run.name))
        latest = run.folder / "checkpoints" / "latest.pt"
        ratings = load_checkpoint(latest).get("ratings") if latest.is_file() else None
        if ratings:
            learners = [name for name in ratings["payoff"] if name == "main" or name.startswith("agent") and "_" not in
                        name] or list(ratings["payoff"])
            opponents = sorted(ratings["table"], key=lambda name: -ratings["table"][name][0])
            met = [name for name in opponents if any(name in ratings["payoff"].get(own, {}) for own in learners)]
            if met:
                found.append(pictures.payoff_matrix(
                    learners, met, ratings["payoff"], f"{run.name}: score in training games, strongest first"))
    return found


def style(runs: list[Run]) -> list:
    """Buttons, sticks in the last recorded games, and the fingerprint."""
    found = [pictures.press_rates(run.evaluations or run.metrics, run.step, run.name) for run in runs]
    for run in runs:
        controllers = []
        for path in sorted((run.folder / "games").glob("*.slp"))[-LAST_GAMES:]:
            try:
                controllers.append(read_replay(path).controllers.ravel())
            except UserError as error:
                warn(f"left out: {error}")
        if controllers:
            found.append(pictures.stick_heat(
                np.concatenate(controllers), f"{run.name}: where the sticks were in its last {len(controllers)} games"))
    figures = {run.name: {key.removeprefix("style/"): value for key, value in run.evaluations[-1].items()
                          if key.startswith("style/") and isinstance(value, float)} for run in runs if run.evaluations}
    return found + [pictures.fingerprints(figures)] * any(figures.values())


def image(picture) -> str:
    kind = " class=wide" if picture.get_figwidth() > 8 else ""
    return f"<img{kind} alt='' src='data:image/png;base64,{base64.b64encode(pictures.png(picture)).decode()}'>"


def page(runs: list[Run]) -> str:
    title = ", ".join(run.name for run in runs)
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
             f"<meta name=viewport content='width=device-width'><style>{STYLE}</style><h1>{html.escape(title)}</h1>",
             about(runs)]
    for heading, make in (("Strength", strength), ("Learning", curves), ("Style", style)):
        figures = [picture for picture in make(runs) if picture is not None]
        if figures:
            parts.append(f"<section><h2>{heading}</h2>{''.join(map(image, figures))}</section>")
    return "\n".join(parts) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# Weights & Biases
# ---------------------------------------------------------------------------------------------------------------------

def publish(runs: list[Run]) -> str:
    """The same curves as a report at Weights & Biases -> its address. UserError: the package, an account or the runs
    are missing there."""
    try:
        import wandb
        import wandb_workspaces.reports.v2 as reports
    except ImportError as error:
        raise UserError(f"--wandb: {error}; pip install wandb-workspaces, or leave --wandb out") from None
    ids = [read_file(run.folder / "wandb.txt", most=100).decode(errors="replace").strip() for run in runs]
    project = runs[0].flags.get("wandb_project") or "cleanmelee"
    try:
        entity = runs[0].flags.get("wandb_entity") or wandb.Api().default_entity
        keys = [key for key in CURVES if any(key in row for run in runs for row in (*run.metrics, *run.evaluations))]
        runset = reports.Runset(entity=entity, project=project, filters=f"Metric('ID') in {ids!r}")
        panels = [reports.LinePlot(title=key, x="global_step", y=[key]) for key in keys]
        panels.append(reports.MediaBrowser(media_keys=[f"pictures/{name}" for name in (
            "winrates", "payoff", "press_rates")]))
        report = reports.Report(entity=entity, project=project, title=", ".join(run.name for run in runs),
                                blocks=[reports.PanelGrid(runsets=[runset], panels=panels)])
        report.save()
    except Exception as error:                                              # no account, no network, no such project
        raise UserError(f"--wandb: {error}; check your login, or leave --wandb out") from None
    return report.url


def main(args: Args) -> None:
    if not args.runs:
        raise UserError("no run given; give the folders of runs, e.g. runs/NAME")
    runs = [read_run(Path(folder)) for folder in args.runs]
    if len({run.step for run in runs}) > 1:
        raise UserError(f"{' '.join(args.runs)}: not runs of one stage; make a report of each")
    output = Path(args.output or runs[0].folder / "report.html")
    check_writable("--output", output)
    atomic_write(output, page(runs).encode())
    print(f"wrote {output}")
    if args.wandb:
        print(f"published {publish(runs)}")


if __name__ == "__main__":
    run_script(main, Args)
