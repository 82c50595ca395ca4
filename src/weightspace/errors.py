"""The one exception that means "what was given cannot be used"."""

# Beyond any use, and what a slip of the finger asks for: numbers of one row, and things that are counted.
WIDEST, MOST = 65_536, 1_000_000


class InputError(ValueError):
    """Something given by the caller cannot be used.

    Its message is one plain sentence that names what was expected and what was found. The command line
    prints that sentence and ends with exit status 2; every other exception is a bug of ours.

    Examples:
        >>> try:
        ...     Zoo.open("nowhere")
        ... except InputError as error:
        ...     print(str(error).startswith("expected"))
        True
    """


def require_between(name: str, value: float | int, low: float | int, high: float | int = float("inf")) -> None:
    """Raise `InputError` unless `low <= value <= high` (NaN never is)."""
    if not low <= value <= high or value == float("inf"):
        # A limit that is there for slips of the finger is of no use to who is below the other.
        one_sided = high == float("inf") or (high >= WIDEST and value < low)
        limits = f"at least {low:g}" if one_sided else f"between {low:g} and {high:.8g}"
        raise InputError(f"expected {name} to be {limits}, found {value:g}")
