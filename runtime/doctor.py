"""`pgn-edge doctor`: what this machine has, what it can do, and the pip line for what is missing."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pgn_edge.runtime.probes import Finding, State, ask_module, jetson, machine, nvidia_gpus

OURS = "pgn-edge"
# What each job needs of our extras; a bar stands between two that do equally well.
JOBS = {
    "run, predict, bench": ("cpu|gpu",),
    "run a .plan": ("rtx|tensorrt",),
    "--provider cuda or tensorrt": ("gpu",),
    "a ViT behind Triton": ("cpu|gpu", "triton"),
    "bench --html": ("cpu|gpu", "plots"),
    "answers to an MQTT broker": ("mqtt",),
    "train": ("train",),
    "export, export-vit, import": ("cpu|gpu", "export"),
    "compile": ("compile", "rtx|tensorrt"),
    "inspect an .onnx or a ckpt.pt": ("export",),
    "demo": ("cpu|gpu", "rtx", "train"),
    "work on pgn-edge itself": ("dev",),
}
TWINS = {"onnxruntime": "onnxruntime-gpu", "onnxruntime-gpu": "onnxruntime"}  # two packages that hold one module
# Modules that are called otherwise than their package, of those that a system brings without pip.
MODULES = {"opencv-python": "cv2", "onnxruntime-gpu": "onnxruntime"}
ASKED = ("onnxruntime", "cv2", "tensorrt", "tensorrt_rtx")
REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^\]]*)\])?([^;]*)(?:;.*extra\s*==\s*[\"']([^\"']+))?")
OLDER = re.compile(r"python_version\s*<\s*[\"'](\d+)\.(\d+)[\"']")
MINIMUM = re.compile(r">=\s*([\w.]+)")

Answers = Mapping[str, tuple[dict[str, Any], str]]


@dataclass(frozen=True)
class Job:
    """Something that a user may want to do here.

    Args:
        name: commands, as they are typed.
        blocked_by: packages that are missing or at fault; empty where the machine is ready.
        needs: what to do about them.
    """

    name: str
    blocked_by: tuple[str, ...]
    needs: str

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.blocked_by

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"name": self.name, "ready": self.ready, "blocked_by": list(self.blocked_by), "needs": self.needs}


@dataclass(frozen=True)
class Diagnosis:
    """What was found on this machine.

    Args:
        sections: findings under `machine`, `gpu`, `jetson` (empty elsewhere), `packages`, and `libraries` (what those
            tell of themselves).
        jobs: what can be done here.
    """

    sections: Mapping[str, tuple[Finding, ...]]
    jobs: tuple[Job, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Findings that keep something from working."""
        return tuple(one for section in self.sections.values() for one in section if one.state == "fault")

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "healthy": not self.faults,
            **{name: [finding.to_json() for finding in found] for name, found in self.sections.items()},
            "jobs": [job.to_json() for job in self.jobs],
        }


@dataclass(frozen=True)
class _Package:
    """One line of our requirements; `extra` is empty for what every install has."""

    name: str
    minimum: str
    extra: str


@dataclass(frozen=True)
class _Requirements:
    """All of our requirements; for each extra the packages that it names, and the extras that it includes."""

    packages: tuple[_Package, ...]
    names: Mapping[str, frozenset[str]]
    includes: Mapping[str, frozenset[str]]

    def of(self, extra: str) -> frozenset[str]:
        """Names of the packages that `pgn-edge[extra]` installs."""
        direct = self.names.get("", frozenset()) | self.names.get(extra, frozenset())
        return direct.union(*(self.of(inner) for inner in self.includes.get(extra, ())))


def diagnose(root: Path = Path("/"), nvidia_smi: str = "nvidia-smi") -> Diagnosis:
    """Look at this machine; nothing that is absent, broken or garbage makes it raise.

    Args:
        root: folder that /proc and /etc are looked up in.
        nvidia_smi: name or path of the command.
    """
    with ThreadPoolExecutor() as pool:
        gpus, board = pool.submit(nvidia_gpus, nvidia_smi), pool.submit(jetson, root)
        asked = {name: pool.submit(ask_module, name) for name in ASKED if _has_module(name)}
        answers = {name: future.result() for name, future in asked.items()}
        sections = {"machine": machine(root), "gpu": gpus.result(), "jetson": board.result()}
    requirements = _requirements()
    packages = {package.name: _look(package, answers) for package in requirements.packages}
    jobs = tuple(_job(name, extras, requirements, packages) for name, extras in JOBS.items() if packages)
    if not packages:
        packages[OURS] = Finding(OURS, "fault", "no metadata that says what it needs", _pip([]))
    sections["packages"] = [
        replace(finding, blocks=tuple(job.name for job in jobs if finding.name in job.blocked_by))
        for finding in packages.values()
    ]
    sections["libraries"] = _libraries(answers)
    return Diagnosis({name: tuple(found) for name, found in sections.items()}, jobs)


