"""ppo_selfplay.py through its front door, and the promises of self-play: each test fails if its promise is broken."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cleanmelee import evaluation, selfplay
import melee_common
import ppo_selfplay
from cleanmelee.cli import UserError
from cleanmelee.features import FLOAT_NAMES
from cleanmelee.games import BOT_SLOT
from cleanmelee.observation import Observation, observe
from cleanmelee.pool import Pool, Ratings
from cleanmelee.runs import lock_run
from melee_common import Policy, evaluate_actions, load_checkpoint, load_policy, save_checkpoint
from ppo_selfplay import Args, main
from helpers import FRAMES, as_flags, command, metrics, read_wandb, tiny

ROOT = Path(__file__).resolve().parents[2]


# --------------------------------------------------------------------------------------------- determinism and resuming

@pytest.mark.parametrize("options", [{}, {"backbone": "gru"}, {"num_workers": 2}, {"history_size": 2}],
                         ids=["mlp", "gru", "workers", "pruning"])
def test_resume_equals_never_having_stopped(tmp_path, options):
    main(tiny(tmp_path, "whole", 6, **options))
    main(tiny(tmp_path, "parts", 3, **options))
    main(Args(resume=str(tmp_path / "parts"), timesteps=6 * FRAMES))        # --no-anneal-lr: a rate knows its end
    whole, parts = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    assert len(whole) == 6 and whole == parts
    assert any(row["selfplay/history_games"] for row in whole)              # opponents and ratings were in play
    a, b = (load_checkpoint(tmp_path / name / "checkpoints" / "latest.pt") for name in ("whole", "parts"))
    assert all(torch.equal(a["policy"][k], b["policy"][k]) for k in a["policy"]) and a["ratings"] == b["ratings"]


def test_seeds(tmp_path):
    for name, options in {"a": {}, "b": {}, "c": {"seed": 6}, "d": {"eval_interval": 1}}.items():
        main(tiny(tmp_path, name, 2, **options))
    a, b, c, d = (metrics(tmp_path / name) for name in "abcd")
    assert a == b and a != c
    assert a == d                                                           # evaluation has random streams of its own


def test_kill_9_and_resume(tmp_path):
    main(tiny(tmp_path, "whole", 20, save_interval=4, history_size=3, history_prob=.9))
    flags = as_flags(tiny(tmp_path, "killed", 20, save_interval=4, history_size=3, history_prob=.9))
    process = subprocess.Popen([sys.executable, "ppo_selfplay.py", *flags], cwd=ROOT, stdout=subprocess.DEVNULL)
    log = tmp_path / "killed" / "metrics.jsonl"
    while not log.exists() or log.read_text().count("\n") < 7:
        assert process.poll() is None
        time.sleep(.002)
    process.kill()
    process.wait()
    with open(log, "a") as file:
        file.write('{"global_step": 99')                                    # a line cut short by the kill
    main(Args(resume=str(tmp_path / "killed")))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_a_kill_before_the_first_save_can_be_resumed(tmp_path, monkeypatch):
    main(tiny(tmp_path, "whole", 3))
    with monkeypatch.context() as patch:
        patch.setattr(ppo_selfplay, "update", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            main(tiny(tmp_path, "killed", 3))
    main(Args(resume=str(tmp_path / "killed")))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_ctrl_c_leaves_a_resumable_checkpoint_and_no_process(tmp_path):
    flags = as_flags(tiny(tmp_path, "stopped", 10_000, num_workers=2))
    process = subprocess.Popen([sys.executable, "ppo_selfplay.py", *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               start_new_session=True)
    log = tmp_path / "stopped" / "metrics.jsonl"
    while not log.exists() or log.read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(.01)
    os.killpg(process.pid, signal.SIGINT)                                   # a terminal sends it to every process
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "--resume" in out and "Traceback" not in out
    with pytest.raises(ProcessLookupError):                                 # every process of its group is gone
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(.03)
    steps = load_checkpoint(tmp_path / "stopped" / "checkpoints" / "latest.pt")["step"]
    assert steps == metrics(tmp_path / "stopped")[-1]["global_step"]


# --------------------------------------------------------------------------------------------------- self-play promises

def test_pretrained_weights_are_the_learners(tmp_path, monkeypatch):
    source = Policy("gru", (24, 12))
    save_checkpoint(tmp_path / "bc.pt", source)
    seen = {}

    def measure(policy, initial, step, **settings):
        if step == 0:
            seen.update({k: v.clone() for k, v in policy.state_dict().items()}, repeat=policy.action_repeat)
            assert all(torch.equal(v, policy.state_dict()[k]) for k, v in initial.state_dict().items())
        return {"global_step": step, "games": 0, "eval/drift": 0., "eval/collapse": []}

    monkeypatch.setattr(evaluation, "measure_strength", measure)
    main(tiny(tmp_path, "run", 1, pretrained=str(tmp_path / "bc.pt"), eval_interval=1))
    assert seen.pop("repeat") == 1
    assert all(torch.equal(seen[k], v) for k, v in source.state_dict().items())
    trained, data = load_policy(tmp_path / "run" / "checkpoints" / "latest.pt")
    assert trained.config == source.config == data["config"]
    assert not torch.equal(trained.value_head.weight, source.value_head.weight)


@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_opponent_rows_never_enter_the_batch(tmp_path, monkeypatch, backbone):
    """Opponents are made to press up on the d-pad on every frame, the learner never does: no batch may hold such a
    row."""
    act, action_logprobs = selfplay.act, ppo_selfplay.action_logprobs
    count = {"learner": 0, "opponent": 0, "batches": 0}

    def marked_act(policies, assignment, *rest):
        actions = act(policies, assignment, *rest)
        actions[..., 7] = assignment != 0
        count["learner"] += (assignment == 0).sum()
        count["opponent"] += (assignment > 0).sum()
        return actions

    def checked(logits, actions):
        if torch.is_grad_enabled():
            count["batches"] += 1
            assert not actions[..., 7].any()
        return action_logprobs(logits, actions)

    monkeypatch.setattr(selfplay, "act", marked_act)
    monkeypatch.setattr(ppo_selfplay, "action_logprobs", checked)
    main(tiny(tmp_path, "run", 6, history_prob=.7, backbone=backbone))
    assert count["opponent"] > 100 and count["batches"] > 0
    assert metrics(tmp_path / "run")[-1]["charts/agent_frames"] == count["learner"]


def test_an_opponent_stays_for_its_game_and_gets_its_result(tmp_path, monkeypatch):
    """Follows who really acted in every game, and compares with whom the ratings were told about."""
    names, loaded, games, finished, recorded = {}, [], {}, [], []
    load, act, record = Pool.load, selfplay.act, Ratings.record

    def named_load(self, name):
        policy = load(self, name)
        names[id(policy)] = name
        loaded.append(policy)                                               # or another one would get its id
        return policy

    def watched_act(policies, assignment, obs, states, resets, *rest):
        for g in range(len(assignment)):
            who = tuple(names.get(id(policies[k]), "main") for k in assignment[g])
            if resets[g]:
                if g in games:
                    finished.append(games[g])
                games[g] = who
            assert games[g] == who, "the opponent changed in mid-game"
        return act(policies, assignment, obs, states, resets, *rest)

    def watched_record(self, a, b, score):
        recorded.append((a, b))
        record(self, a, b, score)

    monkeypatch.setattr(Pool, "load", named_load)
    monkeypatch.setattr(selfplay, "act", watched_act)
    monkeypatch.setattr(Ratings, "record", watched_record)
    main(tiny(tmp_path, "run", 8, history_prob=.6))
    expected = [(a, b) if a == "main" else (b, a) for a, b in finished if (a, b) != ("main", "main")]
    assert len(expected) >= 5 and len(set(expected)) > 2
    # games that end with the very last step are recorded, but no further act() shows them as finished
    assert sorted(recorded[:len(expected)]) == sorted(expected) and len(recorded) - len(expected) <= 4
    assert {port for g in finished for port in (0, 1) if g[port] != "main"} == {0, 1}


@pytest.mark.parametrize(("backbone", "options"), [
    ("mlp", {}), ("gru", {}), ("mlp", {"parallel_actions": True}), ("gru", {"parallel_actions": True})])
def test_the_learner_scores_actions_as_the_actor_did(tmp_path, monkeypatch, backbone, options):
    """Observations, actions, memory and its resets are stored where they belong: what was remembered of the moment of
    acting, log-probabilities and values, is what learning finds for them."""
    prepare, compared = ppo_selfplay.prepare, []

    def checked(learner, rollout, args, teacher):
        batch = prepare(learner, rollout, args, teacher)
        obs, mine = Observation(batch["floats"], batch["ints"]), batch["learns"]
        values, logprobs = evaluate_actions(learner.policy, obs, rollout["state"], batch["starts"], batch["actions"])
        for then, now in ((batch["values"], values), (batch["logprobs"], logprobs)):
            assert (then - now)[mine].abs().max() < 1e-4 and then[mine].std() > 0
        compared.append(int(mine.sum()))
        return batch

    monkeypatch.setattr(ppo_selfplay, "prepare", checked)
    main(tiny(tmp_path, "run", 6, backbone=backbone, history_prob=.6, learning_rate=1e-2, **options))
    assert len(compared) == 6 and min(compared) > 50


def test_results_are_credited_to_the_side_that_won(tmp_path, monkeypatch):
    frozen, scores, act = [], [], selfplay.act
    def watched_act(policies, assignment, obs, states, resets, *rest):
        if resets[0]:
            frozen.append(int((assignment[0] > 0).argmax()) if (assignment[0] > 0).any() else None)
        return act(policies, assignment, obs, states, resets, *rest)
    monkeypatch.setattr(selfplay, "act", watched_act)
    monkeypatch.setattr(selfplay, "outcomes", lambda frames: np.ones(len(frames), int))   # player 0 always wins
    monkeypatch.setattr(Ratings, "record", lambda self, a, b, score: scores.append(score))
    main(tiny(tmp_path, "run", 24, num_games=1, history_prob=1.))
    expected = [float(port == 1) for port in frozen if port is not None]
    assert {0., 1.} == set(scores) and scores == expected[:len(scores)]


def test_rewards_know_the_coefficients_the_decided_games_and_the_discount(tmp_path, monkeypatch):
    seen, step = [], ppo_selfplay.VecEnv.step
    # the third game is decided in each step
    monkeypatch.setattr(
        ppo_selfplay.VecEnv,
        "step",
        lambda self, controllers: (
            lambda terminated, truncated, broken: (np.arange(len(broken)) == 2, np.arange(len(broken)) == 1, broken)
        )(*step(self, controllers)),
    )
    reward_terms = ppo_selfplay.reward_terms
    monkeypatch.setattr(ppo_selfplay, "reward_terms", lambda before, after, args, ended, gamma: (
        seen.append((args.reward_stomp, ended.tolist(), gamma)), reward_terms(before, after, args, ended, gamma))[1])
    main(tiny(tmp_path, "run", 1, num_games=3, reward_stomp=.5, gamma=.9))
    assert seen and all(call == (.5, [False, False, True], .9) for call in seen)


def test_the_discount_goes_by_game_time(tmp_path):
    """Half of a reward after the same 3.4 seconds, whether the policy decides on every frame or on every third."""
    for repeat in (1, 3):
        main(tiny(tmp_path, f"every{repeat}", 1, action_repeat=repeat))
        args = json.loads((tmp_path / f"every{repeat}" / "args.json").read_text())
        assert args["gamma"] ** (3.44 * 60 / repeat) == pytest.approx(.5, abs=.01)
        assert args["gae_lambda"] ** (3 / repeat) == pytest.approx(.95)     # and how far back an advantage reaches


def test_rewards_reach_the_side_that_earned_them(tmp_path, monkeypatch):
    seen = []
    compute_gae = ppo_selfplay.compute_gae
    monkeypatch.setattr(
        ppo_selfplay, "reward_terms", lambda before, after, *_: {
            name: np.float32([[share, -share]]).repeat(len(after), 0)
            for name, share in (("stock", .5), ("damage", .25), ("hit", .125), ("fall", .125))})
    monkeypatch.setattr(ppo_selfplay, "compute_gae", lambda rewards, *rest: (seen.append(rewards.copy()),
                                                                             compute_gae(rewards, *rest))[1])
    main(tiny(tmp_path, "run", 1))
    assert (seen[0][..., 0] == 1).all() and (seen[0][..., 1] == -1).all()


@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_next_values_are_those_of_the_frame_that_followed(tmp_path, monkeypatch, backbone):
    """The value is made to be the player's own x: then next_values must be where each player stood after the step, in
    the game's last frame if it was cut off there."""
    features, unroll, step, compute_gae = (
        Policy.features, Policy.unroll, ppo_selfplay.VecEnv.step, ppo_selfplay.compute_gae)
    own_x = FLOAT_NAMES.index("player.x")
    first = lambda x, obs: torch.cat([obs.floats[..., own_x:own_x + 1], x[..., 1:]], -1)
    x_after, seen = [], []

    def watched_step(self, controllers):
        ends = step(self, controllers)
        done = ends[0] | ends[1]
        frames = np.where(done, self.final_frames, self.frames)
        x_after.append(observe(frames, self.controllers).floats[..., own_x])
        return ends

    def watched_gae(rewards, values, next_values, *rest):
        seen.append((next_values.copy(), rest[0].copy()))
        return compute_gae(rewards, values, next_values, *rest)

    monkeypatch.setattr(melee_common, "FEW_ROWS", 0)                        # what is changed here is torch's
    monkeypatch.setattr(Policy, "features", lambda self, obs, state: (
        lambda x, new: (first(x, obs), new))(*features(self, obs, state)))
    monkeypatch.setattr(Policy, "unroll", lambda self, obs, state, resets: (
        lambda x, new: (first(x, obs), new))(*unroll(self, obs, state, resets)))
    monkeypatch.setattr(Policy, "value", lambda self, x: x[..., 0] + 0 * self.value_head(x)[..., 0])
    monkeypatch.setattr(ppo_selfplay.VecEnv, "step", watched_step)
    monkeypatch.setattr(ppo_selfplay, "compute_gae", watched_gae)
    main(tiny(tmp_path, "run", 3, backbone=backbone, num_games=3, max_episode_frames=20, history_prob=0.))
    next_values = np.concatenate([values for values, _ in seen])            # [3 T, N, 2]
    terminated = np.concatenate([t for _, t in seen])
    assert np.allclose(next_values[~terminated], np.stack(x_after)[~terminated], atol=1e-5)


