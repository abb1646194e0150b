"""A ViT engine behind an HTTP service that takes image files and returns embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pgn_edge.bundle import read_bundle
from pgn_edge.contract import EngineFacts
from pgn_edge.errors import EngineError
from pgn_edge.runtime.engines.base import TensorSpec, check_binding, check_feeds
from pgn_edge.runtime.engines.lanes import Pending
from pgn_edge.runtime.engines.service_client import ServiceClient
from pgn_edge.runtime.engines.service_config import ServiceConfig, read_service

Outputs = dict[str, np.ndarray]


class ServiceEngine:
    """A stock ViT behind an ordinary service, which sees nothing of ours but pictures.

    The service says nothing of its ViT, so the config names a bundle that was made for it: facts and width are taken
    from there, and the golden pair decides, as with every engine. Each call is one request, of up to `batch` canvases.

    Any thread may call it, and several at once, up to `in_flight`. Outputs belong to the caller.

    Attributes:
        remedy: what to do where it does not reproduce a golden pair.

    Args:
        path: of a config, see `read_service`.

    Raises:
        EngineError: a config that is wrong, names no bundle, or names one that no service can answer.
        BundleError: a bundle that is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        config = read_service(path)
        facts, width = _read_task(config)
        self.name, self._transport, self._width = config.name, config.transport, width
        self.remedy = (
            "the service likely resizes, crops or re-encodes its images, normalises them otherwise, or runs another "
            f"ViT: ask it with pgn-edge probe --engine {path}"
        )
        self.device = f"service at {config.url.scheme}://{config.url.netloc}, {config.transport}"
        canvas = TensorSpec((None, *facts.geometry.canvas_hw, 3), np.dtype(np.uint8), config.batch)
        self.inputs = {"canvas": canvas}
        self.outputs = {"embedding": TensorSpec((None, width), np.dtype(np.float32))}
        self.metadata: Mapping[str, str] = facts.to_metadata()
        self._client = ServiceClient(config)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Outputs:
        """See `Engine.infer`."""
        return {"embedding": self.infer_async(feeds).result()}

    def infer_async(self, feeds: Mapping[str, np.ndarray]) -> Pending[np.ndarray]:
        """Ask, and do something else until the answer is there.

        Args:
            feeds: as in `infer`; they may be changed at once.

        Returns:
            What waits for the embeddings, (n, D) float32, until the deadline, which begins now.

        Raises:
            EngineError: wrong names, types or shapes, too many in flight, or a service that has not answered lately.
        """
        check_feeds(self, feeds)
        files = [self._transport.encode(canvas) for canvas in feeds["canvas"]]
        return self._client.start(files, self._transport.content_type, self._width)

    def bind(self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See `Engine.bind`; each run sends the inputs and copies the answer."""
        check_binding(self, inputs, outputs)
        if len(inputs["canvas"]) != len(outputs["embedding"]):
            got = f"{len(inputs['canvas'])} and {len(outputs['embedding'])}"
            raise EngineError(self.name, expected="as many embeddings as canvases", got=got, do="bind arrays that fit")
        return lambda: np.copyto(outputs["embedding"], self.infer(inputs)["embedding"])

    def close(self) -> None:
        """See `Engine.close`."""
        self._client.close()


def _read_task(config: ServiceConfig) -> tuple[EngineFacts, int]:
    """Facts of the ViT that a bundle was made for, and the width of its embedding."""
    if config.task is None:
        raise EngineError(
            config.name, expected="task, a bundle made for the ViT that the service runs", got="none", do="add the key"
        )
    bundle = read_bundle(config.task)
    facts, subject = bundle.facts, f"{config.name}: {config.task}"
    if facts.geometry.layout != "inset":
        raise EngineError(
            subject,
            expected="a task of layout inset, since a service takes images of its ViT's own size only",
            got=str(facts.geometry),
            do="train the task with --layout inset",
        )
    if facts.canvas != "uint8":
        raise EngineError(
            subject,
            expected="a task whose canvas is an image of 8 bits",
            got=facts.canvas,
            do="train it with --library-space pixel, and export it with --uint8",
        )
    engine = replace(facts, role="vit", output="embedding", transport=config.transport.loss)
    return engine, bundle.golden.embedding.shape[1]
