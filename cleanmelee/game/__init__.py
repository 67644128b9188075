"""The embedded game: Melee's rules as scalar numba code over arrays. No ISO needed."""

from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.state import *  # noqa: F403
from cleanmelee.game.characters import *  # noqa: F403
from cleanmelee.game.stages import *  # noqa: F403
from cleanmelee.game.tables import *  # noqa: F403
from cleanmelee.game.inputs import *  # noqa: F403
from cleanmelee.game.starts import *  # noqa: F403
from cleanmelee.game.motion import *  # noqa: F403
from cleanmelee.game.endings import *  # noqa: F403
from cleanmelee.game.controls import *  # noqa: F403
from cleanmelee.game.terrain import *  # noqa: F403
from cleanmelee.game.combat import *  # noqa: F403
from cleanmelee.game.grabs import *  # noqa: F403
from cleanmelee.game.items import *  # noqa: F403
from cleanmelee.game.step import *  # noqa: F403
from cleanmelee.game.knowledge import *  # noqa: F403
from cleanmelee.game.levels import *  # noqa: F403
from cleanmelee.game.bots import *  # noqa: F403
from cleanmelee.frame import *  # noqa: F403
