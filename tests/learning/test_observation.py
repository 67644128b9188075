"""The table of features, and what `observe` makes of a frame by it."""

import observation_table
from cleanmelee.features import FEATURES


def test_the_page_is_the_table():
    assert observation_table.PAGE.read_text() == observation_table.markdown(), (
        "run python tests/tools/observation_table.py")
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
