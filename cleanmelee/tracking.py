"""Weights & Biases: the rows of metrics.jsonl and eval.jsonl, sent there too. They are in the run folder in any case,
so nothing that goes wrong here ends a run once it has begun."""

import os
import re
import secrets
from pathlib import Path

from cleanmelee.cli import UserError
from cleanmelee.terminal import printable, warn

NO_LOGIN = ("offline", "dryrun", "disabled")                                # values of WANDB_MODE
INIT_SECONDS, FINISH_SECONDS = 30, 300                                      # to be reached; to send what is left


class Tracker:
    """A run's curve at Weights & Biases; without --track it does nothing. What WANDB_* variables say counts.

        tracker = Tracker(args.track)               before anything is made: can this machine log in?
        tracker.start(run, name, flags)             after worker processes are forked, as it starts threads
        tracker.log(row, step)
        tracker.finish()"""

    def __init__(self, on: bool):
        """Raises UserError if wandb or a login is missing."""
        self.on, self.mode, self.curve = on, None, None
        if not on:
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
        """Begins the curve of the run in folder `run`, or goes on with it: wandb.txt there holds its id. A server that
        does not answer costs half a minute: the curve is then kept in the folder, for `wandb sync`."""
        if not self.on:
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
        for mode in dict.fromkeys((self.mode, "offline")):
            try:
                self.curve = wandb.init(config=flags, mode=mode, settings=wandb.Settings(**wishes))
                file.write_text(self.curve.id + "\n")
                return
            except Exception as error:
                kept = "this run goes on without" if mode == "offline" else (
                    f"the curve is kept in {run}; send it later with: wandb sync {run}/wandb/offline-run-*")
                warn(f"Weights & Biases: {error}; {kept}")
                wandb.teardown()                                            # until then the id is taken
        self.curve = None

    def log(self, row: dict, step: int | None = None) -> None:
        """step: None for a row that comes late, which a curve's steps cannot."""
        self._try(lambda: self.curve.log(row, step=step))

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
