"""The rooms of CleanMelee: what must merely be right, each named after its subject."""