def _requirements() -> _Requirements:
    """From the installed metadata, so that there is no second list; its markers are extras, and older Pythons."""
    packages: list[_Package] = []
    names: dict[str, frozenset[str]] = {}
    includes: dict[str, frozenset[str]] = {}
    lines = [] if _version(OURS) is None else metadata.requires(OURS) or []
    lines = [line for line in lines if _is_for_this_python(line)]
    for match in filter(None, map(REQUIREMENT.match, lines)):
        name, inner, version, extra = (group or "" for group in match.groups())
        if name == OURS:
            includes[extra] = frozenset(part.strip() for part in inner.split(","))
            continue
        twin = TWINS.get(name)
        if twin is not None and _version(name) is None and _version(twin) is not None:
            name = twin  # it takes this one's place; to install both would break both
        else:
            minimum = MINIMUM.search(version)
            packages.append(_Package(name, minimum[1] if minimum else "", extra))
        names[extra] = names.get(extra, frozenset()) | {name}
    return _Requirements(tuple(packages), names, includes)


def _is_for_this_python(line: str) -> bool:
    older = OLDER.search(line)
    return older is None or sys.version_info[:2] < (int(older[1]), int(older[2]))


def _look(package: _Package, answers: Answers) -> Finding:
    name, version, twin = package.name, _version(package.name), TWINS.get(package.name)
    module = MODULES.get(name, name.replace("-", "_"))
    line = _pip([package.extra])
    if version is None and not _has_module(module):
        return Finding(name, "missing" if package.extra else "fault", "not installed", line)
    if version is not None and twin is not None and _version(twin) is not None:
        mend = f"run: pip uninstall -y {name} {twin}, then install one of them: {line}"
        return Finding(name, "fault", f"{version}, and {twin}, which holds the same module", mend)
    told, reason = answers.get(module, ({}, ""))
    if reason:
        mend = f"install what it asks for, or run: pip install --force-reinstall --no-deps {name}"
        return Finding(name, "fault", f"{version or 'installed'}, but its import fails: {reason}", mend)
    if version is not None and _numbers(version) < _numbers(package.minimum):
        return Finding(name, "fault", f"{version}, older than {package.minimum}", line)
    return Finding(name, "ok", version or f"{told.get('version', 'installed')}, not from pip")


def _job(name: str, extras: Sequence[str], requirements: _Requirements, packages: Mapping[str, Finding]) -> Job:
    def lacking(extra: str) -> list[Finding]:
        return [packages[one] for one in sorted(requirements.of(extra)) if packages[one].state != "ok"]

    chosen = [min(extra.split("|"), key=lambda one: len(lacking(one))) for extra in extras]
    found = {finding.name: finding for extra in chosen for finding in lacking(extra)}
    to_install = [extra for extra in chosen if any(finding.state == "missing" for finding in lacking(extra))]
    steps = [_pip(to_install)] if to_install else []
    steps += [f"mend {finding.name}" for finding in found.values() if finding.state == "fault"]
    return Job(name, tuple(found), "; ".join(steps))


def _libraries(answers: Answers) -> list[Finding]:
    told = {name: answer for name, (answer, _) in answers.items() if answer}
    found = []
    if "onnxruntime" in told:
        found.append(Finding("ONNX Runtime providers", "ok", ", ".join(told["onnxruntime"]["providers"])))
    for name in ("tensorrt", "tensorrt_rtx"):
        if name in told:
            runtime, driver = (told[name][key] or "none" for key in ("cuda_runtime", "cuda_driver"))
            state: State = "missing" if driver == "none" else "ok"
            found.append(Finding(f"CUDA for {name}", state, f"runtime {runtime}, driver {driver}"))
    if "cv2" in told:
        for part in ("FFMPEG", "GStreamer"):
            line = re.search(rf"^\s*{part}:\s*(\S.*?)\s*$", told["cv2"]["build"], re.MULTILINE)
            value = line[1] if line else "NO"
            found.append(Finding(f"OpenCV with {part}", "ok" if value.startswith("YES") else "missing", value))
    return found


def _pip(extras: Sequence[str]) -> str:
    names = ",".join(filter(None, extras))
    return f"pip install '{OURS}[{names}]'" if names else f"pip install {OURS}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package) or "unknown"
    except metadata.PackageNotFoundError:
        return None
    except KeyError:  # metadata without a version, left by a broken install
        return "unknown"


def _has_module(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    # A folder of that name in the working folder would pass as a package without files.
    return spec is not None and spec.origin is not None


def _numbers(version: str) -> list[int]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:  # 2.0 is no older than 2, and no newer
        numbers.pop()
    return numbers
