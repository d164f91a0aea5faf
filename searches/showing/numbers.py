"""Numbers of metrics as a person reads them: each metric has its own number of digits behind the point."""


def number(value: float | None, digits: int) -> str:
    """A metric's value; nothing where there is none."""
    return "" if value is None else f"{value:,.{digits}f}"


def with_interval(value: float, low: float | None, high: float | None, digits: int, sign: str = "") -> str:
    """A value and its interval, where it has one; `sign` is "+" for differences."""
    ends = "" if low is None or high is None else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return f"{value:{sign}.{digits}f}{ends}"


def p_text(p: float) -> str:
    """A p-value, which is never 0."""
    return f"{p:.3f}" if p >= 0.001 else "below 0.001"


def words(name: str) -> str:
    """A metric's or a key's name in words."""
    return name.replace("_", " ")


def percent(share: float) -> str:
    """A share, such as 95% or 98.3%."""
    return f"{100 * share:.3g}%"
