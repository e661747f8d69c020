"""The one exception that users cause."""


class UserError(Exception):
    """Something the user gave cannot be used. The message is one line: the thing, the place, and what would be right.

    The command line prints the message alone and exits with 2; a traceback means a bug of ours.
    """
