"""Distillation: a teacher that remembers, a student that learns and can be used."""

import dataclasses
import errno
import gc
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import distill
from cleanmelee import labels
from cleanmelee.backbones import BACKBONES
from cleanmelee.cli import UserError
from cleanmelee.controller import ACTION_SIZE, NUM_LOGITS
from cleanmelee.dataset import load_sides, open_games, portions
from cleanmelee.frame import CONTROLLER, FRAME
from cleanmelee.recording import write_slp
from helpers import load_all, read_wandb
from melee_common import Policy, action_kl, action_logprobs, load_policy, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.fixture
def games(tmp_path):
    """Three games in which two players wander and press at random."""
    folder = tmp_path / "games"
    folder.mkdir()
    for seed in range(3):
        rng, length = np.random.default_rng(seed), 300
        frames, controllers = np.zeros(length, FRAME), np.zeros((length, 2), CONTROLLER)
        frames["frame_id"], frames["stage"] = np.arange(length) - 123, 32
        players = frames["players"]
        players["x"], players["y"] = np.clip(rng.normal(0, 2, (2, length, 2)).cumsum(1), -200, 200)
        players["facing"], players["character"], players["port"], players["present"] = 1, (1, 18), (0, 1), 1
        players["stocks"], players["shield"], players["action"] = 4, 60, rng.integers(14, 40, (length, 2))
        frames["items"]["present"][:, 0] = 1
        frames["items"]["type"][:, 0] = 54
        controllers["buttons"] = rng.choice([0, 0x100, 0x400], (length, 2))
        controllers["main_x"] = rng.choice([-1, 0, 1], (length, 2))
        write_slp(folder / f"{seed}.slp", frames, controllers, seed=seed, started=0)
    return str(folder)


def sharp_policy(backbone="gru", seed=7, **config):
    """Random, but with opinions: a fresh policy's heads hardly look at what they see."""
    torch.manual_seed(seed)
    policy = Policy(backbone, (24,), **config)
    with torch.no_grad():
        for layer in policy.controller_head.logits.values():
            layer.weight.normal_(std=.3)
        for table in [policy.controller_head.seen_buttons, *policy.controller_head.seen.values()]:
            table.weight.normal_(std=.3)
    return policy.eval()


@pytest.fixture
def teacher(tmp_path):
    return str(save_checkpoint(tmp_path / "teacher.pt", sharp_policy(), stage="bc"))


def small(teacher, games, /, **changes):
    args = distill.Args(teacher, games, num_workers=0, hidden="16,16", epochs=1, batch_size=256, run_name="run",
                        output="out/student.pt", held_out=.1, max_episode_frames=90,
                        on_policy_opponents="self,level1")
    return dataclasses.replace(args, **changes)


@pytest.mark.parametrize("action_repeat", [1, 3])
def test_teacher_answers_as_if_it_played(games, action_repeat):
    """Its memory is carried from a game's first frame to its last, one action after the other."""
    policy = sharp_policy(action_repeat=action_repeat)
    train, _, _ = open_games(games, num_workers=0, held_out=.1)
    whole, data = load_all(train), load_sides(train, range(4), action_repeat)
    found = iter(labels.ask([policy], data.obs, data.actions, data.starts))
    with torch.no_grad():
        for a, b in zip(whole.starts[:-1], whole.starts[1:], strict=True):
            for phase in range(action_repeat):
                state = policy.initial_state(1)
                for row in range(a + phase, b, action_repeat):
                    obs, actions = whole.take(torch.tensor([row]))
                    features, state = policy.features(obs, state)
                    label = torch.cat([policy.logits(features, actions)[0], policy.value(features)])
                    torch.testing.assert_close(next(found).float(), label, atol=2e-3, rtol=1e-3)    # of float16
    assert next(found, None) is None


def test_answers_do_not_depend_on_who_else_is_asked(games):
    """To the last bit: what is asked on the fly is what a file holds."""
    train, _, _ = open_games(games, num_workers=0, held_out=.1)
    policy = sharp_policy()
    alone = [labels.answers(policy, x.obs, x.actions, x.starts) for x in (load_sides(train, [k]) for k in range(4))]
    data = load_sides(train, [2, 0, 3, 1])
    assert torch.equal(labels.answers(policy, data.obs, data.actions, data.starts),
                       torch.cat([alone[k] for k in (2, 0, 3, 1)]))


