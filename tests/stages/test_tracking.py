"""Weights & Biases: names, logins, and that nothing of it ends a run. What is sent is read back where the stages are
run, in test_command_line of each."""

import sys
from types import SimpleNamespace

import pytest

from cleanmelee.cli import UserError
from cleanmelee.tracking import Tracker, WandbArgs
from helpers import metrics, tiny
from ppo_selfplay import Args, main


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
        return SimpleNamespace(id=settings.get("run_id", "theirs"), log=self.log, finish=lambda: None,
                               define_metric=lambda *_, **__: None)

    def log(self, row):
        self._may_fail("log")
        self.rows.append(row)


@pytest.fixture
def wandb(monkeypatch):
    """Puts a FakeWandb in place of the package, in an environment without W&B's variables."""
    for name in ("MODE", "PROJECT", "NAME", "RUN_ID", "RESUME", "DIR", "ENTITY", "RUN_GROUP", "TAGS", "INIT_TIMEOUT",
                 "FINISH_TIMEOUT"):
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
        Tracker(WandbArgs(track=True)).start(folder, name, {})
    Tracker(WandbArgs(track=True)).start(folder, "a", {})
    ids = [run["run_id"] for run in fake.runs]
    assert len(set(ids[:3])) == 3 and ids[3] == ids[2] == (folder / "wandb.txt").read_text().strip()
    assert all(name.isalnum() for name in ids) and fake.runs[0]["run_name"] == "a:b"


def test_wandbs_environment_counts(tmp_path, wandb, monkeypatch):
    fake = wandb()
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    Tracker(WandbArgs(track=True)).start(tmp_path, "a", {})
    assert not {"project", "run_id"} & fake.runs[0].keys() and fake.runs[0]["resume"] == "allow"
    assert (tmp_path / "wandb.txt").read_text() == "theirs\n"
    Tracker(WandbArgs(track=True, wandb_project="flag", wandb_tags="a,b")).start(tmp_path, "a", {})
    assert fake.runs[1]["project"] == "flag" and fake.runs[1]["run_tags"] == ("a", "b")


@pytest.mark.parametrize("flags, said", [
    ({"wandb_group": "g"}, "--wandb-group g: without --track nothing is sent; add --track"),
    ({"wandb_tags": "a"}, "--wandb-tags a: without --track"),
    ({"track": True, "wandb_project": "a/b"}, "--wandb-project a/b: not a name that"),
    ({"track": True, "wandb_entity": "x y"}, "--wandb-entity x y: not a name"),
    ({"track": True, "wandb_tags": "a,,b"}, "--wandb-tags a,,b: not a name")])
def test_a_name_that_cannot_be_is_told_before_anything_is_made(tmp_path, flags, said):
    with pytest.raises(UserError, match=said):
        main(tiny(tmp_path, "run", 1, **flags))
    assert not list(tmp_path.iterdir())


def test_a_login_that_is_missing_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "short")                            # wandb itself refuses this one, offline
    with pytest.raises(UserError, match="^--track: .*WANDB_API_KEY.*WANDB_MODE=offline"):
        main(tiny(tmp_path, "run", 1, track=True))
    assert not list(tmp_path.iterdir())


def test_a_missing_wandb_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="--track: .*pip install wandb"):
        Tracker(WandbArgs(track=True))
    Tracker(WandbArgs())


def test_a_server_that_does_not_answer_costs_no_row(tmp_path, wandb, capsys):
    fake = wandb(fails=["init online"])
    tracker = Tracker(WandbArgs(track=True))
    tracker.start(tmp_path, "a", {})
    tracker.log({"x": 1}, 5)
    assert [run["mode"] for run in fake.runs] == ["offline"] and fake.rows == [{"x": 1, "global_step": 5}]
    assert capsys.readouterr().err.splitlines()[-1].startswith("warning: Weights & Biases: no init online\\nfor")


def test_a_failure_of_wandb_does_not_end_a_run(tmp_path, wandb, capsys):
    wandb(fails=["log"])
    main(tiny(tmp_path, "run", 3, track=True))
    assert len(metrics(tmp_path / "run")) == 3
    assert capsys.readouterr().err.count("warning: Weights & Biases: no log") == 1
    wandb(fails=["init online", "init offline"])
    main(Args(resume=str(tmp_path / "run"), timesteps=5 * 128))
    assert len(metrics(tmp_path / "run")) == 5
