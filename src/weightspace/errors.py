"""The one exception that means "what was given cannot be used"."""


class InputError(ValueError):
    """Something given by the caller cannot be used.

    Its message is one plain sentence that names what was expected and what was found. The command line
    prints that sentence and ends with exit status 2; every other exception is a bug of ours.
    """