def test_evaluation_credits_the_policy(tmp_path, monkeypatch):
    """The learner is made to win every game against others, from whichever port it plays; against itself no port is
    better."""
    def won(policies, envs, assignment, generator, watch):
        frames = envs.frames.copy()
        watch(np.zeros((*assignment.shape, 13), np.int8), frames, frames, np.ones(len(assignment), bool))
        port = np.arange(len(frames)) % 2                                   # the policy's
        # but in "reference"
        assert (assignment[np.arange(len(frames)), port] == (np.arange(len(frames)) // 4 == 4)).all()
        frames["players"]["stocks"] = np.arange(2) == port[:, None]
        return frames

    monkeypatch.setattr(evaluation, "play_games", won)
    policy = Policy("mlp", (8,))
    row = evaluation.measure_strength(policy, policy, 0, **ppo_selfplay.evaluation_settings(
        tiny(tmp_path, "run", eval_games=4, eval_opponents="idle,random")))
    assert [row[f"eval/winrate_{name}"] for name in ("idle", "random", "attacker", "initial", "control")] == [
        1, 1, 1, 1, 0.5]
    assert row["eval/drift"] == 0


def test_no_minibatch_is_too_small_to_normalise(tmp_path):
    """34 rows in minibatches of 33: a tail of one row once turned the policy into NaN."""
    main(
        tiny(
            tmp_path, "run", 2, num_games=1, rollout_length=17, batch_size=33, history_prob=0.0, action_repeat=1,
            timesteps=34)
    )
    assert all(np.isfinite(row["losses/policy_loss"]) for row in metrics(tmp_path / "run"))
    policy, _ = load_policy(tmp_path / "run" / "checkpoints" / "latest.pt")
    assert all(torch.isfinite(p).all() for p in policy.parameters())


def test_a_frozen_copy_inherits_the_rating(tmp_path):
    main(tiny(tmp_path, "run", 8))
    table = load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")["ratings"]["table"]
    games = sum(row[1] + row[2] + row[3] for name, row in table.items() if name != "main")
    latest = table["main"]
    assert games == latest[1] + latest[2] + latest[3] > 0


def test_truncated_games_bootstrap_from_their_last_frame(tmp_path, monkeypatch):
    """With a value function that is 7 everywhere and no reward, every return is 7 gamma^k > 0 only if cut games
    bootstrap."""
    captured = {}
    compute_gae = ppo_selfplay.compute_gae

    def capture(rewards, values, next_values, terminated, truncated, *rest):
        captured.update(next_values=next_values.copy(), truncated=np.broadcast_to(truncated, rewards.shape).copy())
        return compute_gae(rewards, values, next_values, terminated, truncated, *rest)

    monkeypatch.setattr(ppo_selfplay, "compute_gae", capture)
    monkeypatch.setattr(melee_common, "FEW_ROWS", 0)
    monkeypatch.setattr(
        Policy, "value", lambda self, features: features[..., 0] * 0 + 7 + 0 * self.value_head(features)[..., 0])
    main(tiny(tmp_path, "run", 2, history_prob=0.))
    assert captured["truncated"].any() and np.allclose(captured["next_values"], 7)


def test_a_dying_worker_leaves_no_row_in_the_batch(tmp_path, monkeypatch):
    steps = {"n": 0}
    step = ppo_selfplay.VecEnv.step

    def deadly(self, controllers):
        steps["n"] += 1
        if steps["n"] == 10:
            os.kill(self._workers[0].pid, signal.SIGKILL)
        return step(self, controllers)

    monkeypatch.setattr(ppo_selfplay.VecEnv, "step", deadly)
    main(tiny(tmp_path, "run", 2, num_workers=2, history_prob=0., max_episode_frames=0))
    rows = metrics(tmp_path / "run")
    assert rows[0]["charts/agent_frames"] == 2 * 4 * 16 - 2 * 2 * 10        # two games, both ports, all that led to it
    assert rows[1]["charts/agent_frames"] - rows[0]["charts/agent_frames"] == 2 * 4 * 16
    assert rows[0]["charts/games_finished"] == 0


@pytest.mark.parametrize(("rollouts", "breaks", "lost"), [(1, 13, slice(9, 13)), (2, 9, slice(4, 9))])
def test_a_broken_game_costs_its_own_rows_alone(tmp_path, monkeypatch, rollouts, breaks, lost):
    """Games end every 5 steps, this one after 4, 9 and 14; it breaks: all rows of that game go, also those of an
    earlier rollout, and those of the games before it stay."""
    learns, n = [], [0]
    step, prepare = ppo_selfplay.VecEnv.step, ppo_selfplay.prepare

    def breaking(self, controllers):
        terminated, truncated, broken = step(self, controllers)
        n[0] += 1
        broken = np.arange(4) == 1 if n[0] == breaks else broken
        return terminated, truncated | broken, broken

    monkeypatch.setattr(ppo_selfplay.VecEnv, "step", breaking)
    monkeypatch.setattr(ppo_selfplay, "prepare", lambda learner, rollout, *rest: (
        learns.append(rollout["learns"]) or prepare(learner, rollout, *rest)))
    main(tiny(tmp_path, "run", 1, history_prob=0., max_episode_frames=10, train_interval=rollouts,
              rollout_length=16 // rollouts))
    expected = np.ones((16, 4, 2), bool)
    expected[lost, 1] = False
    assert (np.concatenate(learns) == expected).all()


# ----------------------------------------------------------------------------------------------------------- front door

def test_command_line_from_start_to_elo_table(tmp_path):
    result = command(
        "--num-games", "2", "--timesteps", "400", "--rollout-length", "16", "--hidden", "16", "--runs-dir",
        str(tmp_path), "--run-name", "r:1", "--track-elo", "--eval-interval", "2", "--eval-games", "2",
        "--max-episode-frames", "60", "--pool-interval", "1", "--character", "fox", "--eval-opponents", "idle,attacker",
        "--stage", "battlefield", "--checkpoint", str(tmp_path / "out.pt"), "--save-interval", "1", "--backbone", "gru",
        "--track")
    assert result.returncode == 0, result.stderr
    for text in ("SPS", "KL", "Elo", "Rank", "eval at 0"):
        assert text in result.stdout, text
    run = tmp_path / "r:1"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {
        "global_step", "charts/SPS", "losses/policy_loss", "losses/value_loss", "losses/entropy", "losses/approx_kl",
        "losses/clipfrac", "losses/explained_variance", "time/env", "time/policy", "time/learn"} <= set(rows[0])
    assert rows[0]["global_step"] == 2 * 16 * 3 and all(abs(r["losses/first_ratio_error"]) < 1e-5 for r in rows)
    evals = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    assert [e["global_step"] for e in evals][0] == 0 and evals[-1]["global_step"] == rows[-1]["global_step"]
    assert all(
        e["eval/winrate_attacker_low"] <= e["eval/winrate_attacker"] <= e["eval/winrate_attacker_high"] for e in evals)
    assert {p.name for p in run.iterdir()} >= {"args.json", "command.txt", "versions.txt", "pool", "winrates.png"}
    sent = read_wandb(run)
    assert sent.run.run_id == (run / "wandb.txt").read_text().strip()       # not its name, which W&B would refuse
    assert sent.run.display_name == "r:1" and sent.axis == {"*": "global_step"} and sent.config["num_games"] == 2
    own = lambda row: {key: row.get(key, "nothing") for key in expected}
    for expected in [*rows, *evals]:
        assert expected in map(own, sent.rows), f"step {expected['global_step']}"
    steps, best = [e["global_step"] for e in evals], [e["global_step"] for e in evals if e["eval/is_best"]]
    kept = {kind: [step for its, step in sent.artifacts if its == kind] for kind in ("game", "model")}
    assert kept == {"game": steps, "model": best} and 0 in best
    assert sent.pictures.keys() == {"pictures/winrates", "pictures/press_rates", "pictures/payoff"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in sent.pictures.values())
    assert (run / "winrates.png").read_bytes().startswith(b"\x89PNG")
    assert load_policy(tmp_path / "out.pt")[1]["step"] == rows[-1]["global_step"]


def test_a_flag_that_does_not_exist_is_named():
    result = command("--no-such-flag")
    assert result.returncode == 2 and "no-such-flag" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("field", ["learner_main", "envs", "ratings", "selfplay", "turn", "iteration", "stage"])
def test_a_damaged_checkpoint_is_not_resumed(tmp_path, field):
    main(tiny(tmp_path, "run", 1))
    path = tmp_path / "run" / "checkpoints" / "latest.pt"
    data = torch.load(path, weights_only=True)
    for broken in ({k: v for k, v in data.items() if k != field}, data | {field: "nonsense"}):
        torch.save(broken, path)
        with pytest.raises(UserError, match="run"):
            main(Args(resume=str(tmp_path / "run"), timesteps=3 * FRAMES))


def test_damaged_logs_do_not_stop_a_resumed_run(tmp_path):
    main(tiny(tmp_path, "whole", 3))
    main(tiny(tmp_path, "run", 2))
    (tmp_path / "run" / "pool" / "main_000000999999.pt").mkdir()
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(b'garbage\n[]\n\xff\xfe\n{"no": "step"}\n{"global_step": 1')
    main(Args(resume=str(tmp_path / "run"), timesteps=3 * FRAMES))
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    (tmp_path / "run" / "args.json").write_text('{"num_games"')
    with pytest.raises(UserError, match="args.json"):
        main(Args(resume=str(tmp_path / "run")))


def test_one_process_a_run(tmp_path):
    main(tiny(tmp_path, "run", 1))
    held = lock_run(tmp_path / "run")
    with pytest.raises(UserError, match="another process"):
        main(Args(resume=str(tmp_path / "run"), timesteps=2 * FRAMES))
    held.release()
    main(Args(resume=str(tmp_path / "run"), timesteps=2 * FRAMES))


def test_the_fork_servers_death_is_told(tmp_path, monkeypatch):
    step = ppo_selfplay.VecEnv.step

    def deadly(self, controllers):
        os.kill(self._forks._pid, signal.SIGKILL)                           # its workers die with it
        time.sleep(.1)
        return step(self, controllers)

    monkeypatch.setattr(ppo_selfplay.VecEnv, "step", deadly)
    with pytest.raises(UserError, match="--resume"):
        main(tiny(tmp_path, "run", 2, num_workers=2))


def test_resume_refuses_other_arguments(tmp_path):
    main(tiny(tmp_path, "run", 1))
    with pytest.raises(UserError, match="--gamma"):
        main(Args(resume=str(tmp_path / "run"), gamma=.9))


def test_ctrl_c_before_the_first_iteration_leaves_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.Evaluator, "submit", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit):
        main(tiny(tmp_path, "run", 2, eval_interval=5))
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")["step"] == 0


def test_a_run_is_never_overwritten(tmp_path):
    main(tiny(tmp_path, "run", 1))
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        main(tiny(tmp_path, "run", 1))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_evaluation_is_symmetric_in_ports(tmp_path):
    policy, args = Policy("mlp", (8,)).eval(), tiny(tmp_path, "run", eval_games=4)
    a, b = (
        evaluation.measure_strength(policy, policy, 0, **ppo_selfplay.evaluation_settings(args)),
        evaluation.measure_strength(policy, policy, 0, **ppo_selfplay.evaluation_settings(args)))
    assert a == b and a["games"] == 4 and BOT_SLOT == -1
