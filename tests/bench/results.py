"""Every table of figures in README and docs, out of files that commands have written: docs/results/NAME.json.

    python tests/bench/results.py                          # the tables anew, out of the files
    python tests/bench/results.py game web                 # measure these first: tests/bench/bench_NAME.py
    python tests/bench/results.py cloning -- --replays DIR # with flags of that measurement
    python tests/bench/results.py --check                  # exits 1 where a table is not what its file says

A file holds the figures (`rows`), the command, the commit, the minutes, the machine with its load, and the versions. In
the texts a table stands between <!-- NAME --> and <!-- /NAME -->, and nobody edits it there.
"""

import functools
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from cleanmelee.cli import UserError  # noqa: E402 (after the path is set)
from cleanmelee.files import atomic_write, read_json  # noqa: E402
from cleanmelee.runs import versions  # noqa: E402
from cleanmelee.statistics import wilson_interval  # noqa: E402

FOLDER = ROOT / "docs" / "results"
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = {                                              # where these lie is nobody's
    "--replays": "REPLAYS", "--teacher": "TEACHER", "--pretrained": "POLICY", "--opponent": "POLICY"}
MARKED = re.compile(r"<!-- ([a-z-]+) -->\n.*?<!-- /\1 -->", re.DOTALL)


# ---------------------------------------------------------------------------------------------------------------------
# Files of figures
# ---------------------------------------------------------------------------------------------------------------------

