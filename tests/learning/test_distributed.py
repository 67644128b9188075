"""Several ranks learn what one would: each test fails if its promise is broken. Ranks are processes here too."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import bc
import ppo_selfplay
from cleanmelee import distributed
from cleanmelee.cli import UserError, run_script
from cleanmelee.distributed import all_gather, all_reduce_gradients, broadcast, rank, rank_seed, world_size
from cleanmelee.population import make_learners
from helpers import (
    FRAMES, ROOT, as_flags, metrics, random_actions, random_observation, tiny, write_games,
)
from melee_common import Policy, evaluate_actions, load_checkpoint
from ppo_selfplay import Args

RANKS = 2
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["ppo_selfplay", "bc"])                # imported once, for all ranks


def in_ranks(folder: Path, job, *options, until=None) -> list[tuple[int, str]]:
    """job(*options) as each of two ranks -> the exit code of each, and what it printed. until(ranks): called while they
    run."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = [folder / f"rank_{number}.txt" for number in range(RANKS)]
    ranks = [processes.Process(target=as_rank, args=(number, port, output, job, options))
             for number, output in enumerate(outputs)]
    for process in ranks:
        process.start()
    try:
        if until:
            until(ranks)
        for process in ranks:
            process.join(100)
        return [(process.exitcode, output.read_text()) for process, output in zip(ranks, outputs, strict=True)]
    finally:
        for process in ranks:
            process.kill()


def as_rank(number: int, port: int, output: Path, job, options: tuple) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    job(*options)


def selfplay_run(flags: list[str], after_updates: int = 0, what: int = 0, patience: float = 0.) -> None:
    """A run from the command line. what: a signal that rank 1 sends itself as it begins update `after_updates`."""
    update, done = ppo_selfplay.update, []

    def interrupted(*args):
        done.append(1)
        if rank() == 1 and len(done) == after_updates:
            os.kill(os.getpid(), what)
        return update(*args)

    ppo_selfplay.update = interrupted
    if patience:
        distributed.PATIENCE = distributed.datetime.timedelta(seconds=patience)
    sys.argv = ["ppo_selfplay.py", *flags]
    run_script(distributed.distributed(ppo_selfplay.main), Args)


# ------------------------------------------------------------------------------------------------------------ an update

T, B = 6, 8
UPDATES = {
    "rows": {"ppo_epochs": 3, "target_entropy": "6:5"},
    "in parts": {"ppo_epochs": 2, "grad_accum": 3, "teacher_kl": .5},
    "memory": {"backbone": "gru", "ppo_epochs": 3, "grad_accum": 2},
    "burn-in": {"ppo_epochs": 2, "value_burn_in": 3},
    "taken back": {"ppo_epochs": 6, "target_kl": .02, "learning_rate": 3e-4},
    "one has no rows": {"ppo_epochs": 2, "alone": True},
    "small": {"ppo_epochs": 2, "batch_size": 8},
}


