"""Numbers as people read them: percent, points, bytes and seconds, with a true minus sign."""

from collections.abc import Sequence

from dsn.evaluation.statistics import Estimate

from .measures import Unit

MISSING = "–"
PLUS_MINUS = "\u00a0±\u00a0"
MINUTE, HOUR = 60.0, 3600.0


def shown(value: float | None, unit: Unit) -> str:
    """``value`` in its unit; a dash where it is None."""
    if value is None:
        return MISSING
    match unit:
        case "percent" | "points":
            return _minus(f"{value:.2f}")
        case "bytes":
            return shown_bytes(value)
        case "seconds":
            return shown_seconds(value)
        case "count":
            return shown_bytes(value).removesuffix("B").replace("k", "K").strip()


def shown_estimate(estimate: Estimate | None, unit: Unit) -> str:
    """Mean ± half the interval."""
    if estimate is None:
        return MISSING
    if estimate.high is None:
        return shown(estimate.mean, unit)
    half = estimate.high - estimate.mean
    if unit in ("percent", "points"):
        return f"{shown(estimate.mean, unit)}{PLUS_MINUS}{half:.2f}"
    return shown(estimate.mean, unit) + (PLUS_MINUS + shown(half, unit) if half > 0 else "")


def shown_bytes(value: float) -> str:
    """``1.5 kB``: powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError


def shown_seconds(value: float) -> str:
    """``3 ms``, ``0.84 s``, ``12 s``, ``3.5 min``, ``2.1 h``."""
    if value < 0.1:
        return f"{1000 * value:.0f} ms"
    if value < MINUTE:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / MINUTE:.1f} min" if value < HOUR else f"{value / HOUR:.1f} h"


def signed(value: float) -> str:
    """``+0.12`` or ``−0.12``; ``0.00`` without a sign."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else _minus(text)


def counted(number: int, word: str) -> str:
    """``1 task``, ``5 tasks``."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def often(number: int) -> str:
    """``never``, ``once``, ``5 times``."""
    return {0: "never", 1: "once"}.get(number, f"{number} times")


def tried_and_accepted(outcomes: Sequence[bool]) -> str:
    """``tried 9 times, never accepted``; ``outcomes``: whether each attempt was accepted."""
    accepted = sum(outcomes)
    return f"tried {often(len(outcomes))}, " + (
        "never accepted" if not accepted else f"accepted {often(accepted)}"
    )


def listed(words: list[str]) -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _minus(text: str) -> str:
    return "0.00" if float(text) == 0 else text.replace("-", "−")
