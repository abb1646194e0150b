"""`pgn-edge compare`: a PGN and all that it is held against, on the same data and with the same budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pgn_edge.errors import DataError, TrainingError
from pgn_edge.nn.vit import Backbone
from pgn_edge.progress import Progress, silent
from pgn_edge.train.baselines.contenders import CONTENDERS
from pgn_edge.train.compare_report import Section, write_report
from pgn_edge.train.config import TrainConfig
from pgn_edge.train.data.dataset import DataSet
from pgn_edge.train.heads import HeadChoice, HeadOption, first_head, resolve_head
from pgn_edge.train.series import Base, Row, Series, runs_of
from pgn_edge.train.store import Job, Store

MULTI = "multi-pgn"
RATES = (0.03, 0.3, 1.0, 3.0)
FIXED_HEADS: tuple[HeadChoice, ...] = ("zero-shot", "identity", "frequency", "prototypes")


@dataclass(frozen=True)
class Contest:
    """Who is compared on what.

    Args:
        data: names of data sets; with more than one, a PGN for all of them takes part too.
        only: contenders; empty for all.
        heads: data set -> head of its prompts, in the place of the one that is found for it.
        rates: factors to the learning rate that each contender that is trained chooses from on the validation split;
            one alone for no search.
    """

    data: tuple[str, ...]
    only: tuple[str, ...] = ()
    heads: Mapping[str, HeadOption] = field(default_factory=dict)
    rates: tuple[float, ...] = RATES

    def __post_init__(self) -> None:
        unknown = [name for name in self.only if name not in CONTENDERS]
        if unknown:
            raise TrainingError(
                "contender", expected=", ".join(CONTENDERS), got=repr(unknown[0]), do="choose from these: --only"
            )
        if not self.data or len(set(self.data)) < len(self.data):
            raise DataError("data", expected="data sets, each once", got=", ".join(self.data) or "none", do="name them")
        foreign = [name for name in self.heads if name not in (*self.data, self.united)]
        if foreign:
            known = ", ".join(dict.fromkeys((*self.data, self.united)))
            raise DataError("head", expected=f"one of {known}", got=repr(foreign[0]), do="name it as --data does")
        if not self.rates or len(set(self.rates)) < len(self.rates) or not all(0 < rate < 1e6 for rate in self.rates):
            raise TrainingError(
                "rates", expected="positive factors, each once", got=str(self.rates), do="choose others: --rates"
            )

    @property
    def united(self) -> str:
        """The name of all data sets together."""
        return ",".join(self.data)

    def contenders(self) -> list[str]:
        """Who takes part, in the order of the tables."""
        return [
            name
            for name in CONTENDERS
            if (not self.only or name in self.only) and (name != MULTI or len(self.data) > 1)
        ]


def compare(contest: Contest, base: Base, output: Path, progress: Progress = silent) -> list[Section]:
    """Run what is not there yet, and write `compare.json`, `compare.md` and `compare.html`.

    Args:
        contest: who is compared on what.
        base: backbone, PGN, budget and seeds.
        output: folder of the results, made if it is not there.
        progress: listener.

    Returns:
        A table for each data set.

    Raises:
        DataError: data that cannot be read.
        CheckpointError: the backbone cannot be loaded.
        TrainingError: interrupted; the same command goes on.
        OutputError: the folder cannot be written.
    """
    contenders, rates = contest.contenders(), contest.rates
    if not contenders:
        raise TrainingError("contender", expected="at least two data sets", got="one", do=f"give --data for {MULTI}")
    series = Series(Store(output), base, 0, progress)
    tasks = [*contest.data, *([contest.united] if MULTI in contenders else [])]
    for data in contest.data:
        require_single(series.data(data))
    heads = {name: resolve_head(contest.heads.get(name, "auto"), series.backbone, series.data(name)) for name in tasks}
    plan = []
    for data in contest.data:
        for name in contenders:
            task = contest.united if name == MULTI else data
            head = choose_head(name, heads[task], series.backbone, series.data(task))
            config = own_config(name, replace(base.config, data=task, head=head))
            plan.append((data, Job(name, complete(config, series.backbone), base.schedule)))
    # The PGN for all is trained once, and counted in each table.
    unique = {job.name: job for _, job in plan}
    series.total = sum(runs_of(job, base.seeds, rates) for job in unique.values())
    series.store.make()  # not before: what is refused leaves nothing behind
    rows: dict[str, Row] = {}
    sections: dict[str, list[Row]] = {data: [] for data in contest.data}
    for data, job in plan:
        name = series.data(data).name
        if job.name not in rows:
            rows[job.name] = series.row(CONTENDERS[job.contender].title, job, name, rates)
        sections[data].append(replace(rows[job.name], data=name))
    tables = [Section(data, tuple(found)) for data, found in sections.items()]
    write_report("compare", "Comparison", tables, output)
    return tables


def require_single(data: DataSet) -> None:
    """Refuse a union of data sets, whose parts would be counted under one name.

    Raises:
        DataError: it has several label spaces.
    """
    if len(data.spaces) > 1:
        do = "give --data once for each: the PGN for all data sets is one of the contenders"
        raise DataError("data", expected="one data set at a time", got=repr(data.name), do=do)


def own_config(contender: str, config: TrainConfig) -> TrainConfig:
    """What of a PGN's configuration matters to a contender: results that do not depend on the rest outlive it."""
    shared = {name: getattr(config, name) for name in ("backbone", "root", "weights", "head", "template")}
    plain = TrainConfig(config.data, **shared)
    if contender in ("pgn", MULTI):
        return config
    if contender == "constant":
        names = ("prompts", "layout", "library_space", "library_std", "rounded", "transport")
        own = {name: getattr(config, name) for name in names}
        return replace(plain, generator="constant", **own)
    if contender == "cnn":
        return replace(plain, generator=config.generator, hidden=config.hidden, resolution=config.resolution)
    return plain


def complete(config: TrainConfig, backbone: Backbone) -> TrainConfig:
    """The same configuration for a contender, with the values that its defaults stand for: one run has one name."""
    layout, vit = config.layout, backbone.vit
    if config.prompts is None:
        config = replace(config, prompts=vit.geometry(None, layout).prompts)
    if config.library is None:
        config = replace(config, library=config.prompts if config.generator == "constant" else 256)
    if config.generator == "constant":
        return replace(config, resolution=None)
    if config.resolution is None and config.generator != "mlp":
        return replace(config, resolution=vit.spec.image_hw[1])
    return config


def choose_head(contender: str, chosen: HeadChoice, backbone: Backbone, data: DataSet) -> HeadChoice:
    """The head of one contender, where `chosen` is that of the data set's prompts."""
    rule = CONTENDERS[contender].head
    if rule == "linear":
        return "linear"
    if rule == "tuned":
        return first_head(("tuned", "linear"), backbone, data)
    if rule == "frozen":
        return chosen if chosen in FIXED_HEADS else first_head(("zero-shot", "frequency"), backbone, data)
    return chosen
