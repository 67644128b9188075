"""Weights & Biases: the rows of metrics.jsonl and eval.jsonl, pictures, games and checkpoints, sent there too. All of
it is in the run folder in any case, so nothing that goes wrong here ends a run once it has begun."""

import io
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from cleanmelee.cli import UserError, as_flag
from cleanmelee.files import read_jsonl
from cleanmelee.pictures import payoff_matrix, png, press_rates, winrates
from cleanmelee.terminal import printable, warn

NO_LOGIN = ("offline", "dryrun", "disabled")                                # values of WANDB_MODE
INIT_SECONDS, FINISH_SECONDS = 30, 300                                      # to be reached; to send what is left
NAMES = {"wandb_project": r"[^/\\#?%:]{1,128}", "wandb_entity": r"[\w-]{1,64}", "wandb_group": r".{1,128}",
         "wandb_tags": r"[^,]{1,64}(,[^,]{1,64})*"}                         # what W&B takes


@dataclass
class WandbArgs:
    """The flags of Weights & Biases."""
    track: bool = False
    """log to Weights & Biases too; WANDB_MODE=offline works without an account (off: False)"""
    wandb_project: str = ""
    """--track: the project (off: empty, WANDB_PROJECT, or else cleanmelee)"""
    wandb_entity: str = ""
    """--track: whose project, a user or a team (off: empty, WANDB_ENTITY, or else your own)"""
    wandb_group: str = ""
    """--track: the group of runs that this one belongs to, such as the seeds of an experiment (off: empty,
    WANDB_RUN_GROUP or none)"""
    wandb_tags: str = ""
    """--track: tags, separated by commas (off: empty, WANDB_TAGS or none)"""


