import os
import signal
import sys
from pathlib import Path

import pytest
from filelock import FileLock

# One torch thread, here and in every process that a test starts: the last bit of a sum depends on their number.
os.environ["OMP_NUM_THREADS"] = "1"
TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "bench"), str(TESTS / "tools")]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Inherited, as by a job in the background; what a test starts and interrupts would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: minutes; run them with -m slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("-m"):                                      # nothing was asked for: leave the slow ones out
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))


@pytest.fixture(scope="session", autouse=True)
def compiled_game(request, tmp_path_factory):
    """Of two processes side by side (-n 2) one compiles the game, while the other waits instead of doing the same."""
    if hasattr(request.config, "workerinput"):
        from cleanmelee import game
        with FileLock(tmp_path_factory.getbasetemp().parent / "compiling.lock"):
            game.warm_up()


@pytest.fixture(autouse=True)
def restore_interrupt_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_make_parametrize_id(val):
    """A test's name stays a line, whatever it is given."""
    return f"{str(val)[:40]}..." if isinstance(val, str | int) and len(str(val)) > 60 else None


@pytest.fixture(scope="session", autouse=True)
def wandb_keeps_copies_elsewhere(tmp_path_factory):
    """Those of artifacts, which an offline run keeps in the home folder."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ[name] = str(tmp_path_factory.mktemp("wandb"))
