"""Going on with a run as if it had never stopped: its flags, its checkpoint, its logs. What was edited, damaged or
mixed up is told before anything on disk is changed."""

import json
from pathlib import Path

from cleanmelee.cli import UserError, as_flag, from_flags, named, to_flags
from cleanmelee.distributed import all_gather, rank, world_size
from cleanmelee.files import atomic_write, keep_jsonl, read_json, read_jsonl
from cleanmelee.pool import Pool
from cleanmelee.runs import check_begun, lock_run
from cleanmelee.terminal import warn
from melee_common import load_checkpoint, machine

GAMES, OWN = ("envs", "selfplay"), ("rng", "teacher_state")     # what every rank has of its own: parts, of a learner
WHERE = {"resume", "timesteps", "checkpoint", "run_name", "runs_dir", "opponent", "held_out"}   # flags of no learning


def resumed_args(run: Path, given, may_change: set[str]):
    """The Args that a run goes on with: those of its args.json, but for the flags in `may_change`, of which one that
    was `given` counts, by its value or by the command line. Others may not be given."""
    file = run / "args.json"
    if not file.exists():
        raise UserError(f"{run}: not a run folder (no args.json in it); give the folder of a run, e.g. runs/NAME")
    defaults = to_flags(type(given)())
    changed = {name: value for name, value in to_flags(given).items() if value != defaults[name] or name in named}
    if changed.keys() - may_change:
        raise UserError(f"--resume goes on with the run's own arguments; only "
                        f"{', '.join(map(as_flag, sorted(may_change - {'resume'})))} may change, not "
                        f"{', '.join(map(as_flag, sorted(changed.keys() - may_change)))}")
    flags = read_json(file)
    if not isinstance(flags, dict):
        raise UserError(f"{file}: damaged (no flags in it); restore it")
    for verb, names, whose in (("has", flags.keys() - defaults.keys(), "does not know"),
                               ("lacks", defaults.keys() - flags.keys(), "needs")):
        if names:
            raise UserError(f"{file}: {verb} {', '.join(map(as_flag, sorted(names)))}, which this script {whose}; go "
                            "on with the script that began the run, of which a copy lies beside that file")
    try:
        return from_flags(type(given), flags | {name: changed[name] for name in changed if name != "resume"})
    except UserError as error:
        raise UserError(f"{file}: {error}; restore it") from None


def resume_run(given, may_change: set[str], stage: str) -> tuple[Path, object, object, dict]:
    """--resume of a `stage` that saves checkpoints/last.pt with a "state" -> run folder, the arguments it was started
    with, its lock (hold on to it) and its checkpoint."""
    run = Path(given.resume)
    args = resumed_args(run, given, may_change)
    lock = lock_run(run) if rank() == 0 else None
    check_begun(run)
    saved = load_checkpoint(run / "checkpoints" / "last.pt")
    if saved.get("stage") != stage or "state" not in saved:
        raise UserError(f"{run}: its checkpoint is not of this run; restore it, or start a new run")
    warn_of_changes(run, saved, to_flags(args))
    return run, args, lock, saved


def load_latest(run: Path, path: str | Path, flags: dict, *, stage: str, action_repeat: int, frames: int,
                save_interval: int) -> dict:
    """The checkpoint at `path`, which must be this run's last one. frames: game frames in an iteration."""
    check_begun(run)
    saved = load_checkpoint(path)
    iteration, step = saved.get("iteration"), saved.get("step")
    others = saved.get("ranks", {})                                         # an older one has none
    if saved.get("stage") != stage or saved["config"]["action_repeat"] != action_repeat or not (
            type(others) is dict and type(iteration) is type(step) is int and step == iteration * frames):
        raise UserError(f"{run}: its checkpoint is not of this run; use --pretrained to start a run from a checkpoint")
    if len(others) + 1 != world_size():
        raise UserError(f"{run}: its games are those of {len(others) + 1} ranks, not of {world_size()}; resume it with "
                        f"{f'torchrun --nproc-per-node {len(others) + 1}' if others else 'python'}")
    check_latest(run, path, saved, save_interval * frames)
    warn_of_changes(run, saved, flags)
    return saved


