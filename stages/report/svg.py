"""Makes matplotlib's SVG fit for a page: accessible name, hover texts, ids that cannot clash."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
HREF = f"{{{XLINK}}}href"
URL = re.compile(r"url\(#([^)]+)\)")
DECIMALS = re.compile(r"(\d+\.\d{2})\d+")  # hundredths of a point are below what a screen shows
COORDINATES = ("d", "x", "y", "x1", "x2", "y1", "y2", "points", "width", "height")


def finish(text: str, name: str, title: str, caption: str, hover: Mapping[str, str]) -> str:
    """The SVG `text` with `<title>` and `<desc>`, hover titles, and ids prefixed by `name`.

    Args:
        text: as matplotlib wrote it.
        name: of the figure; several figures stand on one page, so ids must differ.
        hover: matplotlib gid -> text of a `<title>`.
    """
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(text)  # noqa: S314 (our own picture, not foreign XML)
    used = _references(root)
    for element in root.iter():
        gid = element.get("id")
        if gid is not None and gid in hover:
            label = ET.Element(f"{{{SVG}}}title")
            label.text = hover[gid]
            element.insert(0, label)
            element.set("class", "hover")
        if gid is not None and gid not in used:
            del element.attrib["id"]
        elif gid is not None:
            element.set("id", f"{name}-{gid}")
        href = element.get(HREF)
        if href is not None and href.startswith("#"):
            element.set(HREF, f"#{name}-{href[1:]}")
        for key, value in element.attrib.items():
            changed = URL.sub(rf"url(#{name}-\1)", value)
            element.set(key, DECIMALS.sub(r"\1", changed) if key in COORDINATES else changed)
    _describe(root, name, title, caption)
    return ET.tostring(root, encoding="unicode") + "\n"


def _references(root: ET.Element) -> set[str]:
    """Ids that something in the picture points to."""
    found = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == HREF and value.startswith("#"):
                found.add(value[1:])
            found.update(URL.findall(value))
    return found


def _describe(root: ET.Element, name: str, title: str, caption: str) -> None:
    """Names the picture for a screen reader and lets its width follow the page's."""
    metadata = root.find(f"{{{SVG}}}metadata")
    if metadata is not None:
        root.remove(metadata)
    for tag, words in (("desc", caption), ("title", title)):
        label = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        label.text = words
        root.insert(0, label)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
