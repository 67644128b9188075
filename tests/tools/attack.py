"""Breaks files on purpose, uses them as a person would, and kills runs: nothing may end in anything but a result or a
line that says what is wrong.

    python tests/tools/attack.py replays --count 2000          # .slp files, read as training data; some minutes each
    python tests/tools/attack.py checkpoints --count 500       # .pt files, in play and drawn from a pool
    python tests/tools/attack.py onnx --count 500              # .onnx files, in play
    python tests/tools/attack.py folders --count 200           # a run's folder, resumed, and its pool
    python tests/tools/attack.py kills --count 30              # runs, killed and resumed
    python tests/tools/attack.py onnx --only 17 --verbose      # one case again, with all that it prints

A case is a sound file (`--replays DIR` adds yours to the games that it records itself), broken by one mutation, and a
process of its own that uses it. How that ends:

    same, differs   a result like the sound file's or another one: what got through, to be judged by its mutation
    refused         exit code 2 and one printable line of at most 600 characters that names the file
    traceback       any other exception, also in a thread, and whatever a victim here calls unsound
    hang            no end within --seconds
    memory          a peak above the sound file's by more than twice the file's size and 64 MB
    crash           ended by a signal
    dirty           control characters, a message in several lines, or one that does not name the file
    silent          (folders) something is gone that cannot be made again
    ended           (folders) refused for one file of the pool, where training could go on without it
    stuck, other    (kills) neither resumable nor startable; another curve, pool or policy than that of a whole run
    unsaved         (kills) a signal other than -9 ended a training run without its checkpoint

Seeds decide everything but a kill's moment. Exit code 1 if anything but the first three happened.
"""

import argparse
import collections
import contextlib
import faulthandler
import hashlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")                               # this process is forked: no threads in it
sys.path[:0] = [str(Path(__file__).resolve().parents[k]) for k in (2, 1, 0)]
import numpy as np
import torch

import export_onnx
import play
import ppo_selfplay
from cleanmelee.cli import UserError, run_script
from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.game import BOTS
from cleanmelee.games import VecEnv
from cleanmelee.pool import Pool, Ratings
from cleanmelee.recording import write_slp
from cleanmelee.replays import load_replays
from cleanmelee.slp import read_replay
from cleanmelee.workers import end_with_parent
from helpers import FRAMES, metrics, pack, random_observation, tiny
from melee_common import load_checkpoint, load_policy
from mutations import ONNX, PT, RUN, SLP

GOOD = "same", "differs", "refused"
SLACK, ADDRESS_SPACE = 64 * 2 ** 20, 4 * 2 ** 30                           # bytes; the latter beyond what is mapped

# ---------------------------------------------------------------------------------------------------------------------
# A process for each case
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Nothing:
    """A command line without flags."""


@dataclass
class End:
    code: int | None                                                        # -9: by that signal; None: it hung
    said: str
    peak: int                                                               # bytes
    digest: str                                                             # of what the victim made