def check_latest(run: Path, path: str | Path, saved: dict, ahead: int) -> None:
    """A resumed run makes again what lies after its checkpoint, which is what a kill leaves: at most `ahead` game
    frames. If there is more, the checkpoint is an old one, and going on from it would cost what training has made."""
    agents = {name.removeprefix("learner_") for name in saved if isinstance(name, str) and name.startswith("learner_")}
    log = run / "metrics.jsonl"
    newest = {log: max((row["global_step"] for _, row in read_jsonl(log)), default=0)}
    newest |= {file: Pool.step(file.stem) for file in (run / "pool").glob("*.pt")
               if Pool.agent(file.stem) in agents and file.stem.rpartition("_")[2].isdecimal() and file.is_file()}
    for file, step in newest.items():
        if step > saved["step"] + ahead:
            raise UserError(f"{path}: is of step {saved['step']:,}, but {file} of {step:,}, so it is not this run's "
                            "last checkpoint; put that back, or move what is newer elsewhere to go on from here")


def warn_of_changes(run: Path, saved: dict, flags: dict) -> None:
    """What lets a curve go on otherwise than it would have: another machine, other flags."""
    then, now = saved["versions"], machine()
    names = ("torch threads", "instructions", "torch", "numpy", "numba", "melee", "git")
    changed = [f"{name} {then[name]}, now {now[name]}" for name in names
               if repr(then.get(name, now[name])) != repr(now[name])]
    then = saved.get("args", {})
    changed += [f"{as_flag(name)} {then[name]}, now {value}" for name, value in flags.items()
                if name not in WHERE and repr(then.get(name, value)) != repr(value)]
    if changed and rank() == 0:
        warn(f"{run}: its checkpoint was made with {'; '.join(changed)}; the learning curve will not be that of a run "
             "that never stopped (OMP_NUM_THREADS sets the threads, of self-play --num-threads)")


def states_of_all_ranks(parts: dict) -> dict:
    """What a checkpoint holds of a run's parts: by name the state of each, and in `ranks` what ranks "1", "2" ... have
    of their own. Rank 0 needs it, but all must ask."""
    states = {name: part.state_dict() for name, part in parts.items()}
    own = {name: states[name] if name in GAMES else {key: states[name][key] for key in OWN}
           for name in states if name in GAMES or name.startswith("learner_")}
    return states | {"ranks": {str(k): theirs for k, theirs in enumerate(all_gather(own)) if k}}


def restore(run: Path, saved: dict, parts: dict, flags: dict) -> tuple[int, int]:
    """Every part (by its name in the checkpoint `saved`; it has load_state_dict, which raises whatever there is to
    raise if something is not as it would save it) is again as it was -> iteration and step. What the logs say of later
    steps is forgotten; `flags` are what the run goes on with. Nothing on disk is changed before all is loaded."""
    iteration, step = saved["iteration"], saved["step"]
    try:
        own = saved["ranks"][str(rank())] if rank() else {}
        for name, part in parts.items():
            part.load_state_dict(saved[name] | own.get(name, {}))
    except Exception as error:
        parts["envs"].close()
        raise UserError(f"{run}: its checkpoint cannot be resumed ({type(error).__name__}: {error}); restore it, or "
                        "start a run from its weights with --pretrained") from None
    all_gather()                                                            # all have read what is there
    if rank():
        return iteration, step
    for log in ("metrics.jsonl", "eval.jsonl", "pbt.jsonl"):
        keep_jsonl(run / log, step)
    atomic_write(run / "args.json", (json.dumps(flags, indent=1) + "\n").encode())
    return iteration, step
