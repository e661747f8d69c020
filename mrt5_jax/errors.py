"""The exceptions that the command line answers in one line: a user's mistake, and a run that was asked to stop."""


class UserError(Exception):
    """Something the user gave cannot be used. The message is one line: the thing, the place, and what would be right.

    The command line prints the message alone and exits with 2; a traceback means a bug of ours.

    Examples:
        >>> mrt5_jax.load("nowhere")
        Traceback (most recent call last):
        mrt5_jax.errors.UserError: nowhere/model_config.json is not there, nothing has that name: give a MODEL_DIR...
    """


class InUseError(UserError):
    """Another process writes where this one was to write."""


PREEMPTED_EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: not done, try again. A launcher restarts on it, and on nothing else."""


class Preempted(Exception):  # noqa: N818 - the run is well
    """The run has saved its state, because it was asked to stop; the command line exits with PREEMPTED_EXIT_CODE.

    The message is one line: where the run stands and how to go on.
    """


class HookError(Exception):
    """A hook that a user gave to `train` has raised; what it raised is the cause of this.

    The message is one line: the hook, what it raised and when, and where the run is saved.
    """
