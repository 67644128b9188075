"""Runs that go on: with what was edited, damaged or lost in their folder, on another machine, with a curve at W&B."""

import sys
from types import SimpleNamespace

import pytest

from cleanmelee.cli import UserError
from cleanmelee.tracking import Tracker
from helpers import metrics, tiny
from ppo_selfplay import Args, main

# ------------------------------------------------------------------------------------------------------------- tracking


class FakeWandb:
    """wandb as far as a Tracker uses it: remembers what it was given, and fails where it is told to."""

    def __init__(self, fails=()):
        self.fails, self.runs, self.rows = fails, [], []
        self.Settings = lambda **settings: settings
        self.teardown = lambda: None
        self.setup = lambda: SimpleNamespace(settings=SimpleNamespace(mode="online"))

    def _may_fail(self, what):
        if what in self.fails:
            raise OSError(f"no {what}\nfor long reasons")

    def login(self, verify):
        self._may_fail("login")

    def init(self, config, mode, settings):
        self._may_fail(f"init {mode}")
        self.runs.append({"mode": mode, **settings})
        return SimpleNamespace(id=settings.get("run_id", "theirs"), log=self.log, finish=lambda: None)

    def log(self, row, step):
        self._may_fail("log")
        self.rows.append((row, step))


@pytest.fixture
def wandb(monkeypatch):
    """Puts a FakeWandb in place of the package, in an environment without W&B's variables."""
    for name in ("MODE", "PROJECT", "NAME", "RUN_ID", "RESUME", "DIR", "INIT_TIMEOUT", "FINISH_TIMEOUT"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)

    def install(**options):
        fake = FakeWandb(**options)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake
    return install


def test_a_run_has_an_id_of_its_own_that_resuming_keeps(tmp_path, wandb):
    fake = wandb()
    for name in ("a:b", "a", "a"):
        folder = tmp_path / str(len(fake.runs))
        folder.mkdir()
        Tracker(True).start(folder, name, {})
    Tracker(True).start(folder, "a", {})
    ids = [run["run_id"] for run in fake.runs]
    assert len(set(ids[:3])) == 3 and ids[3] == ids[2] == (folder / "wandb.txt").read_text().strip()
    assert all(name.isalnum() for name in ids) and fake.runs[0]["run_name"] == "a:b"


def test_wandbs_environment_counts(tmp_path, wandb, monkeypatch):
    fake = wandb()
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    Tracker(True).start(tmp_path, "a", {})
    assert not {"project", "run_id"} & fake.runs[0].keys() and fake.runs[0]["resume"] == "allow"
    assert (tmp_path / "wandb.txt").read_text() == "theirs\n"


def test_a_login_that_is_missing_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "short")                            # wandb itself refuses this one, offline
    with pytest.raises(UserError, match="^--track: .*WANDB_API_KEY.*WANDB_MODE=offline"):
        main(tiny(tmp_path, "run", 1, track=True))
    assert not list(tmp_path.iterdir())


def test_a_missing_wandb_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="--track: .*pip install wandb"):
        Tracker(True)
    Tracker(False)


def test_a_server_that_does_not_answer_costs_no_row(tmp_path, wandb, capsys):
    fake = wandb(fails=["init online"])
    tracker = Tracker(True)
    tracker.start(tmp_path, "a", {})
    tracker.log({"x": 1}, 5)
    assert [run["mode"] for run in fake.runs] == ["offline"] and fake.rows == [({"x": 1}, 5)]
    assert capsys.readouterr().err.splitlines()[-1].startswith("warning: Weights & Biases: no init online\\nfor")


def test_a_failure_of_wandb_does_not_end_a_run(tmp_path, wandb, capsys):
    wandb(fails=["log"])
    main(tiny(tmp_path, "run", 3, track=True))
    assert len(metrics(tmp_path / "run")) == 3
    assert capsys.readouterr().err.count("warning: Weights & Biases: no log") == 1
    wandb(fails=["init online", "init offline"])
    main(Args(resume=str(tmp_path / "run"), timesteps=5 * 128))
    assert len(metrics(tmp_path / "run")) == 5
