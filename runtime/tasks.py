"""A task beside the ViT engine: loaded, checked, and proved on this device before its first frame."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.heads import Head
from pgn_edge.runtime.chain import Chain, link
from pgn_edge.runtime.drift import Monitor
from pgn_edge.runtime.engines import Engine, EngineOptions, ServiceEngine, open_pgn
from pgn_edge.runtime.pairing import AGAIN, check_facts, check_golden, check_profile, check_tensors


@dataclass(frozen=True, eq=False)
class Task:
    """What stays of a bundle once it is loaded; its graph and golden pair have done their work.

    Args:
        facts: of the PGN engine, and of the ViT that it was made for.
        head: the classifier on embeddings; its labels are the task's.
        pgn: the PGN engine; the Runtime closes it.
        chain: for frames that come one by one; likewise.
        monitor: of its drift, since it was loaded; None where the bundle has no profile.
        digest: First 12 hexadecimal digits of the bundle file's sha256.
        file: Name of the bundle file, without its folder.
    """

    facts: EngineFacts
    head: Head
    pgn: Engine
    chain: Chain
    monitor: Monitor | None
    digest: str
    file: str

    def close(self) -> None:
        """Give its memory back."""
        self.chain.close()
        self.pgn.close()


@dataclass(frozen=True, eq=False)
class Loader:
    """Loads tasks for one ViT engine, also while frames run through it.

    Args:
        vit: the ViT engine.
        facts: of it.
        options: as it was opened with.
        width: D, of its embedding.
        turn: held whenever the device is used that frames use too: for the time of one golden frame, or of binding.
    """

    vit: Engine
    facts: EngineFacts
    options: EngineOptions
    width: int
    turn: AbstractContextManager[object]

    def load(self, name: str, path: str | Path) -> Task:
        """Read, check and prove a task; nothing is left behind if anything fails.

        Args:
            name: for messages.
            path: of the bundle.

        Raises:
            BundleError: the bundle is damaged.
            PairingError: the task was not made for this ViT, or does not reproduce its golden pair here.
            EngineError: its PGN engine cannot be opened where the ViT engine is.
        """
        bundle = read_bundle(path)
        check_facts(self.facts, bundle.facts, name)
        with ExitStack() as opened:
            with self.turn:
                pgn = open_pgn(bundle, path, self.vit, self.options)
            opened.callback(self._close, pgn)
            check_tensors(pgn, bundle.facts)
            check_profile(pgn, bundle)
            with self.turn:
                chain = link(self.vit, [pgn], self.width)
            opened.callback(self._close, chain)
            remedy = self.vit.remedy if isinstance(self.vit, ServiceEngine) else AGAIN
            check_golden(bundle, self.facts, chain, self.turn, remedy)
            opened.pop_all()
        profile = bundle.profile
        monitor = None if profile is None else Monitor(profile, bundle.facts.geometry.prompts)
        return Task(bundle.facts, bundle.head, pgn, chain, monitor, bundle.digest, Path(path).name)

    def _close(self, made: Engine | Chain) -> None:
        with self.turn:
            made.close()
