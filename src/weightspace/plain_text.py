"""Names and values that come from files, as text: nothing in them is obeyed by a terminal, a page or a card."""

import re
import unicodedata

LONGEST_NAME, LONGEST_CELL, LONGEST_WORD = 200, 60, 500
# What joins letters in several scripts, and people and trades in pictures.
JOINERS = "\u200c\u200d"
CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")
# An underscore within a word is one.
MARKDOWN = re.compile(r"([\\`*{}\[\]#|!~$]|(?<![^\W_])_|_(?![^\W_]))")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# What GitHub makes a link of without being asked.
LINKS = re.compile(r"://|www\.|@", re.IGNORECASE)


def one_line(value: object, most: int = LONGEST_NAME) -> str:
    r"""A name or value on one line: control characters as escapes, long ones shortened with their length.

    Examples:
        >>> one_line("a\nb\x1b[31m")
        'a\\nb\\x1b[31m'
        >>> one_line("x" * 5000, 3)
        'xxx… (5,000 characters)'
    """
    text = str(value)
    shown = text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
    return shown if shown.isascii() and shown.isprintable() else "".join(map(_visible, shown))


def one_sentence(text: str) -> str:
    """A line with its spaces as they are; very long words, as names may be, are shortened with their length."""
    return re.sub(r"[^ ]+", lambda word: one_line(word[0], LONGEST_WORD), text)


def markdown_cell(value: object, most: int = LONGEST_CELL) -> str:
    r"""A name or value for a table or a line of Markdown, where it shows as it is.

    Examples:
        >>> markdown_cell("a|b <i> [c](d)")
        'a\\|b &lt;i&gt; \\[c\\](d)'
    """
    text = MARKDOWN.sub(r"\\\1", " ".join(one_line(value, most).split()))
    for character, entity in ENTITIES.items():
        text = text.replace(character, entity)
    return LINKS.sub(lambda match: "".join(f"&#{ord(sign)};" if sign in ":.@" else sign for sign in match[0]), text)


def figure_text(value: object, most: int = LONGEST_CELL) -> str:
    r"""A name or value for a figure: no formula, and not left out of legends, as what begins with `_` is.

    Examples:
        >>> figure_text("_a$x$")
        ' _a\\$x\\$'
    """
    text = one_line(value, most).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _visible(character: str) -> str:
    if character in JOINERS or unicodedata.category(character) not in CONTROL:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()
