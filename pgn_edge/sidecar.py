"""`vit.plan.json`: what is known of a compiled plan, kept beside it. Nothing is ever prepended to the plan itself."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pgn_edge.backends import known_architectures, load_backend
from pgn_edge.contract import EngineFacts
from pgn_edge.documents import parse_json
from pgn_edge.errors import EngineError, GeometryError, OutputError, PgnEdgeError
from pgn_edge.files import atomic_write, write_text
from pgn_edge.fingerprint import sha256_file
from pgn_edge.geometry import Geometry
from pgn_edge.gpu import require_architectures
from pgn_edge.schemas import SidecarJson, conform

FORMAT = "pgn-edge plan"
SCHEMA = 1
SIZE_LIMIT = 1 << 20
COMPILE_AGAIN = "compile it again: pgn-edge compile vit.onnx"
# Source: TensorRT-RTX's documentation of compute capabilities. A plan for Turing is built for nothing else.
NOT_BY_DEFAULT = {"sm_75"}


@dataclass(frozen=True)
class Sidecar:
    """Facts of a plan.

    Args:
        plan_sha256: of the plan's bytes.
        onnx_sha256: of the graph that it was compiled from.
        backend: `tensorrt` or `tensorrt-rtx`.
        backend_version: that compiled it.
        targets: GPU architectures, for example `("sm_86",)`; empty for the default set of TensorRT-RTX.
        batch: smallest, best and largest batch.
        facts: of the engine, as in the ONNX.
        version_compatible: whether later releases of the same major version load it; else only its own does.
        source: name of the file that it was compiled from, without its folder.
        options: of the command that compiled it, beyond backend and targets.
    """

    plan_sha256: str
    onnx_sha256: str
    backend: str
    backend_version: str
    targets: tuple[str, ...]
    batch: tuple[int, int, int]
    facts: EngineFacts
    version_compatible: bool = False
    source: str = ""
    options: tuple[str, ...] = ()

    def rebuild(self, plan: str | Path, targets: Sequence[str] | None = None) -> str:
        """The command that compiles it again, quoted for a shell.

        Args:
            plan: where to.
            targets: in place of its own.
        """
        source = self.source or ("task.pgn" if self.facts.role == "pgn" else "vit.onnx")
        chosen = self.targets if targets is None else targets
        named = [word for target in chosen for word in ("--target", target)] if self.backend != "tensorrt" else []
        return shlex.join(
            ["pgn-edge", "compile", source, "--backend", self.backend, *named, *self.options, "-o", str(plan)]
        )


def sidecar_path(plan: str | Path) -> Path:
    """`vit.plan` -> `vit.plan.json`."""
    return Path(f"{plan}.json")


def next_sidecar_path(plan: str | Path) -> Path:
    """`vit.plan` -> `vit.plan.next.json`, the sidecar of a plan that is about to be replaced."""
    return Path(f"{plan}.next.json")


def write_sidecar(plan: str | Path, sidecar: Sidecar) -> None:
    """Write the sidecar of `plan` whole or not at all.

    Raises:
        OutputError: the path cannot be written.
    """
    write_text(sidecar_path(plan), _text(sidecar))


@dataclass
class PlanDraft:
    """A plan that is being written.

    Args:
        path: Path of an empty temporary file for the plan's bytes.
        sidecar: Sidecar of the plan; to be set before the draft ends.
    """

    path: Path
    sidecar: Sidecar | None = None


@contextmanager
def atomic_plan(plan: str | Path) -> Iterator[PlanDraft]:
    """Replace a plan and its sidecar as one pair.

    The new sidecar is written as `vit.plan.next.json`, then the plan gets its name, then the sidecar gets its name.
    `read_sidecar` takes the one of the two sidecars that has the plan's sha256, so a kill at any point leaves the old
    pair or the new one.

    Args:
        plan: Final name of the plan.

    Yields:
        The draft; its sidecar must be set.

    Raises:
        OutputError: the path cannot be written.
    """
    with atomic_write(plan) as temporary:
        draft = PlanDraft(temporary)
        yield draft
        assert draft.sidecar is not None
        write_text(next_sidecar_path(plan), _text(draft.sidecar))
    settled = sidecar_path(plan)
    try:
        next_sidecar_path(plan).replace(settled)
    except OSError as exc:
        got = exc.strerror or str(exc)
        raise OutputError(str(settled), expected="a file that can be written", got=got, do="check the folder") from exc


def _text(sidecar: Sidecar) -> str:
    data = {"format": FORMAT, "schema": SCHEMA, **asdict(sidecar), "facts": sidecar.facts.to_json()}
    return json.dumps(data, indent=2) + "\n"


def read_sidecar(plan: str | Path, data: bytes | None = None) -> Sidecar:
    """Read the sidecar of `plan`, and verify the plan's sha256 before anyone parses a byte of it.

    A plan is code that the driver will run, so one without a matching sidecar is refused.

    Args:
        plan: its path.
        data: its bytes, where the caller has read them to use them; then those are verified, and the file is not read.

    Raises:
        EngineError: plan or sidecar is missing, unreadable, or they do not belong together.
    """
    try:
        digest = sha256_file(plan) if data is None else hashlib.sha256(data).hexdigest()
    except OSError as exc:
        raise _no_pair(plan, exc) from exc
    # A writer that was killed, or is at work, leaves the plan's sidecar under the next name; see `atomic_plan`.
    for path in (sidecar_path(plan), next_sidecar_path(plan)):
        with suppress(PgnEdgeError):
            sidecar = _read(plan, path)
            if sidecar.plan_sha256 == digest:
                return sidecar
    sidecar = _read(plan, sidecar_path(plan))  # again: the next one may have got its name a moment ago
    if digest != sidecar.plan_sha256:
        raise _refuse(plan, f"sha256 {sidecar.plan_sha256}", digest, sidecar.rebuild(plan))
    return sidecar


def _read(plan: str | Path, path: Path) -> Sidecar:
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise _refuse(path, f"at most {SIZE_LIMIT} bytes", f"{path.stat().st_size}")
        facts: Mapping[str, Any] = parse_json(path.read_bytes(), str(path), EngineError, COMPILE_AGAIN)
        if facts.get("format") != FORMAT or facts.get("schema") != SCHEMA:
            raise _refuse(path, f"{FORMAT!r} of schema {SCHEMA}", f"{facts.get('format')!r} {facts.get('schema')!r}")
        return _parse(facts, str(path))
    except GeometryError as exc:
        raise _refuse(path, "a readable sidecar", str(exc)) from exc
    except PgnEdgeError:
        raise
    except OSError as exc:
        raise _no_pair(plan, exc) from exc
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as exc:
        raise _refuse(path, "a readable sidecar", f"{type(exc).__name__}: {exc}") from exc


def _no_pair(plan: str | Path, reason: OSError) -> EngineError:
    return _refuse(plan, "a plan with its sidecar beside it", f"{reason.strerror}: {reason.filename}")


def verify_plan(
    plan: str | Path,
    *,
    data: bytes | None = None,
    fingerprint: str | None = None,
    geometry: Geometry | None = None,
) -> Sidecar:
    """Everything that can be known of a plan before a byte of it is parsed: it is whole, and this machine can run it.

    Args:
        plan: its path; the sidecar is beside it.
        data: its bytes, as in `read_sidecar`.
        fingerprint: of the ViT that it must be, or be for.
        geometry: of the canvas that it must have.

    Returns:
        Its sidecar.

    Raises:
        EngineError: what `read_sidecar` refuses; another version of the backend; no GPU, or none that the plan is for;
            another fingerprint or geometry.
        MissingExtraError: the backend is not installed.
    """
    sidecar = read_sidecar(plan, data)
    module = load_backend(sidecar.backend)
    _check_version(plan, sidecar, str(module.__version__))
    default = (name for name in known_architectures(module) if name not in NOT_BY_DEFAULT)
    _check_architecture(plan, sidecar, sidecar.targets or tuple(default))
    wanted = {"ViT fingerprint": (fingerprint, sidecar.facts.fingerprint), "canvas": (geometry, sidecar.facts.geometry)}
    for what, (asked, found) in wanted.items():
        if asked is not None and asked != found:
            raise _refuse(f"{plan}: {what}", str(asked), str(found), sidecar.rebuild(plan))
    return sidecar


def _check_version(plan: str | Path, sidecar: Sidecar, installed: str) -> None:
    built = sidecar.backend_version
    if installed == built:
        return
    expected = f"{sidecar.backend} {built}, which compiled it"
    if sidecar.version_compatible:
        here, there = (_numbers(version) for version in (installed, built))
        if here[:1] == there[:1] and here >= there:
            return
        expected = f"{sidecar.backend} {built} or a later release of the same major version"
    raise _refuse(plan, expected, f"{installed} on this machine", sidecar.rebuild(plan))


def _check_architecture(plan: str | Path, sidecar: Sidecar, targets: Sequence[str]) -> None:
    here = require_architectures(str(plan), "install the driver, or use the .onnx that it was compiled from")
    if not {*here} & {*targets}:
        raise _refuse(plan, f"a GPU of {' or '.join(targets)}", ", ".join(here), sidecar.rebuild(plan, here))


def _parse(data: Mapping[str, Any], source: str) -> Sidecar:
    found = conform(data, SidecarJson)
    return Sidecar(
        plan_sha256=found.plan_sha256,
        onnx_sha256=found.onnx_sha256,
        backend=found.backend,
        backend_version=found.backend_version,
        targets=found.targets,
        batch=found.batch,
        facts=EngineFacts.from_json(found.facts, source),
        version_compatible=found.version_compatible,
        source=found.source,
        options=found.options,
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _refuse(path: str | Path, expected: str, got: str, command: str = "pgn-edge compile vit.onnx") -> EngineError:
    return EngineError(str(path), expected=expected, got=got, do=f"compile it again: {command}")
