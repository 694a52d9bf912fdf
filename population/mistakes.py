"""The base of every user's mistake, in any package: one full sentence that names the value, the rule and the remedy."""


class Mistake(Exception):
    """A user's mistake: one full sentence. The command line prints it and ends with exit code 2."""