class Child:
    """A fork of this process that runs `act()` as a script would: run_script tells what a user is told."""

    def __init__(self, act, log: Path):
        self.log, self.began = log, time.perf_counter()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(self._run(act, parent))
        self.fd = os.pidfd_open(self.pid)

    def _run(self, act, parent: int) -> int:
        end_with_parent(parent)
        os.setsid()
        faulthandler.disable()
        output = open(self.log, "w", buffering=1, errors="surrogateescape")
        os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
        sys.stdout = sys.stderr = output
        sys.argv = ["attack"]
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL),
                                (signal.SIGHUP, signal.SIG_DFL)):
            signal.signal(number, handler)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        def main(_: Nothing) -> None:
            act()

        code = 0
        try:
            run_script(main, Nothing)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        with contextlib.suppress(ValueError, OSError):
            output.flush()
        return code

    def ended(self, seconds: float) -> bool:
        return bool(select.select([self.fd], [], [], max(0., seconds))[0])

    def end(self, seconds: float) -> End:
        """Waits so long, then ends it and all that it started."""
        hung = not self.ended(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        os.close(self.fd)
        text = self.log.read_text(errors="surrogateescape")
        digest = re.search(r"^digest: (\w+)\n", text, re.M)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        return End(None if hung else code, text.replace(digest[0], "") if digest else text, usage.ru_maxrss * 1024,
                   digest[1] if digest else "")


def report(*parts) -> None:
    """By a victim: what it made of the file, in a few bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
    print("digest:", digest.hexdigest()[:16])


def judge(end: End, sound: End, size: int, name: str) -> str:
    errors = [line for line in end.said.splitlines() if line.startswith("error: ")]
    unclean = any(not c.isprintable() and c != "\n" for c in end.said) or max(map(len, end.said.split("\n"))) > 700
    if end.code is None:
        return "hang"
    if end.peak > sound.peak + 2 * size + SLACK:
        return "memory"
    if end.code < 0:
        return "crash"
    if end.code not in (0, 2) or "Traceback" in end.said or "Exception ignored" in end.said:
        return "traceback"
    if end.code == 0:
        return "dirty" if unclean else "same" if end.digest == sound.digest else "differs"
    if not errors:
        return "traceback"
    last = end.said.rstrip("\n").rpartition("\n")[2]
    clean = not unclean and errors == [last] and len(last) <= 600 and name in last
    return "refused" if clean else "dirty"


# ---------------------------------------------------------------------------------------------------------------------
# Victims: what a user does with such a file
# ---------------------------------------------------------------------------------------------------------------------


def sound(well, what: str) -> None:
    if not well:
        raise RuntimeError(f"unsound: {what}")


def learn_from(path: Path) -> None:
    """What bc.py does with a replay."""
    replays, _ = load_replays(str(path), num_workers=0, cache_dir=False, min_frames=10, progress=False)
    data = pack(replays)
    sound(torch.isfinite(data.obs.floats).all() and torch.isfinite(data.returns).all(), "numbers that are not finite")
    game = replays[0]
    report(game.frames.tobytes(), game.controllers.tobytes(), game.meta["winner"], game.meta["end"])


def play_with(path: Path) -> None:
    """play.py, and for a checkpoint a pool that holds it."""
    record = path.parent / "recorded"
    play.main(play.Args(policy=str(path), opponent="level1", num_games=2, max_episode_frames=100, results="",
                        record=str(record)))
    if path.suffix == ".pt":
        obs, policy = random_observation(1, 4), load_policy(path)[0]
        features, state = policy.features(obs, policy.initial_state(4))
        logits = policy.logits(features, torch.zeros(4, 13, dtype=torch.long))
        sound(all(torch.isfinite(x).all() for x in (logits, *state)), "logits or a state that is not finite")
    games = [read_replay(file) for file in sorted(record.glob("*.slp"))]
    sound(len(games) == 2, f"{len(games)} of 2 games recorded")
    report(*(game.controllers.tobytes() for game in games))


def draw(path: Path) -> None:
    """A pool of a good policy and this one."""
    pool = Pool(path.parent / "pool")
    (pool.directory / "main_000000000001.pt").write_bytes((path.parent / "good.pt").read_bytes())
    (pool.directory / "main_000000000002.pt").write_bytes(path.read_bytes())
    try:
        pool = Pool(pool.directory, action_repeat=2)
        drawn = {pool.sample(np.random.default_rng(seed)) for seed in range(4)}
    except UserError as error:
        raise RuntimeError(f"unsound: the pool ended: {error}") from None
    sound(None not in drawn, "nothing drawn")


def play_and_draw(path: Path) -> None:
    draw(path)
    play_with(path)


def use_pool(run: Path) -> None:
    pool, ratings = Pool(run / "pool", 2, keep_files=True), Ratings()
    policy = load_policy(run.parent / "good.pt")[0]
    drawn = [pool.sample(np.random.default_rng(seed)) for seed in range(3)]
    pool.add(policy, "main", 9000, ratings=ratings)
    pool.prune(set(), ratings)
    report(drawn, Pool(run / "pool").ids(), pool.all_ids())


def resume(run: Path) -> None:
    ppo_selfplay.main(ppo_selfplay.Args(resume=str(run), timesteps=4 * FRAMES))
    report(outcome(run))


def outcome(run: Path) -> tuple:
    """What a run came to, clocks apart: its curve, its pool, its policy."""
    policy = load_checkpoint(run / "checkpoints/latest.pt")["policy"]
    weights = hashlib.sha256(b"".join(p.numpy().tobytes() for p in policy.values())).hexdigest()
    return metrics(run), Pool(run / "pool").all_ids(), weights


def treasure(run: Path) -> dict:
    """What must not get lost of a run: policies, and the rows of its curve."""
    found = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in run.glob("*/*.pt")
             if path.is_file() and path.name != "latest.pt"}
    found |= {"latest.pt": True} if (run / "checkpoints/latest.pt").is_file() else {}
    log = run / "metrics.jsonl"
    for line in log.read_bytes().splitlines() if log.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            row = json.loads(line)
            if row["global_step"] == FRAMES * row["iteration"] < 4 * FRAMES:
                found[f"row {row['iteration']}"] = True
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Material: games, a checkpoint, its export, a run
# ---------------------------------------------------------------------------------------------------------------------


def record_games(folder: Path, length: int = 400) -> None:
    """Four short games of bots, on stages that move and with characters that throw things."""
    names = ("fox", "samus", "peach", "zelda")
    stages = ("battlefield", "fountain_of_dreams", "dream_land", "pokemon_stadium")
    names = [name if name in CHARACTERS else "link" for name in names]
    stages = [STAGES.get(name, STAGES["final_destination"]) for name in stages]
    frames, controllers = [], []
    with VecEnv(4, [[CHARACTERS[name], CHARACTERS["falco"]] for name in names], stages, seed=2, max_episode_frames=0,
                bot_kinds=[[BOTS["level9"], BOTS["attacker"]]] * 4) as envs:
        for _ in range(length):
            frames.append(envs.frames.copy())
            controllers.append(envs.controllers.copy())
            envs.step(envs.controllers.copy())
    for k, name in enumerate(names):
        write_slp(folder / f"{k}_{name}.slp", np.array(frames)[:, k], np.array(controllers)[:, k], names=("one", "two"),
                  codes=("ONE#1", "TWO#2"), started=0)


def make_run(folder: Path) -> None:
    ppo_selfplay.main(tiny(folder, "run", 3, backbone="gru", history_size=2))
    log = folder / "run/metrics.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in metrics(folder / "run")))       # no clock moves its bytes
    shutil.copy(folder / "run/checkpoints/initial.pt", folder / "good.pt")


def make_export(folder: Path) -> None:
    make_run(folder)
    export_onnx.LATENCY_STEPS = 20
    export_onnx.main(export_onnx.Args(str(folder / "good.pt"), str(folder / "case.onnx"), steps=4))


@dataclass
class Target:
    make: object                                                            # (folder): writes what is to be broken
    pattern: str                                                            # of it
    name: str                                                               # under which a victim gets it
    victims: list
    mutations: dict
    kept: object = None                                                     # (path) -> what must not get lost
    never_refused: tuple = ()                                               # mutations that nothing may end for


POOL_FILES = tuple(kind for kind in RUN if kind.startswith(("main_", "strangers")))
TARGETS = {
    "replays": Target(record_games, "*.slp", "case.slp", [learn_from], SLP),
    "checkpoints": Target(make_run, "good.pt", "case.pt", [play_and_draw], PT),
    "onnx": Target(make_export, "case.onnx", "case.onnx", [play_with], ONNX),
    "folders": Target(make_run, "run", "run", [resume, use_pool], RUN, treasure, POOL_FILES)}


@dataclass
class Attack:
    """Cases of one target -> a table and the failures, in `counts` and `failures`."""
    what: str
    folder: Path
    seed: int = 1
    seconds: float = 30.
    replays: Path | None = None
    verbose: bool = False
    counts: dict = field(default_factory=lambda: collections.defaultdict(collections.Counter))
    failures: list = field(default_factory=list)

    def put_down(self, case: int, kind: str, detail: str, how: str, said: str) -> None:
        self.counts[kind][how] += 1
        if self.verbose:
            print(f"--- {kind}: {detail}: {how}\n{said}")
        if how not in GOOD:
            last = ascii(said.rstrip("\n").rpartition("\n")[2])[1:150]
            self.failures.append((case, kind, how))
            print(f"{how}: {self.what} --seed {self.seed} --only {case}   {kind}: {detail}   {last}", flush=True)

    def use(self, victim, path: Path) -> End:
        return Child(lambda: victim(path), self.folder / "log.txt").end(self.seconds)

    def break_files(self, cases) -> None:
        target = TARGETS[self.what]
        material, work = self.folder / "material", self.folder / "work"
        material.mkdir()
        made = Child(lambda: target.make(material), self.folder / "log.txt").end(600)
        sources = sorted(material.glob(target.pattern))
        if made.code or not sources:
            sys.exit(f"no material: {made.said}")
        sources += sorted(self.replays.rglob("*.slp")) if self.replays and self.what == "replays" else []
        unbroken, victims = {}, {victim.__name__: victim for victim in target.victims}

        def lay_out(source: Path) -> Path:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            if (material / "good.pt").exists():
                shutil.copy(material / "good.pt", work)
            return Path((shutil.copytree if source.is_dir() else shutil.copyfile)(source, work / target.name))

        for source in list(sources):
            for name, victim in victims.items():
                end = unbroken[source, name] = self.use(victim, lay_out(source))
                if end.code and source.parent == material:
                    sys.exit(f"{source.name} unbroken: {name} ended with {end.code}: {end.said}")
            if end.code:                                                    # a replay that is refused as it is
                sources.remove(source)
        names = list(target.mutations)
        for case in cases:
            rng = random.Random(f"{self.what} {self.seed} {case}")
            source, kind = rng.choice(sources), names[case % len(names)]
            name = rng.choice(list(victims)[:None if kind.startswith(("main_", "strangers", "index", "pool")) else 1])
            path = lay_out(source)
            detail = target.mutations[kind](path, rng)
            kept = target.kept(path) if target.kept else {}
            size = sum(file.stat().st_size for file in work.rglob("*") if file.is_file() and not file.is_symlink())
            end = self.use(victims[name], path)
            how = judge(end, unbroken[source, name], size, path.name)
            if how in GOOD and kept.items() - target.kept(path).items() if target.kept else False:
                how = "silent"
            if how == "refused" and kind in target.never_refused:
                how = "ended"
            self.put_down(case, kind, f"{name} {source.name}: {detail}", how, end.said)

    def kill_runs(self, cases) -> None:
        whole = {}
        for workers in (0, 2):
            args, began = self.run_args(f"whole{workers}", workers), time.perf_counter()
            end = self.use(lambda _, args=args: ppo_selfplay.main(args), self.folder)
            if end.code:
                sys.exit(f"a run that nobody killed ended with {end.code}: {end.said}")
            whole[workers] = time.perf_counter() - began, outcome(self.folder / f"whole{workers}")
        for case in cases:
            rng = random.Random(f"kills {self.seed} {case}")
            workers = rng.choice((0, 2))
            number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
            group, moment = rng.random() < .5, rng.random() * whole[workers][0]
            kind = f"{number.name}{', group' if group else ''}{f', {workers} workers' if workers else ''}"
            detail, how, said = f"after {moment:.2f} s", "same", ""
            run, args = self.folder / f"run{case}", self.run_args(f"run{case}", workers)
            child = Child(lambda: ppo_selfplay.main(args), self.folder / "log.txt")
            if not child.ended(moment):
                learning = (run / "metrics.jsonl").exists()
                (os.killpg if group else os.kill)(child.pid, number)
                end, said = (lambda e: (e, e.said))(child.end(self.seconds))
                if end.code is None:
                    how = "hang"
                elif learning and number != signal.SIGKILL and end.code not in (0, 130):
                    how = "unsaved"
                elif number != signal.SIGKILL and "Traceback" in said:
                    how = "traceback"
            else:
                child.end(0)
            for again in (ppo_selfplay.Args(resume=str(run)), args):        # a run with no folder yet is started anew
                if how == "same" and not (end := self.use(lambda _, again=again: ppo_selfplay.main(again), run)).code:
                    parts = zip(("curve", "pool", "policy"), outcome(run), whole[workers][1], strict=True)
                    differing = [part for part, mine, its in parts if mine != its]
                    how, said = "other" if differing else how, f"{said}{end.said}differ: {differing}"
                    break
                said += end.said
            else:
                how = "stuck" if how == "same" else how
            self.put_down(case, kind, detail, how, said)
            shutil.rmtree(run, ignore_errors=True)

    def run_args(self, name: str, workers: int) -> ppo_selfplay.Args:
        return tiny(self.folder, name, 30, num_workers=workers, save_interval=4, pool_interval=3,
                    history_size=3, worker_timeout=60.)

    def table(self) -> None:
        kinds = sorted({how for counts in self.counts.values() for how in counts} - set(GOOD))
        print(f"{self.what}, seed {self.seed}".ljust(32), *(f"{how:>10}" for how in (*GOOD, *kinds)))
        for name, counts in [*self.counts.items(), ("all", sum(self.counts.values(), collections.Counter()))]:
            print(f"  {name}".ljust(32), *(f"{counts[how]:10}" for how in (*GOOD, *kinds)))


def attack(what: str, cases, **options) -> Attack:
    with tempfile.TemporaryDirectory() as folder:
        made = Attack(what, Path(folder), **options)
        (made.kill_runs if what == "kills" else made.break_files)(cases)
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*TARGETS, "kills"))
    parser.add_argument("--count", type=int, default=100, help="cases")
    parser.add_argument("--seed", type=int, default=1, help="of the cases")
    parser.add_argument("--only", type=int, help="one case by its number (off: all)")
    parser.add_argument("--seconds", type=float, default=30., help="that a case may take")
    parser.add_argument("--replays", type=Path, help="folder of .slp files to break too (off: none)")
    parser.add_argument("--verbose", action="store_true", help="print what each case said (off: failures alone)")
    args = parser.parse_args()
    cases = range(args.count) if args.only is None else [args.only]
    done = attack(args.what, cases, seed=args.seed, seconds=args.seconds, replays=args.replays, verbose=args.verbose)
    done.table()
    sys.exit(bool(done.failures))