def machine() -> dict:
    """This machine, and how much other work it has."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if os.name == "posix" else None
    return {"system": platform.system(), "processor": model[1] if model else platform.processor(),
            "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}


def place(flag: str, word: str) -> str:
    """A word of the command, which stands after `flag`, as anybody can use it."""
    if flag in PLACES:
        return f"{PLACES[flag]}/{Path(word).name}" if Path(word).suffix == ".slp" else PLACES[flag]
    return word.removeprefix(f"{ROOT}/")


def save(file: str, rows: list[dict], began: float, **facts) -> None:
    """Prints what has measured `rows`, and for how long since `began` (time.time()); writes all of it to `file`, if
    that is not empty. facts: what else a table says."""
    words = [place(before, word) for before, word in zip(["", *sys.argv], sys.argv, strict=False)]
    about = {"command": shlex.join(["python", *words]),
             "date": time.strftime("%Y-%m-%d", time.gmtime(began)), "minutes": round((time.time() - began) / 60, 1),
             "machine": machine(), "versions": versions()}
    print(f"{about['machine']['cores']} cores ({about['machine']['processor']}), load {about['machine']['load']}, "
          f"{', '.join(f'{name} {v}' for name, v in about['versions'].items())}; {about['minutes']} minutes")
    if file:
        atomic_write(Path(file), (json.dumps(about | facts | {"rows": rows}, indent=1) + "\n").encode())


def load(name: str) -> dict:
    return read_json(FOLDER / f"{name}.json")


# ---------------------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------------------

def table(header: list[str], rows: list[list]) -> str:
    lines = ["| " + " | ".join(map(str, line)).replace("|  |", "| |") + " |" for line in (header, *rows)]
    return "\n".join([lines[0].replace("|  |", "| |", 1), "|" + "---|" * len(header), *lines[1:]])


def source(about: dict) -> str:
    """Under each table: what made it."""
    m = about["machine"]
    return (f"`{about['command']}`, {about['date']}, {about['minutes']} minutes, {m['cores']} cores "
            f"({m['processor']}), load {m['load']}, commit {about['versions']['git']}.")


def percent(rate: float, low: float, high: float) -> str:
    return f"{100 * rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


LEARNT = ["", "game frames", "minutes of one core", "stocks lost alone a minute", "draws against itself",
          "least against its past", "against the other seeds"]


def learning() -> str:
    """A line a seed, then the median and the worst of them, then what else is known of them."""
    about = load("learning")
    rows, opponents = about["rows"], list(about["rows"][0]["winrates"])
    lines = [[f"seed {row['seed']}", *(percent(*row["winrates"][name]) for name in opponents)] for row in rows]
    if len(lines) > 1:
        for what, of in (("median", statistics.median), ("worst", min)):
            lines.append([what, *(f"{100 * of(row['winrates'][name][0] for row in rows):.0f} %" for name in opponents)])
    facts = [[f"seed {row['seed']}", f"{row['frames'] / 1e6:.1f} M", f"{row['minutes']:.1f}",
              f"{row['self_destructs']:.2f}", f"{row['draws_itself']:.1%}",
              percent(*row["past"]["least"]) if "past" in row else "",
              ", ".join(percent(*(of if pair["first"] == row["run"] else [1 - x for x in (of[0], of[2], of[1])]))
                        for pair in about["cross_play"] for of in [pair["rate"]]
                        if row["run"] in (pair["first"], pair["second"]))] for row in rows]
    return (f"`{about['training']}`, win rates in {rows[0]['games']} games each with 95 % intervals:\n\n"
            f"{table(['', *opponents], lines)}\n\n"
            f"{table(LEARNT, facts)}\n\n{source(about)}")


def everybody() -> str:
    """One policy for all: a line each for all games, every character and every stage."""
    about = load("everybody")
    row = about["rows"][0]
    of = {"all": row["winrates"], **row["character"], **row["stage"]}
    lines = [[name, *(percent(*rate) for rate in rates.values())] for name, rates in of.items()]
    return (f"`{about['training']}`, {row['frames'] / 1e6:.0f} M game frames, {row['minutes']:.0f} minutes of one "
            f"core; {row['games']:,} games against each opponent, whose character is the same:\n\n"
            f"{table(['', *row['winrates']], lines)}\n\nIt loses {row['self_destructs']:.2f} stocks a minute alone, "
            f"and draws {row['draws_itself']:.1%} of its games against itself. {source(about)}")


def game() -> str:
    about = load("game")
    lines = [[f"{row['games']:,}", f"{row['frames_per_second']:,.0f}"] for row in about["rows"]]
    return (f"{table(['games side by side', 'game frames/s, one core'], lines)}\n\n{about['state_bytes']:,} bytes of "
            f"state a game; {about['compile_seconds']:.0f} s to compile once, then {about['import_seconds']:.2f} s to "
            f"import. {source(about)}")


def levels() -> str:
    """Who beats whom, then how they play."""
    about = load("levels")
    won = {(row["level"], row["against"]): percent(*row["rate"]) for row in about["rows"] if "against" in row}
    ports = next(row for row in about["rows"] if "port_1" in row)
    columns = list(dict.fromkeys(against for _, against in won))
    lines = [[level, *(won.get((level, against), "") for against in columns)]
             for level in sorted({level for level, _ in won}, key=lambda name: int(name.removeprefix("level")))]
    styles = [[row["player"], f"{row['minutes']:.0f}", f"{row['damage']:.0f}", f"{row['ko_percent']:.0f}",
               f"{row['recovery']:.0%}", f"{row['suicides']:.0%}"] for row in about["rows"] if "player" in row]
    header = ["", "minutes", "damage a minute", "median KO percent", "came back", "stocks lost without a blow"]
    return (f"{table(['wins of, against', *columns], lines)}\n\nPort 1 of {ports['level']} against itself wins "
            f"{percent(*ports['port_1'])}.\n\n{table(header, styles)}\n\n{source(about)}")


def fidelity() -> str:
    about = load("fidelity")
    share = lambda value: "" if value is None else f"{value:.1f} %"
    columns = {"position": "position", "action": "action", "changes": "at changes", "animation": "animation frame",
               "alone": "a second alone", "found": "blows found", "real": "of those seen, real"}
    lines = [[row["games"], *(share(row[name]) for name in columns)] for row in about["rows"]]
    header = ["games", *columns.values()]
    return f"{table(header, lines)}\n\n{source(about)}"


def selfplay() -> str:
    about = load("selfplay")
    lines = [[row["row"], f"{row['decisions_per_second']:,.0f}", f"{row['frames_per_second']:,.0f}",
              f"{row['ceiling']:,.0f}" if row["ceiling"] else "", f"{row['acting']:.0%}, {row['learning']:.0%}",
              f"{row['cores']:.2f}"] for row in about["rows"]]
    header = ["", "decisions learnt/s", "game frames/s", "ceiling", "acting and games, learning", "cores busy"]
    return f"{table(header, lines)}\n\n{source(about)}"


def cloning() -> str:
    about = load("cloning")
    lines = [[row["head"], f"{row['before']:.3f}", f"{row['after']:.3f}",
              "" if row["right"] is None else f"{row['right']:.1%}"] for row in about["rows"]]
    return (f"{about['players']} players in {about['games']} games, {about['frames_per_second']:,} frames a second; "
            f"loss a frame on held-out games before and after {about['epochs']} epochs, and the share of choices that "
            f"were the likeliest:\n\n"
            f"{table(['', 'before', 'after', 'right'], lines)}\n\n{source(about)}")


def play() -> str:
    about = load("play")
    lines = [[row["play"], f"{row['frames_per_second']:.1f}", f"{row['frames_missed']:,}"] for row in about["rows"]]
    return f"{table(['', 'frames/s', 'frames missed'], lines)}\n\n{source(about)}"


def web() -> str:
    about = load("web")
    lines = [[row["opponent"], row["page"], f"{row['frames_per_second']:.1f}", f"{row['median']:.2f}",
              f"{row['p99']:.1f}", f"{row['core']:.0%}"] for row in about["rows"]]
    header = ["opponent", "", "frames/s", "delay, median", "99th percentile", "of a core"]
    return f"{table(header, lines)}\n\n{source(about)}"


def data() -> str:
    about = load("data")
    lines = [[f"{row['games']:,}", f"{row['rows']:,}", f"{row['opened']:.1f} s", f"{row['first']:.1f} s",
              f"{row['cpu']:,.0f}", f"{row['learner']:,.0f}", f"{row['distinct']:.0f}", f"{row['peak']:,.0f} MB",
              f"{row['in_memory']:,.0f} MB"] for row in about["rows"]]
    header = ["games", "rows", "index", "first batch", "loader", "learner", "distinct", "peak", "in memory"]
    return f"{table(header, lines)}\n\n{source(about)}"


def backbones() -> str:
    about = load("backbones")
    lines = [[f"`{row['backbone']}` {row['width']}", f"{row['parameters']:,}", f"{row['learns']:,.0f}",
              f"{row['share']:.0%}", f"{row['step_1']:.0f}", f"{row['step_16']:.0f}"] for row in about["rows"]]
    header = ["", "parameters", "learns frames/s", "of the peak", "step of 1, us", "step of 16, us"]
    return f"{table(header, lines)}\n\n{source(about)}"


def matchmaking() -> str:
    about = load("matchmaking")
    columns = list(about["rows"][0]["met"])
    lines = [[row["strategy"], *(row["met"][name] or "" for name in columns)] for row in about["rows"]]
    return f"{table(['strategy', *columns], lines)}\n\n{source(about)}"


def imitation(show: str) -> str:
    """Of bench_imitation.py: a line a policy, its seeds beside each other, the games of all of them together."""
    about, lines = load(f"imitation-{show}"), []
    for name in dict.fromkeys(row["row"] for row in about["rows"]):
        rows = [row for row in about["rows"] if row["row"] == name]
        line = [name, " / ".join(f"{row['nll']:.3f}" for row in rows),
                " / ".join(f"{row['nll_changed']:.2f}" for row in rows)]
        if show == "backbones":
            line += [f"{rows[0]['parameters']:,}", f"{rows[0]['learns']:,.0f}", f"{rows[0]['step']:.0f}"]
        if about["games"]:
            games = len(rows) * about["games"]
            wins = [sum(row["winrates"][level][0] for row in rows) * about["games"] for level in ("level1", "level3")]
            line += [percent(won / games, *wilson_interval(won, games)) for won in wins]
            line.append(" / ".join(f"{row['distance']:.2f}" for row in rows))
        lines.append(line)
    header = ["", "loss", "new inputs", *["parameters", "learns frames/s", "step, us"] * (show == "backbones"),
              *["level 1", "level 3", "distance to people"] * bool(about["games"])]
    return f"{table(header, lines)}\n\n{source(about)}"


def drill() -> str:
    about = load("imitation-drill")
    how = {None: "", False: "sampled", True: "the likeliest"}
    lines = [[row["row"], how[row["deterministic"]], f"{row['rate']:.0f}"] for row in about["rows"]]
    return f"{table(['', 'choices', 'a minute'], lines)}\n\n{source(about)}"


def export() -> str:
    about, lines = load("export"), []
    for row in about["rows"]:
        exact, small, parity = row["float32"], row["int8"], row["parity"]
        pair = lambda times: "{:.2f} / {:.2f}".format(*times)
        states = f"{parity['states']:.0e}" if row["backbone"] != "mlp" else "none"
        lines.append([
            f"{row['backbone']} {','.join(map(str, row['sizes']))}", f"{row['parameters']:,}",
            f"{exact['bytes'] / 1e3:,.0f}, {small['bytes'] / 1e3:,.0f}", f"{states}, {parity['logits']:.0e}",
            f"{parity['actions']:,} of {about['steps'] * row['players']:,}", f"{row['agreement']:.2%}",
            f"{exact['loss']:.3f}", f"{small['loss'] / exact['loss'] - 1:+.2%}", pair(exact["step"]),
            pair(small["step"]), pair(row["goal"]) if row["goal"] else ""])
    header = ["", "parameters", "kB float32, int8", "states, logits differ by", "actions differ", "int8: the same",
              "loss", "int8", "step, ms", "int8", "goal"]
    start = about["start"]
    return (f"{table(header, lines)}\n\nSteps: median / 99th percentile of {about['frames']:,} frames; int8 is "
            f"{about['int8']}. From the start of Python until `play.py` is imported {start['imported']:.2f} s, until "
            f"the first action {start['first_action']:.2f} s, {start['processor']:.2f} s of processor time. "
            f"{source(about)}")


def distill() -> str:
    about = load("distill")
    number = lambda value: "" if value is None else f"{value:.3f}"
    levels = list(about["rows"][0]["winrates"])
    lines = [[row["student"], row["learned_from"], f"{row['parameters']:,}", number(row["loss"]),
              number(row["teacher_loss"]), number(row["kl_held_out"]),
              number(row["kl_own_games"] if row["learned_from"] else None),
              f"{row['step_us']:.0f}", f"{row['seconds']:.0f}" if row["seconds"] else "",
              *(percent(*row["winrates"][level]) for level in levels)] for row in about["rows"]]
    header = ["", "learned from", "parameters", "loss", "teacher's", "KL, held out", "KL, own games", "file, us",
              "learning, CPU s", *levels]
    return f"{table(header, lines)}\n\n{about['games']} games a level. {source(about)}"


def summary() -> str:
    """README's own: a line of each file that there is."""
    def learnt(about):
        rows, median = about["rows"], lambda name: statistics.median(r["winrates"][name][0] for r in about["rows"])
        rates = ", ".join(f"{name} {100 * median(name):.0f} %" for name in rows[0]["winrates"])
        seeds = f"median of {len(rows)} seeds" if len(rows) > 1 else "one seed"
        return (f"self-play from scratch, {rows[0]['frames'] / 1e6:.0f} M game frames, "
                f"{statistics.median(r['minutes'] for r in rows):.0f} minutes of one core", f"{rates} ({seeds})")

    def fast(about):
        best = {row["games"]: row["frames_per_second"] for row in about["rows"]}
        return "the embedded game, 8 games on one core", f"{best[8]:,.0f} frames/s"

    def true(about):
        row = about["rows"][0]
        return (f"its next frame against {row['games']}: position, action, action at changes",
                f"{row['position']:.1f}, {row['action']:.1f}, {row['changes']:.1f} %")

    def shown(about):
        row = about["rows"][0]
        return ("playing in a page, from an input to its picture",
                f"{row['median']:.2f} frames (median), {row['p99']:.1f} (99th percentile), "
                f"{row['frames_per_second']:.0f} frames/s")

    def cloned(about):
        row = about["rows"][-1]
        return (f"cloning {about['games']} games, loss on held-out games",
                f"{row['before']:.2f} -> {row['after']:.2f}, {about['frames_per_second']:,} frames/s")

    def kept(about):
        row = max(about["rows"], key=lambda row: row["games"])
        return (f"learning from {row['games']:,} games on disk", f"{row['peak'] / 1024:.1f} GB of memory; the loader "
                f"is {row['cpu'] / row['learner']:.0f} times as fast as the learner")

    def everyone(about):
        row = about["rows"][0]
        rates = ", ".join(f"{name} {100 * rate[0]:.0f} %" for name, rate in row["winrates"].items())
        return (f"one policy for ten characters and six stages, {row['frames'] / 1e6:.0f} M game frames, "
                f"{row['minutes']:.0f} minutes of one core", f"{rates} (one seed)")

    parts = {"learning": learnt, "everybody": everyone, "game": fast, "fidelity": true, "web": shown, "cloning": cloned,
             "data": kept}
    return table(["", "measured"], [list(part(load(name))) for name, part in parts.items()
                                    if (FOLDER / f"{name}.json").exists()])


