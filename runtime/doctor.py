"""`pgn-edge doctor`: what this machine has, what it can do, and the pip line for what is missing.

A job is ready only after its libraries were imported and what it runs on was opened: packages alone prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pgn_edge.errors import install_line
from pgn_edge.runtime.probes import Finding, State, ask_driver, ask_module, jetson, machine, nvidia_gpus
from pgn_edge.runtime.requirements import OURS, Answers, Requirements, has_module, look_up, read_requirements

DRIVER = "NVIDIA driver"
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
TRAIN_CUDA = "torch on a GPU"
ASKED = ("onnxruntime", "cv2", "tensorrt", "tensorrt_rtx", "torch")


@dataclass(frozen=True)
class Needs:
    """What a job needs.

    Args:
        extras: Extras of pgn-edge; a bar stands between two that do equally well.
        checks: Names of findings that must be `ok`: what was opened, and not only installed.
    """

    extras: tuple[str, ...]
    checks: tuple[str, ...] = ()


JOBS = {
    "run and predict on images": Needs(("cli", "cpu|gpu"), (CPU,)),
    "run on videos and cameras, --output, --web, bench": Needs(("cli", "cpu|gpu", "cv"), (CPU,)),
    "run a .plan": Needs(("cli", "rtx|tensorrt"), (DRIVER,)),
    "--provider cuda": Needs(("cli", "gpu"), (DRIVER, CUDA)),
    "--provider tensorrt": Needs(("cli", "gpu"), (DRIVER, TENSORRT)),
    "a ViT behind Triton": Needs(("cli", "cpu|gpu", "triton"), (CPU,)),
    "bench --html": Needs(("cli", "cpu|gpu", "cv", "plots"), (CPU,)),
    "answers to an MQTT broker": Needs(("cli", "mqtt")),
    "train": Needs(("train",)),
    "train on an NVIDIA GPU": Needs(("train",), (DRIVER, TRAIN_CUDA)),
    "export, export-vit, import": Needs(("cpu|gpu", "export"), (CPU,)),
    "compile with TensorRT-RTX": Needs(("compile", "rtx")),
    "compile with TensorRT": Needs(("compile", "tensorrt"), (DRIVER,)),
    "inspect an .onnx": Needs(("compile",)),
    "inspect a ckpt.pt": Needs(("export",)),
    "demo": Needs(("demo",), (CPU,)),
    "work on pgn-edge itself": Needs(("dev",), (CPU,)),
}


@dataclass(frozen=True)
class Job:
    """Something that a user may want to do here.

    Args:
        name: commands, as they are typed.
        blocked_by: packages that are missing or at fault, and what does not open; empty where the machine is ready.
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
            tell of themselves, and what they opened).
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


def diagnose(root: Path = Path("/"), nvidia_smi: str = "nvidia-smi") -> Diagnosis:
    """Look at this machine; nothing that is absent, broken or garbage makes it raise.

    Args:
        root: folder that /proc and /etc are looked up in.
        nvidia_smi: name or path of the command.
    """
    with ThreadPoolExecutor() as pool:
        gpus, board, driver = pool.submit(nvidia_gpus, nvidia_smi), pool.submit(jetson, root), pool.submit(ask_driver)
        asked = {name: pool.submit(ask_module, name) for name in ASKED if has_module(name)}
        answers = {name: future.result() for name, future in asked.items()}
        sections = {
            "machine": machine(root),
            "gpu": [*gpus.result(), replace(driver.result(), name=DRIVER)],
            "jetson": board.result(),
        }
    requirements = read_requirements()
    packages = {package.name: look_up(package, answers) for package in requirements.packages}
    libraries = _libraries(answers, has_gpu=driver.result().state == "ok")
    checks = {finding.name: finding for finding in [*sections["gpu"], *libraries]}
    jobs = tuple(_job(name, needs, requirements, packages, checks) for name, needs in JOBS.items() if packages)
    if not packages:
        packages[OURS] = Finding(OURS, "fault", "no metadata that says what it needs", install_line())
    sections["packages"], sections["libraries"] = list(packages.values()), libraries
    return Diagnosis({name: _with_blocks(found, jobs) for name, found in sections.items()}, jobs)


