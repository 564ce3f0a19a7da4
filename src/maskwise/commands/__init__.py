"""The commands, one module a verb: a dataclass of flags and what it does."""