def test_student_learns_from_the_teacher(teacher, games):
    args = small(teacher, games, epochs=15, alpha=1., learning_rate=3e-3, weight_decay=0., hidden="32")
    torch.manual_seed(args.seed)
    fresh = Policy("mlp", (32,))
    distill.main(args)
    rows = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["eval/kl"] < .6 * rows[0]["eval/kl"] and rows[-1]["eval/value_error"] < rows[0]["eval/value_error"]
    policy, data = load_policy("out/student.pt")
    assert policy.config == Policy("mlp", (32,)).config
    assert data["teacher"] == hashlib.sha256(Path(teacher).read_bytes()).hexdigest()
    assert data["stage"] == "distill"
    still = [name for name, value in policy.state_dict().items() if torch.equal(value, fresh.state_dict()[name])]
    assert not [name for name in still if "nana" not in name]               # nobody was an Ice Climber


def test_alpha_weighs_teacher_and_players(teacher, games):
    for alpha in (0., 1.):
        distill.main(small(teacher, games, alpha=alpha, run_name=f"alpha{alpha}", epochs=6, learning_rate=3e-3))
    players, copy = (json.loads(Path(f"runs/alpha{alpha}/metrics.jsonl").read_text().splitlines()[-1])
                     for alpha in (0., 1.))
    assert copy["eval/kl"] < players["eval/kl"] and players["eval/student_nll"] < copy["eval/student_nll"]


def test_student_acts_as_often_as_its_teacher(tmp_path, games):
    save_checkpoint(tmp_path / "three.pt", sharp_policy(action_repeat=3))
    distill.main(small(str(tmp_path / "three.pt"), games))
    assert load_policy("out/student.pt")[0].action_repeat == 3


def test_command_line(teacher, games):
    done = subprocess.run([sys.executable, str(ROOT / "distill.py"), "--teacher", teacher, "--replays", games,
                           "--output", "s.pt", "--hidden", "8,8", "--epochs", "2", "--num-workers", "1",
                           "--run-name", "run", "--track"], capture_output=True, text=True, env=os.environ | {
                               "WANDB_MODE": "offline", "WANDB_PROJECT": "theirs"})
    assert done.returncode == 0, done.stderr
    sent = read_wandb(Path("runs/run"))
    logged = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in logged]
    assert [row["global_step"] for row in sent.rows if "eval/kl" in row] == steps and sent.run.project == "theirs"
    assert sent.artifacts == [("model", steps[-1])] and sent.pictures.keys() == {"pictures/press_rates"}
    assert "parameters" in done.stdout and "one step, p50" in done.stdout
    policy, _ = load_policy("s.pt")
    obs, _ = load_all(open_games(games, num_workers=0)[0]).take(torch.arange(3))
    assert policy.step(obs, policy.initial_state(3), torch.rand(3, NUM_LOGITS))[0].shape == (3, ACTION_SIZE)