def _with_blocks(findings: Sequence[Finding], jobs: Sequence[Job]) -> tuple[Finding, ...]:
    return tuple(
        replace(finding, blocks=tuple(job.name for job in jobs if finding.name in job.blocked_by))
        for finding in findings
    )


def _job(
    name: str,
    needs: Needs,
    requirements: Requirements,
    packages: Mapping[str, Finding],
    checks: Mapping[str, Finding],
) -> Job:
    def lacking(extra: str) -> list[Finding]:
        return [packages[one] for one in sorted(requirements.of(extra)) if packages[one].state != "ok"]

    chosen = [min(extra.split("|"), key=lambda one: len(lacking(one))) for extra in needs.extras]
    found = {finding.name: finding for extra in chosen for finding in lacking(extra)}
    to_install = [extra for extra in chosen if any(finding.state == "missing" for finding in lacking(extra))]
    steps = [install_line(*to_install)] if to_install else []
    steps += [f"repair {finding.name}" for finding in found.values() if finding.state == "fault"]
    closed = [checks[check] for check in needs.checks if check in checks and checks[check].state != "ok"]
    if any(finding.name == DRIVER for finding in closed):
        closed = [finding for finding in closed if finding.name == DRIVER]  # the others follow from it
    steps += [f"{finding.name}: {finding.value}" for finding in closed]
    return Job(name, (*found, *(finding.name for finding in closed)), "; ".join(steps))


def _libraries(answers: Answers, has_gpu: bool) -> list[Finding]:
    told = {name: answer for name, (answer, _) in answers.items() if answer}
    # What is installed and cannot open its device is at fault only where there is such a device.
    closed: State = "fault" if has_gpu else "missing"
    found = []
    if "onnxruntime" in told:
        found += _providers(told["onnxruntime"], closed)
    for name in ("tensorrt", "tensorrt_rtx"):
        if name in told:
            runtime, driver = (told[name][key] or "none" for key in ("cuda_runtime", "cuda_driver"))
            state: State = "missing" if driver == "none" else "ok"
            found.append(Finding(f"CUDA for {name}", state, f"runtime {runtime}, driver {driver}"))
    if "torch" in told:
        cuda = told["torch"]["cuda"]
        remedy = "install a torch built for CUDA, see: pytorch.org" if has_gpu else ""
        found.append(Finding(TRAIN_CUDA, "ok" if not cuda else closed, cuda or "opens", remedy if cuda else ""))
        torchvision = told["torch"]["torchvision"]
        if torchvision:
            remedy = "install the torchvision that belongs to this torch"
            found.append(Finding("torchvision", "fault", torchvision, remedy))
    if "cv2" in told:
        for part in ("FFMPEG", "GStreamer"):
            line = re.search(rf"^\s*{part}:\s*(\S.*?)\s*$", told["cv2"]["build"], re.MULTILINE)
            value = line[1] if line else "NO"
            found.append(Finding(f"OpenCV with {part}", "ok" if value.startswith("YES") else "missing", value))
    return found


def _providers(told: Mapping[str, Any], closed: State) -> list[Finding]:
    """ONNX Runtime's providers: those that it lists, and for each of ours whether a session opens on it."""
    found = [Finding("ONNX Runtime providers", "ok", ", ".join(told["providers"]))]
    for name in (CPU, CUDA, TENSORRT):
        if name not in told["opens"]:
            remedy = "replace it: pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"
            found.append(Finding(name, "missing", "not in this build of ONNX Runtime", remedy))
    for name, reason in told["opens"].items():
        state: State = "ok" if not reason else "fault" if name == CPU else closed
        remedy = "install its libraries and the driver that it asks for" if reason else ""
        found.append(Finding(name, state, reason or "opens", remedy))
    return found
