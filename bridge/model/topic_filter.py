"""Topic filters: whether one is well-formed, what it matches, which one contains another.

MQTT 5.0, section 4.7. A topic or filter in, an answer out. Pure text; imports nothing of ours.
"""

from __future__ import annotations

MAX_BYTES = 65_535  # MQTT-4.7.3-3


def problem(text: str) -> str | None:
    """Why `text` is no topic filter, or None where it is one."""
    levels = text.split("/")
    if not text or "\0" in text or len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        return "a topic filter has 1 to 65535 bytes and no NUL"
    if levels[0] == "$share":
        return "leave the $share/… off: what is subscribed to, and how, is decided elsewhere"
    if "#" in levels[:-1] or any("#" in level and level != "#" for level in levels):
        return "# stands alone, as the last level"
    if any("+" in level and level != "+" for level in levels):
        return "+ stands for a whole level: a/+/b"
    return None


def match(levels: tuple[str, ...], topic: list[str]) -> tuple[str, ...] | None:
    """The levels of `topic` that the filter's wildcards stand for; None where it does not match."""
    if topic[0].startswith("$") and levels[0] in ("+", "#"):  # MQTT-4.7.2-1
        return None
    found: list[str] = []
    for index, level in enumerate(levels):
        if level == "#":
            return (*found, *topic[index:])
        if index == len(topic):
            return None
        if level == "+":
            found.append(topic[index])
        elif level != topic[index]:
            return None
    return tuple(found) if len(levels) == len(topic) else None


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that `narrow` matches is matched by `wide`."""
    inner = narrow.split("/")
    for index, level in enumerate(wide.split("/")):
        if level == "#":
            return True
        if index == len(inner) or inner[index] == "#" or level not in ("+", inner[index]):
            return False
    return len(wide.split("/")) == len(inner)