def updated(name: str, mine: slice) -> tuple[dict, dict]:
    """A learner after an update on the columns `mine` of made-up rollouts -> its weights, and metrics."""
    options = {"batch_size": T * B, "learning_rate": 3e-3, "backbone": "mlp", "grad_accum": 1, **UPDATES[name]}
    alone = options.pop("alone", False)
    args = Args(entropy_coef=.01, teacher_kl_half_life=1e18, timesteps=1000, rollout_length=T, action_repeat=1,
                **{"teacher_kl": 0., "value_burn_in": 0, **options})
    torch.manual_seed(1)
    policy, teacher = Policy(args.backbone, (16,)), Policy(args.backbone, (16,))
    hyper = {"learning_rate": args.learning_rate, "entropy_coef": args.entropy_coef, "ppo_clip": args.ppo_clip}
    learner, = make_learners(policy, hyper, seed=rank_seed(1))
    rng, obs = np.random.default_rng(2), random_observation(3, T, B)
    actions = torch.from_numpy(random_actions(rng, T, B))
    starts, learns = (torch.from_numpy(rng.random((T, B)) < share) for share in (.1, .7))
    if alone:
        learns[:, B // 2:] = False
    state = tuple(torch.randn_like(x) for x in policy.initial_state(B))
    with torch.no_grad():
        values, logprobs = evaluate_actions(policy, obs, state, starts, actions)[:2]
        logits = teacher.logits(teacher.unroll(obs, state, starts)[0], actions)
    advantages, returns = (torch.from_numpy(rng.normal(size=(T, B)).astype(np.float32)) for _ in range(2))
    batch = {"floats": obs.floats, "ints": obs.ints, "actions": actions, "starts": starts, "learns": learns,
             "logprobs": logprobs, "values": values, "advantages": advantages, "returns": returns, "teacher": logits,
             **{f"state_{k}": s[None] for k, s in enumerate(state)}}
    row = ppo_selfplay.update(learner, [{key: x[:, mine] for key, x in batch.items()}], args, 0)
    return {key: x.clone() for key, x in learner.policy.state_dict().items()}, row


def half_updates(folder: Path) -> None:
    @distributed.distributed
    def main(args):
        half = slice(rank() * B // 2, (rank() + 1) * B // 2)
        torch.save({name: updated(name, half) for name in UPDATES}, folder / f"{rank()}.pt")

    main(Args())


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    assert in_ranks(folder, half_updates, folder) == [(0, "")] * RANKS
    return [torch.load(folder / f"{number}.pt") for number in range(RANKS)]


@pytest.mark.parametrize("name", UPDATES)
def test_two_halves_are_learnt_like_the_whole(halves, name):
    (weights, row), (others, others_row) = (half[name] for half in halves)
    assert row == others_row and all(torch.equal(weights[key], others[key]) for key in weights)
    if name == "small":                                                     # which rows meet in a minibatch is chance
        assert row["losses/minibatches"] == 2 * -(-row["charts/agent_frames"] // 8)
        return
    whole, whole_row = updated(name, slice(None))
    for key, x in whole.items():
        assert torch.allclose(x, weights[key], atol=2e-6), key
    assert row.keys() == whole_row.keys()
    for key, x in whole_row.items():
        assert row[key] == pytest.approx(x, rel=1e-4, abs=2e-6), key


def test_updates_move_what_they_should(halves):
    """Else the comparison above would say nothing."""
    for name in UPDATES:
        torch.manual_seed(1)
        before = Policy(UPDATES[name].get("backbone", "mlp"), (16,)).state_dict()
        moved = {key.split(".")[0] for key, x in halves[0][name][0].items() if not torch.equal(x, before[key])}
        assert moved == ({"value_head"} if name == "burn-in" else set(key.split(".")[0] for key in before)), name
    row = halves[0]["taken back"][1]
    assert row["losses/reverted"] == 1 and 1 < row["losses/minibatches"] < 6


# ---------------------------------------------------------------------------------------------------------------- a run

def flags_of(tmp_path: Path, name: str, iterations: int, **options) -> list[str]:
    return as_flags(tiny(tmp_path, name, iterations, history_prob=.9, opponent_bots="level1", save_interval=2,
                         **options))


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path):
    """Killed in its fourth update, asked to end in its next but one, and resumed; the games of both ranks are in the
    checkpoint, and both know the same results."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert [code for code, _ in in_ranks(tmp_path, selfplay_run, flags_of(tmp_path, "whole", 7))] == [0, 0]
    assert not (tmp_path / "rank_1.txt").read_text()                        # rank 0 speaks for all

    (code, said), (other, _) = in_ranks(tmp_path, selfplay_run, flags_of(tmp_path, "run", 7), 4, signal.SIGKILL)
    assert (code, other) == (2, -signal.SIGKILL)
    assert said.splitlines()[-1].startswith("error: a process of this run has ended; go on from")
    assert "Traceback" not in said and load_checkpoint(run / "checkpoints" / "latest.pt")["iteration"] == 2
    with pytest.raises(UserError, match=r"those of 2 ranks, not of 1; resume it with torchrun --nproc-per-node 2"):
        ppo_selfplay.main(Args(resume=str(run)))

    ended = in_ranks(tmp_path, selfplay_run, [f"--resume={run}"], 3, signal.SIGTERM)
    assert [code for code, _ in ended] == [130, 130]
    assert f"continue with: torchrun --nproc-per-node 2 ppo_selfplay.py --resume {run}" in ended[0][1]
    saved = load_checkpoint(run / "checkpoints" / "latest.pt")
    assert saved["iteration"] == 6                                          # rank 1 was asked, and all heard it
    assert saved["ranks"].keys() == {"1"} and saved["ranks"]["1"]["envs"].keys() == saved["envs"].keys()
    assert not torch.equal(saved["ranks"]["1"]["envs"]["seed"], saved["envs"]["seed"])

    assert [code for code, _ in in_ranks(tmp_path, selfplay_run, [f"--resume={run}"])] == [0, 0]
    rows = metrics(whole)
    assert rows == metrics(run) and [row["iteration"] for row in rows] == list(range(1, 8))
    assert sum(row["charts/games_finished"] for row in rows) > 4
    a, b = (load_checkpoint(folder / "checkpoints" / "latest.pt") for folder in (whole, run))
    assert sum(a["ratings"]["table"]["main"][1:]) == sum(row["selfplay/history_games"] for row in rows) > 9
    assert a["ratings"] == b["ratings"] and sorted(os.listdir(whole / "pool")) == sorted(os.listdir(run / "pool"))


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run(tmp_path):
    def until(ranks):
        ranks[0].join(60)

    (code, said), _ = in_ranks(tmp_path, selfplay_run, flags_of(tmp_path, "run", 9), 2, signal.SIGSTOP, 3., until=until)
    assert code == 2 and "error: a process of this run has not answered for 0.05 minutes" in said.splitlines()[-1]


def differently(flags: list[str]) -> None:
    selfplay_run([*flags, f"--seed={os.environ['RANK']}"])


def test_ranks_with_different_flags_are_refused(tmp_path):
    said = in_ranks(tmp_path, differently, flags_of(tmp_path, "run", 3)[:-2])
    assert said == [(2, "error: --seed: rank 0 was started with 0, rank 1 with 1; give all ranks the same\n"), (2, "")]
    assert not (tmp_path / "run").exists()


def test_a_mistake_is_told_once(tmp_path):
    said = in_ranks(tmp_path, selfplay_run, flags_of(tmp_path, "run", 3, eval_games=3))
    assert said == [(2, "error: --eval-games 3: must be even: half are played from either port\n"), (2, "")]


def one_fails(folder: Path) -> None:
    def main(args):
        if rank() == 1:
            raise UserError("the disk of rank 1 is full; make room")
        broadcast(1)

    sys.argv = ["a"]
    run_script(distributed.distributed(main), Args)


def test_a_mistake_of_another_rank_is_told_by_the_first(tmp_path):
    one_fails.__module__ = __name__
    assert in_ranks(tmp_path, one_fails, tmp_path) == [(2, "error: the disk of rank 1 is full; make room\n"), (2, "")]


@pytest.mark.parametrize("flags, said", [
    ({"population_size": 2}, "--population-size 2: not with several ranks"),
    ({"train_order": "round-robin"}, "--train-order round-robin: not"),
    ({"async_learning": True}, "--async-learning: not"), ({"parallel_training": True}, "--parallel-training: not"),
    ({"num_workers": 2}, "--num-workers 2: not"), ({"num_games": 3}, "--num-games 3: must be a multiple of .* (2)")])
def test_what_several_ranks_do_not_do_is_refused(tmp_path, monkeypatch, flags, said):
    args = tiny(tmp_path, "run", 3, **flags)
    ppo_selfplay.fill_in(args, Policy("mlp", (16, 16), action_repeat=2))
    ppo_selfplay.check(args)
    monkeypatch.setattr(ppo_selfplay, "world_size", lambda: 2)
    with pytest.raises(UserError, match=said.replace("(", r"\(").replace(")", r"\)")):
        ppo_selfplay.check(args)


def test_one_rank_is_as_if_there_were_none():
    value, stats = object(), torch.ones(3)
    assert (rank(), world_size(), rank_seed(7)) == (0, 1, 7)
    assert broadcast(value) is value and all_gather(value)[0] is value and all_reduce_gradients([], stats) is stats
    assert distributed.distributed(lambda args: args)(value) is value


def test_torchrun_ends_in_good_order(tmp_path):
    """The real launcher: it passes SIGTERM on to its processes, which end with a checkpoint."""
    flags = flags_of(tmp_path, "run", 10 ** 6)
    with open(tmp_path / "said", "w") as output:
        torchrun = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
             "ppo_selfplay.py", *flags], cwd=ROOT, stdout=output, stderr=output)
        try:
            log, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 200
            while torchrun.poll() is None and not (log.exists() and len(log.read_bytes().splitlines()) > 3):
                assert time.monotonic() < deadline, (tmp_path / "said").read_text()
                time.sleep(.1)
            torchrun.terminate()
            torchrun.wait(60)
        finally:
            torchrun.kill()
    said = (tmp_path / "said").read_text()
    assert "--resume" in said and "stopped at step" in said, said
    saved = load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")
    assert len(saved["ranks"]) == 1 and saved["step"] == FRAMES * saved["iteration"]
    assert json.loads(log.read_text().splitlines()[-1])["iteration"] == saved["iteration"] > 3
    assert (tmp_path / "run" / "command.txt").read_text().startswith("torchrun --nproc-per-node 2 ppo_selfplay.py")


# -------------------------------------------------------------------------------------------------------------- cloning

def cloning_run(flags: list[str], last_update: int = 0) -> None:
    """last_update: that in which rank 1 asks for the end."""
    update, done = bc.all_reduce_gradients, []

    def interrupted(*args):
        done.append(1)
        if rank() == 1 and len(done) == last_update:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(*args)

    bc.all_reduce_gradients = interrupted
    sys.argv = ["bc.py", *flags]
    run_script(distributed.distributed(bc.main), bc.Args)


def cloned(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: pytest.approx(value, rel=2e-3, abs=2e-4) for key, value in row.items()
             if "time/" not in key and key != "charts/frames_per_second"} for row in rows]


def values(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "time/" not in key and key != "charts/frames_per_second"}
            for row in rows]


@pytest.fixture(scope="module")
def replays(tmp_path_factory):
    return write_games(tmp_path_factory.mktemp("replays") / "games", 5)


@pytest.mark.parametrize("options", [
    pytest.param({"window_size": 44, "batch_size": 7, "ema_decay": .9, "grad_accum": 2}, id="windows"),
    pytest.param({"truncate_bptt": 30, "batch_size": 5}, id="whole games", marks=pytest.mark.slow)])
def test_two_ranks_clone_like_one(tmp_path, replays, options):
    """Any number of ranks sees the same batches, down to those that are too small for two, and may go on with a run of
    any other number."""
    def flags(name):
        given = {"replays": replays, "hidden": "16", "epochs": 2, "num_workers": 0, "eval_interval": 5, "runs_dir":
                 tmp_path, "run_name": name, **options}
        return [f"--{key.replace('_', '-')}={value}" for key, value in given.items()]

    args = bc.Args(replays=replays, hidden="16", epochs=2, num_workers=0, eval_interval=5, runs_dir=str(tmp_path),
                   run_name="one", **options)
    bc.main(args)
    ended = in_ranks(tmp_path, cloning_run, flags("two"), 8)
    assert [code for code, _ in ended] == [130, 130] and not ended[1][1], ended
    assert "go on with: torchrun --nproc-per-node 2 bc.py --resume" in ended[0][1]
    assert load_checkpoint(tmp_path / "two" / "checkpoints" / "last.pt")["step"] == 8
    halfway = tmp_path / "halfway"
    shutil.copytree(tmp_path / "two", halfway)
    assert [code for code, _ in in_ranks(tmp_path, cloning_run, [f"--resume={tmp_path / 'two'}"])] == [0, 0]
    bc.main(bc.Args(resume=str(halfway)))
    one = values(tmp_path / "one")
    assert len(one) > 3 and one == cloned(tmp_path / "two") and one == cloned(halfway)
    assert one[-1]["losses/nll"] < one[1]["losses/nll"]
