"""Showing a value that nobody vouches for, in an error message: short, and without failing itself."""


def shown(value: object, length: int = 80) -> str:
    """The start of a value's `repr`; its kind where even that cannot be made (a huge integer, data nested without end)."""
    try:
        text = repr(value[:length] if isinstance(value, str | bytes) else value)
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}..."