TABLES = {make.__name__: make for make in (
    learning, everybody, game, levels, fidelity, selfplay, cloning, play, web, data, backbones, matchmaking, export,
    distill, summary)}
TABLES |= {f"imitation-{show}": functools.partial(imitation, show)
           for show in ("backbones", "delay", "memory", "returns")} | {"imitation-drill": drill}


def regenerated(text: str) -> str:
    """A text with its tables as their files say."""
    return MARKED.sub(lambda found: f"<!-- {found[1]} -->\n{TABLES[found[1]]()}\n<!-- /{found[1]} -->", text)


def main(words: list[str]) -> int:
    flags = words[words.index("--") + 1:] if "--" in words else []
    names = words[:words.index("--")] if "--" in words else words
    check = names == ["--check"]
    unknown = [name for name in names if not Path(__file__).with_name(f"bench_{name}.py").exists()]
    if unknown and not check:
        print(f"error: {unknown[0]}: no such measurement; choose among "
              f"{', '.join(sorted(set(TABLES) - {'summary'}))}, or --check", file=sys.stderr)
        return 2
    for name in [] if check else names:
        command = [f"tests/bench/bench_{name}.py", "--json", f"docs/results/{name}.json", *flags]
        print(shlex.join(["python", *command]), flush=True)
        if subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
            print(f"error: {name}: not measured, or under a floor; see above", file=sys.stderr)
            return 1
    stale = [text for text in TEXTS if regenerated(text.read_text()) != text.read_text()]
    for text in stale:
        print(f"{text.relative_to(ROOT)}: {'a table is not what its file says' if check else 'tables written anew'}")
        if not check:
            atomic_write(text, regenerated(text.read_text()).encode())
    return bool(check and stale)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
