"""What Slippi does not show: timers, the last controller, random streams. A frame plus this is a whole game."""

import numpy as np

from cleanmelee.frame import NUM_PLAYERS

HIDDEN_PLAYER = np.dtype([
    ("stick_x", "f4"), ("stick_y", "f4"), ("c_x", "f4"), ("c_y", "f4"), ("trigger", "f4"),  # this frame's controller
    ("last_stick_x", "f4"), ("last_stick_y", "f4"), ("last_c_x", "f4"), ("last_c_y", "f4"), ("last_trigger", "f4"),
    ("old_x", "f4"), ("old_y", "f4"),                  # the position a frame ago
    ("buttons", "i4"), ("last_buttons", "i4"),
    ("tilt_x_age", "i4"), ("tilt_y_age", "i4"),        # frames since the stick passed +-.25 on this side, 254 at rest
    ("trigger_age", "i4"),                             # frames since L, R or Z went down
    ("tilt_side", "i4"), ("tilt_side_age", "i4"),      # to which side the stick last went, -1 or 1, and how long ago
    ("tech_lockout", "i4"), ("tech_void", "i4"),       # frames in which a further press cannot tech; it cannot
    ("feet", "f4"),                                    # height of the feet above the position, a frame ago
    ("air_frames", "i4"),                              # in the air, this one and those in hitlag too
    ("ledge_cooldown", "i4"), ("action_frames", "i4"),  # action_frames stand still in hitlag
    ("flag", "i4"),                                    # of the action: short hop chosen, turn done, first jump frame
    ("landed_cancel", "i4"),                           # the l_cancel of this aerial landing
    ("has_hit", "i4"),                                 # this swing has connected and may not connect again
    ("queued", "i4"),                                  # this swing stands in the staling queue: it enters once
    ("hurt_timer", "i4"), ("hurt_kind", "i4"),         # frames of PLAYER.hurtbox from outside the action
    ("guard_frames", "i4"), ("poked", "i4"),           # shield stun left; this frame's hit reaches past the shield
    ("shield_push", "f4"),                             # speed at which the shield he has struck pushes him away
    ("meteor", "i4"),                                  # blown straight down in the air: a jump or up special may end it
    ("jump_lockout", "i4"), ("rise_lockout", "i4"),    # see locked_out: of jumps and up specials against meteors
    ("jump_buffer", "i4"),                             # frames for which a jump pressed in hitstun still counts
    ("grab_timer", "i4"),                              # frames until the held player breaks free
    ("combo_timer", "i4"), ("throw_frames", "i4"),     # length of the throw in progress
    ("rise_turn", "f4"),                               # degrees by which an up special will lean
    ("luck", "f4"),                                    # this frame's random number
    ("charge", "i4"),                                  # frames that a shot has been charged; of a shine
    ("smash_charge", "i4"),                            # frames that this smash has been held
    ("boost", "f4"),                                   # damage that charging has added to this action's hits
    ("bucket", "i4"), ("bucket_damage", "f4"),         # Game & Watch: shots caught and their damage
    ("last_judge", "i4"), ("judge_before", "i4"),      # his last hammers, 0 to 8
    ("holding", "i4"),                                 # Link: a bomb is in his hand
    ("lifted", "i4"),                                  # a special has lifted him since he left the ground
    ("shot", "i4"),                                    # lets go of a projectile this frame: 1 ground, 2 air
    ("wall_jumps", "i4"),                              # made since he last stood on the ground
    ("landing_lag", "i4"),                             # of the helpless fall, see LANDING_LAG_ROWS; 0 of an air dodge
    ("ledge_taken", "i4"),                             # side of the ledge that the other holds, 0 neither
    ("stale", "i4", 9),                                # attack ids of the last hits that landed, newest first
])

HIDDEN = np.dtype([("players", HIDDEN_PLAYER, NUM_PLAYERS), ("seed", "u8"), ("reserved", "u8")])
