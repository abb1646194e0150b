"""What pgn-edge and its extras require, from the installed metadata, and whether it is there."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pgn_edge.errors import install_line
from pgn_edge.runtime.probes import Finding

OURS = "pgn-edge"
# Packages that hold the same module: two of them at once overwrite each other's files.
SAME_MODULE = (
    ("onnxruntime", "onnxruntime-gpu"),
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
)
# Modules of another name than their package, of those that a system may bring without pip.
MODULES = {"opencv-python": "cv2", "opencv-python-headless": "cv2", "onnxruntime-gpu": "onnxruntime"}
REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^\]]*)\])?([^;]*)(?:;.*extra\s*==\s*[\"']([^\"']+))?")
PYTHONS = re.compile(r"python_version\s*(<|>=)\s*[\"'](\d+)\.(\d+)[\"']")
MINIMUM = re.compile(r">=\s*([\w.]+)")

Answers = Mapping[str, tuple[dict[str, Any], str]]


@dataclass(frozen=True)
class Package:
    """One required package.

    Args:
        name: Name of the package.
        minimum: Oldest version that is taken; empty for any.
        extra: Extra that requires it; empty for the core.
    """

    name: str
    minimum: str
    extra: str


@dataclass(frozen=True)
class Requirements:
    """All requirements.

    Args:
        packages: Packages of the core and of every extra.
        names: Names of the packages that each extra lists.
        includes: Extras that each extra includes.
    """

    packages: tuple[Package, ...]
    names: Mapping[str, frozenset[str]]
    includes: Mapping[str, frozenset[str]]

    def of(self, extra: str) -> frozenset[str]:
        """Names of the packages that `pgn-edge[extra]` installs."""
        direct = self.names.get("", frozenset()) | self.names.get(extra, frozenset())
        return direct.union(*(self.of(inner) for inner in self.includes.get(extra, ())))


def read_requirements() -> Requirements:
    """Requirements of the installed pgn-edge, for this Python; none where it has no metadata."""
    packages: dict[str, Package] = {}
    stand_ins: dict[str, Package] = {}
    names: dict[str, frozenset[str]] = {}
    includes: dict[str, frozenset[str]] = {}
    lines = [] if version_of(OURS) is None else metadata.requires(OURS) or []
    lines = [line for line in lines if _is_for_this_python(line)]
    for match in filter(None, map(REQUIREMENT.match, lines)):
        name, inner, version, extra = (group or "" for group in match.groups())
        if name == OURS:
            inner_extras = frozenset(part.strip() for part in inner.split(","))
            includes[extra] = includes.get(extra, frozenset()) | inner_extras
            continue
        minimum = MINIMUM.search(version)
        package = Package(name, minimum[1] if minimum else "", extra)
        others = installed_twins(name)
        if others and version_of(name) is None:
            # The one that is installed takes this one's place: to install both would break both.
            package = Package(others[0], package.minimum, extra)
            stand_ins.setdefault(package.name, package)
        else:
            packages[name] = package
        names[extra] = names.get(extra, frozenset()) | {package.name}
    return Requirements(tuple((stand_ins | packages).values()), names, includes)


def look_up(package: Package, answers: Answers) -> Finding:
    """Whether a package is installed, new enough, alone with its module, and imports.

    Args:
        package: Package to look for.
        answers: What modules told of themselves when they were imported, by module, and why they failed.
    """
    name, version = package.name, version_of(package.name)
    twins = installed_twins(name)
    module = MODULES.get(name, name.replace("-", "_"))
    line = install_line(package.extra)
    if version is None and not has_module(module):
        return Finding(name, "missing" if package.extra else "fault", "not installed", line)
    if version is not None and twins:
        remedy = f"run: pip uninstall -y {' '.join((name, *twins))}, then install one of them: {line}"
        return Finding(name, "fault", f"{version}, and {', '.join(twins)}, which holds the same module", remedy)
    told, reason = answers.get(module, ({}, ""))
    if reason:
        remedy = f"install what it asks for, or run: pip install --force-reinstall --no-deps {name}"
        return Finding(name, "fault", f"{version or 'installed'}, but its import fails: {reason}", remedy)
    if version is not None and _numbers(version) < _numbers(package.minimum):
        return Finding(name, "fault", f"{version}, older than {package.minimum}", line)
    return Finding(name, "ok", version or f"{told.get('version', 'installed')}, not from pip")


def installed_twins(package: str) -> list[str]:
    """Installed packages that hold the same module as this one."""
    groups: Sequence[Sequence[str]] = [group for group in SAME_MODULE if package in group]
    return [name for group in groups for name in group if name != package and version_of(name) is not None]


def version_of(package: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return metadata.version(package) or "unknown"
    except metadata.PackageNotFoundError:
        return None
    except KeyError:  # metadata without a version, left by a broken install
        return "unknown"


def has_module(name: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    # A folder of that name in the working folder would pass as a package without files.
    return spec is not None and spec.origin is not None


def _is_for_this_python(line: str) -> bool:
    bounds = [(sign, (int(major), int(minor))) for sign, major, minor in PYTHONS.findall(line)]
    return all((sys.version_info[:2] < bound) == (sign == "<") for sign, bound in bounds)


def _numbers(version: str) -> list[int]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:  # 2.0 is no older than 2, and no newer
        numbers.pop()
    return numbers
