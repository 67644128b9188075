"""What Slippi does not show: timers, the last controller, random streams. A frame plus this is a whole game."""

import numpy as np

from cleanmelee.frame import NUM_PLAYERS

HIDDEN_PLAYER = np.dtype([
    ("stick_x", "f4"), ("stick_y", "f4"), ("c_x", "f4"), ("c_y", "f4"), ("trigger", "f4"),  # this frame's controller
    ("last_stick_x", "f4"), ("last_stick_y", "f4"), ("last_c_x", "f4"), ("last_c_y", "f4"), ("last_trigger", "f4"),
    ("old_x", "f4"), ("old_y", "f4"),                  # the position a frame ago
    ("buttons", "i2"), ("last_buttons", "i2"),
    ("tilt_x_age", "i2"), ("tilt_y_age", "i2"),        # frames since the stick passed +-.25 on this side, 254 at rest
    ("trigger_age", "i2"),                             # frames since L, R or Z went down
    ("tilt_side", "i2"), ("tilt_side_age", "i2"),      # to which side the stick last went, -1 or 1, and how long ago
    ("tech_lockout", "i2"), ("tech_void", "i2"),       # frames in which a further press cannot tech; it cannot
    ("feet", "f4"),                                    # height of the feet above the position, a frame ago
    ("air_frames", "i2"),                              # in the air, this one and those in hitlag too
    ("ledge_cooldown", "i2"), ("action_frames", "i2"),  # action_frames stand still in hitlag
    ("flag", "i2"),                                    # of the action: short hop chosen, turn done, first jump frame
    ("landed_cancel", "i2"),                           # the l_cancel of this aerial landing
    ("has_hit", "i2"),                                 # this swing has connected and may not connect again
    ("queued", "i2"),                                  # this swing stands in the staling queue: it enters once
    ("hurt_timer", "i2"), ("hurt_kind", "i2"),         # frames of PLAYER.hurtbox from outside the action
    ("guard_frames", "i2"), ("poked", "i2"),           # shield stun left; this frame's hit reaches past the shield
    ("shield_push", "f4"),                             # speed at which the shield he has struck pushes him away
    ("meteor", "i2"),                                  # blown straight down in the air: a jump or up special may end it
    ("jump_lockout", "i2"), ("rise_lockout", "i2"),    # see locked_out: of jumps and up specials against meteors
    ("jump_buffer", "i2"),                             # frames for which a jump pressed in hitstun still counts
    ("grab_timer", "i2"),                              # frames until the held player breaks free
    ("combo_timer", "i2"), ("throw_frames", "i2"),     # length of the throw in progress
    ("rise_turn", "f4"),                               # degrees by which an up special will lean
    ("luck", "f4"),                                    # this frame's random number
    ("charge", "i2"),                                  # frames that a shot has been charged; of a shine
    ("smash_charge", "i2"),                            # frames that this smash has been held
    ("boost", "f4"),                                   # damage that charging has added to this action's hits
    ("bucket", "i2"), ("bucket_damage", "f4"),         # Game & Watch: shots caught and their damage
    ("last_judge", "i2"), ("judge_before", "i2"),      # his last hammers, 0 to 8
    ("holding", "i2"),                                 # Link: a bomb is in his hand
    ("lifted", "i2"),                                  # a special has lifted him since he left the ground
    ("shot", "i2"),                                    # lets go of a projectile this frame: 1 ground, 2 air
    ("wall_jumps", "i2"),                              # made since he last stood on the ground
    ("landing_lag", "i2"),                             # of the helpless fall, see LANDING_LAG_ROWS; 0 of an air dodge
    ("ledge_taken", "i2"),                             # side of the ledge that the other holds, 0 neither
    ("stale", "i2", 9),                                # attack ids of the last hits that landed, newest first
])

HIDDEN = np.dtype([("players", HIDDEN_PLAYER, NUM_PLAYERS), ("seed", "u8"), ("reserved", "u8")])