def curve(run="run"):
    rows = [json.loads(line) for line in Path(f"runs/{run}/metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "time/" not in k and k != "charts/frames_per_second"} for row in rows]


def weights(run="run", file="last"):
    return load_policy(f"runs/{run}/checkpoints/{file}.pt")[0].state_dict()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_teaches_and_learns_as_often_and_as_late(tmp_path, games, backbone):
    """On replays and on its own games at once."""
    small_window = {"window_size": 12} if "window_size" in Policy(backbone, (8,)).config else {}
    timing = {"action_repeat": 2, "frame_delay": 4}
    save_checkpoint(tmp_path / "t.pt", sharp_policy(backbone, **timing, **small_window))
    distill.main(small("t.pt", games, backbone=backbone, hidden="16,8", window_size=12, on_policy_games=4, epochs=4,
                       output="", alpha=1.))
    student, _ = load_policy("runs/run")
    assert student.config["backbone"] == backbone and timing.items() <= student.config.items()
    rows = curve()
    assert rows[-1]["eval/kl"] < rows[0]["eval/kl"] and rows[-1]["on_policy/kl"] < rows[0]["on_policy/kl"]


# ---------------------------------------------------------------------------------------------------------------------
# Its own games
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_what_the_student_saw_is_labelled_with_what_the_teacher_would_have_done(teacher, backbone):
    """The teacher follows the student's games frame by frame, and answers what its file says."""
    student = sharp_policy(backbone, seed=3, action_repeat=3, frame_delay=3)
    expert = sharp_policy(action_repeat=3, frame_delay=3)
    args = small(teacher, "", on_policy_games=4, max_episode_frames=150)
    lesson, results = distill.student_plays(student, [expert], args, seed=5)
    assert results.keys() == {"on_policy/winrate_level1"} and not lesson.by_people.any() and lesson.weights.all()
    assert np.diff(lesson.starts).tolist() == [50] * 6                      # two mirror matches, two against a bot
    with torch.no_grad():
        for a, b in zip(lesson.starts[:-1], lesson.starts[1:], strict=True):
            memory = expert.initial_state(1)
            for row in range(a, b):
                obs = labels.Observation(*(x[row:row + 1] for x in lesson.obs))
                features, memory = expert.features(obs, memory)
                label = torch.cat([expert.logits(features, lesson.actions[row:row + 1])[0], expert.value(features)])
                torch.testing.assert_close(lesson.labels[row].float(), label, atol=2e-3, rtol=1e-3)


def test_its_own_games_are_the_students(teacher):
    """The actions are those that this student takes there, its memory carried along, and another seed is another
    game."""
    student = sharp_policy(seed=3)
    with torch.no_grad():
        for layer in student.controller_head.logits.values():
            layer.weight.mul_(1e5)                                          # so sure that sampling changes nothing
    args = small(teacher, "", on_policy_games=4, max_episode_frames=150)
    lesson, _ = distill.student_plays(student, [sharp_policy()], args, seed=5)
    state = student.initial_state(1)
    for row in range(60):
        with torch.inference_mode():
            taken, state = student.step(labels.Observation(*(x[row:row + 1] for x in lesson.obs)), state, None)
        assert torch.equal(taken[0], lesson.actions[row].long())
    again, other = (distill.student_plays(student, [sharp_policy()], args, seed=seed)[0] for seed in (5, 6))
    assert torch.equal(again.obs.floats, lesson.obs.floats) and torch.equal(again.labels, lesson.labels)
    assert not torch.equal(other.obs.floats, lesson.obs.floats)


def test_no_replays_are_needed(teacher):
    distill.main(small(teacher, "", on_policy_games=4, epochs=12, output="", batch_size=32, learning_rate=1e-2))
    rows = curve()
    assert not [name for name in rows[0] if name.startswith("eval/")]
    assert rows[-1]["on_policy/kl"] < .8 * rows[0]["on_policy/kl"]
    assert load_policy("runs/run")[0].config["backbone"] == "mlp"


def test_what_it_did_itself_is_not_learned(teacher, games, monkeypatch):
    """The loss of what was done counts where people did it."""
    seen, plain = [], distill.action_logprobs

    def watched(logits, actions):
        seen.append(plain(logits, actions))
        return seen[-1]

    monkeypatch.setattr(distill, "action_logprobs", watched)
    distill.main(small(teacher, "", on_policy_games=4))
    assert seen and all(row["losses/nll"] == 0 for row in curve())
    distill.main(small(teacher, games, on_policy_games=4, run_name="both"))
    assert all(row["losses/nll"] > 0 for row in curve("both"))


# ---------------------------------------------------------------------------------------------------------------------
# Several teachers
# ---------------------------------------------------------------------------------------------------------------------

def test_several_teachers_are_the_policy_that_asks_one_at_random():
    """The probability of a whole controller is the mean of theirs (of the buttons only each alone)."""
    torch.manual_seed(0)
    logits, actions = 2 * torch.randn(3, 1, NUM_LOGITS), torch.zeros(1, ACTION_SIZE, dtype=torch.int8)
    logits[:, :, 1:8] = logits[:1, :, 1:8]                                  # they differ in one button: no projection
    mixed = labels.mixture(logits, actions)
    each = action_logprobs(logits, actions.expand(3, 1, ACTION_SIZE))[0].sum(-1)
    torch.testing.assert_close(action_logprobs(mixed, actions)[0].sum(-1), each.logsumexp(0) - np.log(3))
    assert torch.equal(labels.mixture(logits[:1], actions), logits[0])
    torch.testing.assert_close(action_kl(labels.mixture(logits[[1, 1]], actions), logits[1]), torch.zeros(1, 6))


def test_a_population_becomes_one(tmp_path, games):
    for k in (1, 2):
        save_checkpoint(tmp_path / f"{k}.pt", sharp_policy(seed=k))
    distill.main(small("1.pt,2.pt", games, alpha=1., epochs=8, output=""))
    rows = curve()
    assert rows[-1]["eval/kl"] < .9 * rows[0]["eval/kl"]
    found = [load_policy(f"{k}.pt")[0] for k in (1, 2)]
    data = load_sides(open_games(games, num_workers=0, held_out=.1)[1], [0])
    both, *alone = (labels.ask(who, data.obs, data.actions, data.starts).float()
                    for who in (found, found[:1], found[1:]))
    torch.testing.assert_close(both[:, -1], (alone[0] + alone[1])[:, -1] / 2, atol=2e-3, rtol=1e-3)
    save_checkpoint(tmp_path / "late.pt", sharp_policy(frame_delay=2))
    with pytest.raises(UserError, match="--teacher late.pt: would act 2 frames late, 1.pt 0; choose teachers"):
        distill.main(small("1.pt,late.pt", games, run_name="other"))


# ---------------------------------------------------------------------------------------------------------------------
# Soft labels on disk, and runs that go on
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_saved_labels_teach_as_asking_on_the_fly(tmp_path, games, backbone, monkeypatch):
    """Also where the games are more than are in memory at once; and the teacher is asked once."""
    monkeypatch.setattr("cleanmelee.dataset.PORTION_ROWS", 500)
    save_checkpoint(tmp_path / "t.pt", sharp_policy(backbone, action_repeat=2))
    distill.main(small("t.pt", games, epochs=2, run_name="fly"))
    distill.main(small("t.pt", games, epochs=2, run_name="save", save_soft_labels="kept.labels"))
    frames = sum(x.frames for x in open_games(games, num_workers=0, held_out=.1)[:2])
    assert 164 * frames < Path("kept.labels").stat().st_size < 164 * frames + 2000
    monkeypatch.setattr(distill, "ask", None)
    distill.main(small("t.pt", games, epochs=2, run_name="read", soft_labels="kept.labels"))
    assert curve("fly") == curve("save") == curve("read") and len(curve("fly")) == 2


def test_replays_are_read_in_portions(games, monkeypatch):
    """Every player once, in an order of the epoch's own, no more rows at once than PORTION_ROWS and a game."""
    train, _, _ = open_games(games, num_workers=0)
    assert len(portions(train, (1, 1))) == 1
    monkeypatch.setattr("cleanmelee.dataset.PORTION_ROWS", 500)
    epochs = [portions(train, (1, epoch)) for epoch in range(5)]
    for parts in [*epochs, portions(train)]:
        assert sorted(np.concatenate(parts)) == [0, 1, 2, 3] and [train.rows[part].sum() for part in parts] == [598] * 2
    assert len({repr(parts) for parts in epochs}) > 1


def test_soft_labels_of_something_else_are_refused(tmp_path, games, teacher):
    distill.main(small(teacher, games, save_soft_labels="kept.labels"))
    whole = Path("kept.labels").read_bytes()
    save_checkpoint(tmp_path / "other.pt", sharp_policy(seed=8))
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for name in ("0.slp", "1.slp"):
        (fewer / name).write_bytes((tmp_path / "games" / name).read_bytes())
    distill.main(small(teacher, str(fewer), save_soft_labels="fewer.labels", run_name="fewer", held_out=.5))
    flipped = bytearray(whole)
    flipped[-500] ^= 1
    schema = whole.replace(labels.schema_hash().encode(), b"000000000000")
    begin = labels._HEAD.size
    magic, length, count, _ = labels._HEAD.unpack_from(whole)
    end = begin + length + count * labels.ENTRY.itemsize
    schema = labels._HEAD.pack(magic, length, count, labels.zlib.crc32(schema[begin:end])) + schema[begin:]
    for content, changes, said in (
            (whole, {"teacher": "other.pt"}, "of another --teacher; make new ones"),
            (schema, {}, "of another frame schema; make new ones"),
            (Path("fewer.labels").read_bytes(), {}, "has no soft labels of 2 of .* players, the first in .*2.slp"),
            (bytes(flipped), {}, "damaged"), (whole[:-1], {}, "damaged"), (whole[:10], {}, "damaged"),
            (b"", {}, "damaged"), (whole[:50] + b"x" + whole[51:], {}, "damaged"), (b"text" * 100, {}, "damaged"),
            (whole, {"replays": "", "on_policy_games": 2}, "are for --replays"),
            (whole, {"on_policy_games": 3}, "--on-policy-games 3: must be at least 4"),
            (whole, {"save_soft_labels": "b.labels"}, "not together")):
        Path("a.labels").write_bytes(content)
        args = dataclasses.replace(small(teacher, games, soft_labels="a.labels", run_name=f"run{len(said)}"), **changes)
        with pytest.raises(UserError, match=said) as error:
            distill.main(args)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="nowhere: no such file"):
        distill.main(small(teacher, games, soft_labels="nowhere"))


def test_a_full_disk_leaves_no_labels(games, teacher, monkeypatch):
    for function in ("posix_fallocate", "fsync"):                           # before the first question, and at the end
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, function, full)
            with pytest.raises(UserError, match="kept/a.labels: cannot be written .No space"):
                distill.main(small(teacher, games, save_soft_labels="kept/a.labels"))
        assert not list(Path("kept").iterdir()) and not Path("runs").exists()


