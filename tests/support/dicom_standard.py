"""dicom-validator with the standard's tables that highdicom brings.

The validator itself takes the standard from NEMA's site, which tests do not ask. highdicom's tables
of IODs, modules, and attributes with their types are the same standard's; they lack the conditions
of type 1C and 2C and enumerated values, which dciodvfy checks.
"""

from __future__ import annotations

import functools
import json
import logging
from importlib import resources
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import DicomDictionary, tag_for_keyword

_FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def _tag_id(keyword: str) -> str | None:
    tag = tag_for_keyword(keyword)
    return None if tag is None else f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _attribute(entry: dict[str, Any]) -> dict[str, Any]:
    kind, path = entry["type"], entry["path"]
    # A macro stands in one of the two sequences: which one lacks it is no error.
    if len(path) == 1 and path[0] in _FUNCTIONAL_GROUPS:
        kind = "3"
    found: dict[str, Any] = {"name": entry["keyword"], "type": kind}
    if kind.endswith("C"):
        found["cond"] = {"type": "U"}
    return found


def _stated(entries: list[dict[str, Any]], module: str) -> list[dict[str, Any]]:
    """Without what the tables cannot say: a tree of content, whose items are such trees again."""
    if module != "sr-document-content":
        return entries
    return [{**one, "type": "3"} for one in entries if not one["path"]]


def _module(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The attributes by tag, those of sequences within them."""
    tree: dict[str, Any] = {}
    for entry in sorted(entries, key=lambda one: len(one["path"])):
        level: dict[str, Any] | None = tree
        for keyword in entry["path"]:
            holder = level.get(_tag_id(keyword) or "") if level is not None else None
            level = None if holder is None else holder.setdefault("items", {})
        tag = _tag_id(entry["keyword"])
        if level is not None and tag is not None:
            level[tag] = {**_attribute(entry), **level.get(tag, {})}
    return tree


@functools.cache
def _tables() -> tuple[Any, Any, Any]:
    folder = resources.files("highdicom") / "_standard"
    names = ("sop_class_iod_map.json", "iod_module_map.json", "module_attribute_map.json")
    classes, iods, modules = (json.loads((folder / name).read_text()) for name in names)
    return classes, iods, modules


@functools.cache
def _info(sop_class: str) -> Any:
    from dicom_validator.validator.dicom_info import DicomInfo

    classes, iods, modules = _tables()
    used = iods[classes[sop_class]]
    dictionary = {
        f"({tag >> 16:04X},{tag & 0xFFFF:04X})": {"name": name, "vr": vr, "vm": vm}
        for tag, (vr, vm, name, _, _) in DicomDictionary.items()
    }
    iod = {
        "title": classes[sop_class],
        "modules": {
            one["key"]: {"ref": one["key"], "use": one["usage"], "cond": {"type": "U"}}
            for one in used
        },
        "group_macros": {},
    }
    wanted = {one["key"]: _module(_stated(modules.get(one["key"], []), one["key"])) for one in used}
    return DicomInfo(dictionary, {sop_class: iod}, wanted)


def validator_errors(path: Path) -> list[str]:
    """What dicom-validator finds wrong with the file ``path``: one line each."""
    from dicom_validator.validator.iod_validator import IODValidator

    dataset = pydicom.dcmread(path)
    found = IODValidator(
        dataset, _info(str(dataset.SOPClassUID)), log_level=logging.CRITICAL
    ).validate()
    return [
        f"{module}: {tag} {error.code.name}"
        for module, errors in found.module_errors.items()
        for tag, error in errors.items()
    ]