class Tracker:
    """A run at Weights & Biases; without --track it does nothing. A flag counts before its WANDB_* variable.

        tracker = Tracker(args.wandb)               before anything is made: can this machine log in?
        tracker.start(run, name, flags)             after worker processes are forked, as it starts threads
        tracker.log(row, step)                      in whatever order: step is the axis of every curve
        tracker.show("name", figure, step)
        tracker.keep(file, "model", step)
        tracker.finish()"""

    def __init__(self, args: WandbArgs):
        """Raises UserError for a name that W&B refuses, and if wandb or a login is missing."""
        self.args, self.mode, self.curve = args, None, None
        for name, pattern in NAMES.items():
            value = getattr(args, name)
            if value and not args.track:
                raise UserError(f"{as_flag(name)} {printable(value, 60)}: without --track nothing is sent; add --track")
            if value and not re.fullmatch(pattern, value):
                raise UserError(f"{as_flag(name)} {printable(value, 60)}: not a name that Weights & Biases takes; "
                                "choose a shorter one of letters, digits and -")
        if not args.track:
            return
        try:
            import wandb
        except Exception as error:                                          # not installed, or not in working order
            raise UserError(f"--track: wandb cannot be used ({error}); pip install wandb, or leave --track out"
                            ) from None
        if os.environ.get("WANDB_MODE") in NO_LOGIN:
            return
        try:
            wandb.login(verify=False)                                       # asks for a key where there is a terminal
            self.mode = wandb.setup().settings.mode                         # which may have been the answer: offline
            wandb.teardown()                                                # its threads end: processes are forked next
        except Exception as error:
            raise UserError(f"--track: {printable(error)}; or leave it out, or set WANDB_MODE=offline, which needs no "
                            "account") from None

    def start(self, run: Path, name: str, flags: dict) -> None:
        """Begins the curves of the run in folder `run`, or goes on with them: wandb.txt there holds its id. A server
        that does not answer costs half a minute: they are then kept in the folder, for `wandb sync`."""
        if not self.args.track:
            return
        import wandb
        file = run / "wandb.txt"
        known = file.read_text(errors="replace").strip() if file.is_file() else ""
        run_id = known if re.fullmatch(r"[\w-]{1,64}", known) else secrets.token_hex(6)
        wishes = {                                                          # of those that are not in the environment
            "WANDB_PROJECT": ("project", "cleanmelee"), "WANDB_NAME": ("run_name", name),
            "WANDB_RUN_ID": ("run_id", run_id), "WANDB_RESUME": ("resume", "allow"),
            "WANDB_DIR": ("root_dir", str(run)), "WANDB_INIT_TIMEOUT": ("init_timeout", INIT_SECONDS),
            "WANDB_FINISH_TIMEOUT": ("finish_timeout", FINISH_SECONDS)}
        wishes = dict(wish for variable, wish in wishes.items() if not os.environ.get(variable))
        given = {"project": self.args.wandb_project, "entity": self.args.wandb_entity,
                 "run_group": self.args.wandb_group,
                 "run_tags": tuple(tag.strip() for tag in self.args.wandb_tags.split(",") if tag.strip())}
        wishes |= {setting: value for setting, value in given.items() if value}
        for mode in dict.fromkeys((self.mode, "offline")):
            try:
                self.curve = wandb.init(config=flags, mode=mode, settings=wandb.Settings(**wishes))
                self.curve.define_metric("*", step_metric="global_step")    # evaluations come late, out of order
                file.write_text(self.curve.id + "\n")
                return
            except Exception as error:
                kept = "this run goes on without" if mode == "offline" else (
                    f"the curve is kept in {run}; send it later with: wandb sync {run}/wandb/offline-run-*")
                warn(f"Weights & Biases: {error}; {kept}")
                wandb.teardown()                                            # until then the id is taken
        self.curve = None

    def log(self, row: dict, step: int) -> None:
        self._try(lambda: self.curve.log(row | {"global_step": step}))

    def show(self, name: str, picture, step: int) -> None:
        """picture: a matplotlib figure, or None: nothing."""
        def send():
            import PIL.Image
            import wandb
            image = wandb.Image(PIL.Image.open(io.BytesIO(png(picture))))
            self.curve.log({f"pictures/{name}": image, "global_step": step})
        if picture is not None:
            self._try(send)

    def keep(self, file: Path, kind: str, step: int) -> None:
        """A file as an artifact of the run, `kind` model or game, whose versions are what was kept before; nothing if
        it is not there."""
        def send():
            import wandb
            artifact = wandb.Artifact(f"{self.curve.id}-{kind}", type=kind, metadata={"global_step": step})
            artifact.add_file(str(file), name=kind + file.suffix)
            self.curve.log_artifact(artifact)
        if file.is_file():
            self._try(send)

    def log_evaluation(self, run: Path, row: dict, learners: list[str], payoff: dict[str, dict[str, list]]) -> None:
        """A row of eval.jsonl at its own step, win rates and payoff as pictures, the game that was recorded, and the
        policy if it is the best. payoff: as in Ratings."""
        if self.curve is None:
            return
        step = row["global_step"]
        self.log(row, step)
        rows = [row for _, row in read_jsonl(run / "eval.jsonl")]
        self.show("winrates", winrates(rows, run.name), step)
        self.show("press_rates", press_rates(rows, "global_step", run.name), step)
        opponents = sorted({name for learner in learners for name in payoff.get(learner, {})})
        if opponents:
            self.show("payoff", payoff_matrix(learners, opponents, payoff, "score of training games, percent"), step)
        self.keep(run / "games" / f"step_{step:012d}.slp", "game", step)
        if row.get("eval/is_best"):
            self.keep(run / "checkpoints" / f"eval_{step:012d}.pt", "model", step)

    def log_best(self, run: Path, file: Path, step: int) -> None:
        """At the end of a run that learnt from games: press rates over its updates, and its best policy."""
        if self.curve is not None:
            rows = [row for _, row in read_jsonl(run / "metrics.jsonl", "step")]
            self.show("press_rates", press_rates(rows, "step", run.name), step)
            self.keep(file, "model", step)

    def finish(self) -> None:
        """Waits, not for ever, until everything is sent."""
        self._try(lambda: self.curve.finish())
        self.curve = None

    def _try(self, action) -> None:
        if self.curve is None:
            return
        try:
            action()
        except Exception as error:
            self.curve = None
            warn(f"Weights & Biases: {error}; the rest of this run is in its folder alone")