@pytest.mark.parametrize("at, flags", [
    (1, {"on_policy_games": 4}), (4, {"backbone": "gru", "hidden": "8", "window_size": 9}),
    (2, {"on_policy_games": 4, "replays": ""})])
def test_resume_is_exact(teacher, games, tmp_path, monkeypatch, at, flags):
    """Stopped after an iteration in mid-epoch, or where it evaluates: the same log and the same weights in the end."""
    monkeypatch.setattr("cleanmelee.dataset.PORTION_ROWS", 500)
    args = dataclasses.replace(small(teacher, games, epochs=3, output=""), **flags)
    assert not args.replays or len(portions(open_games(games, num_workers=0, held_out=.1)[0])) == 2
    distill.main(dataclasses.replace(args, run_name="whole"))
    stop, plain, made = [], distill.windows_of, []

    def windows_of(*given):
        made.append(1)
        if len(made) == at:
            stop.append(1)
        return plain(*given)

    with monkeypatch.context() as patched:
        patched.setattr(distill, "windows_of", windows_of)
        patched.setattr(distill, "stop_on_interrupt", lambda say: stop)
        with pytest.raises(SystemExit):
            distill.main(dataclasses.replace(args, run_name="halves"))
    assert len(curve("halves") if Path("runs/halves/metrics.jsonl").exists() else []) < 3 and len(made) == at
    if args.replays:
        (Path(games) / "one_more.slp").write_bytes((Path(games) / "0.slp").read_bytes() + b" ")      # not of this run
    distill.main(distill.Args(resume="runs/halves"))
    assert curve("whole") == curve("halves") and len(curve("whole")) == 3
    for file in ("best", "last"):
        a, b = weights("whole", file), weights("halves", file)
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_cannot_be_resumed_is_told(teacher, games):
    distill.main(small(teacher, games, output=""))
    before = Path("runs/run/metrics.jsonl").read_bytes()
    for file, change, said in (
            (teacher, lambda x: save_checkpoint(teacher, sharp_policy(seed=9)), "--teacher .* is not the file that"),
            ("runs/run/checkpoints/last.pt", lambda x: torch.save(x | {"stage": "bc"}, file), "is not of this run"),
            ("runs/run/checkpoints/last.pt", lambda x: torch.save(x | {"state": {}}, file), "cannot be resumed"),
            ("runs/run/checkpoints/last.pt", lambda x: torch.save(x | {"optimizer": {}}, file), "cannot be resumed")):
        whole = Path(file).read_bytes()
        change(torch.load(file, weights_only=True))
        with pytest.raises(UserError, match=said) as error:
            distill.main(distill.Args(resume="runs/run"))
        del error
        gc.collect()                                                        # and with it the run's lock
        Path(file).write_bytes(whole)
    with pytest.raises(UserError, match="only --epochs, --num-workers may change, not --alpha"):
        distill.main(distill.Args(resume="runs/run", alpha=.5))
    assert Path("runs/run/metrics.jsonl").read_bytes() == before
