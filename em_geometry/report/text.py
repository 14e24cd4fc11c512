"""Numbers and foreign text as people read them."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from em_geometry.stats.estimate import Estimate

PAGE = Path(__file__).parent / "page"
MINUS = "\u2212"
NONE = "\u2013"
NO_BREAK = "\u00a0"
# What HTML cannot hold (controls) or UTF-8 cannot (surrogates), and what is shown instead.
VISIBLE = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
    | {0x7F: 0x2421}
    | dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], 0xFFFD)
)


@cache
def words(name: str) -> Any:
    """What a file of words beside the templates says."""
    return yaml.safe_load((PAGE / name).read_text(encoding="utf-8"))


def layout() -> Any:
    """What `page/tables.yaml` says."""
    return words("tables.yaml")


def statistic(key: str) -> str:
    """A statistic's key as words: those of the layout, or the key's own."""
    name = re.sub(r"^statistic\.|_deg$", "", key)
    said: dict[str, str] = layout()["words"]["statistics"]
    for start, text in said.items():
        if name == start or name.startswith(f"{start}."):
            return text.format(name[len(start) + 1 :].replace("__", " and "))
    return re.sub("[._]+", " ", name)


def decimals(value: float, digits: int) -> str:
    """Fixed decimals with a true minus sign, never "-0.00"."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def p_value(value: float | None, digits: int = 3) -> str:
    """A p: `< 0.001` where fixed decimals would make it 0."""
    if value is None:
        return NONE
    least = 10.0**-digits
    return f"< {least:.{digits}f}" if value < least / 2 else decimals(value, digits)


def p_told(value: float | None, digits: int = 3) -> str:
    """A p in a sentence: `p = 0.012`, or `p < 0.001`."""
    text = p_value(value, digits)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def short(value: float | None, digits: int = 3) -> str:
    """About `digits` significant digits, without an exponent for everyday sizes."""
    if value is None:
        return NONE
    if value == int(value) and abs(value) < 10**6:
        return decimals(value, 0)
    text = f"{value:.{digits}g}"
    return (text if "e" in text else f"{float(text):g}").replace("-", MINUS)


def with_interval(measured: Estimate, unit: str = "", digits: int = 1) -> str:
    """`12.5 % [3.1, 30.2]`, or the reason why there is no value."""
    if measured.value is None:
        return measured.status
    text = f"{decimals(measured.value, digits)}{unit}"
    if measured.low is not None and measured.high is not None:
        low, high = decimals(measured.low, digits), decimals(measured.high, digits)
        text += f" [{low},{NO_BREAK}{high}]"
    return text


def joined(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else [*parts])


def visible(value: object) -> object:
    """Strings as HTML can hold them: a model can write anything. Our own mark-up passes."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return value.translate(VISIBLE)
