"""Makes README's moving picture: the page draws a few seconds of a game between two bots, in a headless Chromium.

    python tests/tools/page_gif.py docs/page.gif           # Fox and Marth, level 9, on Battlefield

Needs chromium. The file stays below 1.5 MB: twenty pictures a second, half the page's size, few colours.
"""

import asyncio
import concurrent.futures
import io
import pathlib
import sys
import tempfile
import threading

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tools")]
import chromium  # noqa: E402
from cleanmelee import game  # noqa: E402
from cleanmelee.frame import CHARACTERS, CONTROLLER, FRAME, STAGES  # noqa: E402
from cleanmelee.recording import write_slp  # noqa: E402
from cleanmelee.web.library import Library  # noqa: E402
from cleanmelee.web.server import Site, listening  # noqa: E402

CHARACTERS_SHOWN, STAGE, LEVEL, SEED = ("fox", "marth"), "battlefield", "level9", 4
GAME_FRAMES, SECONDS, EVERY = 7200, 6, 3                                    # played; shown; of so many frames one
WIDTH, HEIGHT, SCALE, COLORS = 960, 900, .7, 240
LEFT, RIGHT, BOTTOM, TOP = -92, 92, -24, 79.5                               # what is seen; it stands still: fewer bytes
MOST_BYTES = 1_500_000


def play(path):
    """A game of two bots as a .slp file -> frames [T]."""
    frames, hidden = np.zeros(1, FRAME), np.zeros(1, game.HIDDEN)
    bots, controllers = np.zeros((1, 2), game.BOT), np.zeros((1, 2), CONTROLLER)
    bots["kind"], bots["seed"] = game.BOTS[LEVEL], [[SEED, SEED + 1]]
    game.reset_games(frames, hidden, np.ones(1, bool), np.array([[CHARACTERS[name] for name in CHARACTERS_SHOWN]]),
                     np.array([STAGES[STAGE]]), np.array([SEED], np.uint64))
    history, inputs = [frames[0].copy()], [controllers[0].copy()]
    while len(history) < GAME_FRAMES and not game.game_over(frames)[0]:
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)
        history.append(frames[0].copy())
        inputs.append(controllers[0].copy())
    write_slp(path, np.array(history), np.array(inputs), names=(LEVEL, LEVEL), started=0)
    return np.array(history)


def liveliest(frames, length):
    """The start of the window with the most hits, late in it a lost stock, in which both are seen most of the time."""
    players = frames["players"]
    hits = np.maximum(np.diff(players["percent"], axis=0), 0).astype(bool).sum(1)
    x, y = players["x"], players["y"]
    hidden = ((players["action"] <= game.REBIRTH_WAIT) | (x < LEFT) | (x > RIGHT) | (y < BOTTOM) | (y > TOP)).any(1)
    falls = (np.diff(players["stocks"], axis=0) < 0).any(1)
    scores = []
    for start in range(len(frames) - length):
        window = slice(start, start + length)
        late = falls[start + length * 3 // 4:start + length - 20].any()
        scores.append(hits[window].sum() + 3 * late - 12 * hidden[window].mean())
    return int(np.argmax(scores))


def serve(folder, ready, over):
    async def main():
        async with listening(Site(Library(folder)), "127.0.0.1", 0) as address:
            ready.set_result(address)
            await asyncio.to_thread(over.wait)

    asyncio.run(main())


def pictures(folder, start):
    """The screen, its controls and the graph, as PIL images."""
    ready, over = concurrent.futures.Future(), threading.Event()
    server = threading.Thread(target=serve, args=(folder, ready, over))
    server.start()
    shown = []
    try:
        with chromium.Page(ready.result(30), WIDTH, HEIGHT) as page:
            page.wait("typeof view !== 'undefined' && view.tape && view.tape.length")
            page.run(f"eye = () => [{LEFT}, {RIGHT}, {BOTTOM}, {TOP}]; view.playing = false; toggle('hitboxes'); 1")
            clip = page.run("(() => { const a = $('screen').getBoundingClientRect(), b = $('graph')"
                            ".getBoundingClientRect(); return {x: a.left, y: a.top, width: a.width, "
                            "height: b.bottom - a.top} })()")
            for k in range(0, SECONDS * 60, EVERY):
                page.run(f"view.at = {start + k}; show(); showTransport(); 1")
                image = Image.open(io.BytesIO(page.picture(clip=clip))).convert("RGB")
                shown.append(image.resize((int(image.width * SCALE), int(image.height * SCALE)), Image.LANCZOS))
    finally:
        over.set()
        server.join()
    return shown


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        frames = play(pathlib.Path(folder, "game.slp"))
        shown = pictures(folder, liveliest(frames, SECONDS * 60))
    several = np.concatenate([np.asarray(image) for image in shown[::10]])
    palette = Image.fromarray(several).quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    shown = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in shown]
    path = pathlib.Path(sys.argv[1])
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=1000 * EVERY // 60, loop=0, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {len(shown)} pictures of {shown[0].width} x {shown[0].height}, {size:,} bytes")
    return int(size > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
