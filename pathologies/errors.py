"""The one class of error that a user can mend: bad input, told in a sentence (what, got, allowed, next step).

Raised by every package, shown by the command line without a traceback (exit code 2). Any other exception, a bare
ValueError among them, is a defect of ours and keeps its traceback.
"""


class InputError(ValueError):
    """What was given cannot be used as it is. The message is a sentence for whoever gave it."""
