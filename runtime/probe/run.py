"""One probe from the first call to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from pgn_edge.contract import PREFIX, EngineFacts
from pgn_edge.errors import EngineError
from pgn_edge.progress import Progress, silent
from pgn_edge.runtime.engines import EngineOptions, open_engine
from pgn_edge.runtime.engines.facts_file import write_facts_file
from pgn_edge.runtime.engines.service_config import read_service
from pgn_edge.runtime.probe.engine import EngineSubject
from pgn_edge.runtime.probe.facts import disagreements
from pgn_edge.runtime.probe.interview import AnySubject, Interview, interview
from pgn_edge.runtime.probe.known import Known, golden_pair, reference_answers
from pgn_edge.runtime.probe.proof import proven_facts, proven_tensors
from pgn_edge.runtime.probe.report import Report
from pgn_edge.runtime.probe.service import ServiceSubject
from pgn_edge.runtime.probe.settings import Probed, Settings, settings
from pgn_edge.runtime.probe.subject import MOST_CALLS

QUIET_S = 2.0  # of a probe that ends within, nobody hears


@dataclass(frozen=True)
class ProbeOptions:
    """How to probe.

    Args:
        task: Bundle whose golden pair is known to be right; None for the one that a service's config names.
        reference: Stock engine, exported by pgn-edge, of the backbone that it may be.
        size_hw: Size (H, W) to try first where the size is free; None for that of `task` and `reference`.
        most_calls: Number of runs or requests, after which no question is asked any more.
        seed: Seed of the test pictures.
        engine: Options with which engines are opened.
        output: Name of the engine's output that holds the embedding; empty to look for it.
        facts_file: Path to write the facts of a foreign engine to, see `read_facts_file`; None to write none.
    """

    task: str | Path | None = None
    reference: str | Path | None = None
    size_hw: tuple[int, int] | None = None
    most_calls: int = MOST_CALLS
    seed: int = 0
    engine: EngineOptions = field(default_factory=EngineOptions)
    output: str = ""
    facts_file: str | Path | None = None


def run_probe(engine: str | Path, options: ProbeOptions = ProbeOptions(), progress: Progress = silent) -> Report:
    """Find out what an engine takes, from its inputs and outputs alone.

    Args:
        engine: an .onnx or .plan file, the address of a served model, or the .toml of an embedding service.
        options: what is known, and how far to go.
        progress: told of each question, once two seconds have gone by.

    Raises:
        EngineError: it cannot be opened, takes no picture, or does not answer.
        BundleError: the task is damaged.
        OutputError: the facts file cannot be written.
    """
    known = _known(engine, options)
    likely = [*filter(None, [options.size_hw]), *(one.size_hw for one in known)]
    with closing(_open(engine, likely, known, options)) as subject:
        told = interview(subject, known, options.seed, _delayed(progress))
        metadata = subject.metadata if isinstance(subject, EngineSubject) else {}
        facts = _facts(metadata, subject.name)
    trials = told.compared.trials
    best = trials[0].units if trials else None
    probed = Probed(
        engine=str(engine),
        service=isinstance(subject, ServiceSubject),
        eight_bit=subject.eight_bit,
        facts=facts,
        best=best,
        known=told.compared.known,
    )
    advice = settings(told.findings, probed)
    refusal = None
    if options.facts_file is not None:
        refusal = _write_facts(options.facts_file, subject, told, advice)
    return Report(
        engine=str(engine),
        device=subject.device,
        calls=subject.calls,
        findings=told.findings,
        disagreements=() if facts is None else disagreements(told.findings, facts, best),
        settings=advice,
        refusal=refusal,
    )


def _write_facts(path: str | Path, subject: AnySubject, told: Interview, advice: Settings) -> EngineError | None:
    """Write the facts that were proven, or give the reason why there are none."""
    if not isinstance(subject, EngineSubject):
        do = "name its bundle in the service's .toml: it needs no facts file"
        return EngineError(str(path), expected="an engine", got="a service", do=do)
    compared = told.compared
    try:
        facts = proven_facts(told.findings, advice, compared.known, compared.trials, subject.eight_bit)
    except EngineError as exc:
        return exc
    write_facts_file(path, subject.name, proven_tensors(subject), facts)
    return None


def _known(engine: str | Path, options: ProbeOptions) -> list[Known]:
    task = options.task
    if task is None and is_service(engine):
        task = read_service(engine).task
    found = [] if task is None else [golden_pair(task)]
    if options.reference is not None:
        found.append(reference_answers(options.reference, options.engine, options.seed))
    return found


def is_service(engine: str | Path) -> bool:
    """Whether it is the config of a service, and neither a file nor a served model."""
    return Path(engine).suffix == ".toml"


def _open(
    engine: str | Path, likely: Sequence[tuple[int, int]], known: Sequence[Known], options: ProbeOptions
) -> AnySubject:
    if is_service(engine):
        if options.output:
            raise EngineError(
                str(engine), expected="no --output for a service", got=options.output, do="set `answer` in its .toml"
            )
        return ServiceSubject(engine, likely, options.most_calls)
    opened = open_engine(engine, options.engine)
    try:
        widths = [one.answers.shape[1] for one in known]
        return EngineSubject(opened, likely, options.most_calls, options.output, widths)
    except BaseException:
        opened.close()
        raise


def _facts(metadata: Mapping[str, str], name: str) -> EngineFacts | None:
    if not any(key.startswith(PREFIX) for key in metadata):
        return None
    return EngineFacts.from_metadata(metadata, name)


def _delayed(progress: Progress) -> Progress:
    """Tells of nothing that is over at once."""
    start = monotonic()

    def tell(step: str, done: int, total: int, note: str = "") -> None:
        if monotonic() - start > QUIET_S:
            progress(step, done, total, note)

    return tell
