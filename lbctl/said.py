"""What others said, fit for a terminal and a log: on one line, and no command to either."""

MOST = 200  # characters of what a person, a server, an agent or a script said


def printable(text: str) -> str:
    """`text` with what a terminal would not show, or would obey, escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def plain(text: str, most: int = MOST) -> str:
    """The same, and at most `most` characters."""
    return printable(text[:most])[:most]


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
