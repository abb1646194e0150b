"""What a training loop optimises: a frozen ViT, a PGN before it and a head behind it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn_edge.errors import DataError
from pgn_edge.geometry import Geometry
from pgn_edge.heads import Head
from pgn_edge.nn.pgn import PGN
from pgn_edge.nn.prompted import embed
from pgn_edge.nn.vit import FrozenViT
from pgn_edge.transport import Transport

MappingMode = Literal["", "once", "each epoch"]

CHUNK = 1024  # embeddings at a time: of DINO's 65,536 outputs this is 256 MiB of logits


class PromptedViT(nn.Module):
    """A frozen ViT with a PGN before it and a head behind it: normalised images -> logits.

    Args:
        vit: the frozen ViT.
        pgn: emits the prompts; None for the frozen ViT alone.
        head: the classifier.
        geometry: of the canvas that the task is deployed with.
        transport: what the canvas goes through; None for prompts that are given as tokens, without a loss.
    """

    def __init__(
        self,
        vit: FrozenViT,
        pgn: PGN | None,
        head: HeadModule,
        geometry: Geometry,
        transport: Transport | None = None,
    ) -> None:
        super().__init__()
        self.vit, self.pgn, self.head, self.geometry, self.transport = vit, pgn, head, geometry, transport

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, D), what the head is given."""
        if self.pgn is None:
            embedding: Tensor = self.vit(image)
            return embedding
        return embed(self.vit, self.pgn, self.geometry, image, self.transport)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C) logits."""
        logits: Tensor = self.head(self.embed(image))
        return logits


class HeadModule(nn.Module):
    """`heads.Head` in torch.

    Args:
        head: over the classes; where there is a `mapping`, over all outputs of the frozen model, of which `remap`
            chooses one for each class. Until then class i is output i.
        learns: whether its weights are trained. Rows of a text head stay unit rows, and its scale stays.
        mapping: when the outputs are chosen: `once`, or anew before `each epoch`.
        labels: the C classes of a mapping; otherwise those of the head.

    Raises:
        DataError: more classes than outputs.
    """

    def __init__(
        self, head: Head, learns: bool = False, mapping: MappingMode = "", labels: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.kind, self.scale, self.mapping, self.learns = head.kind, head.scale, mapping, learns
        self.labels = labels if mapping else head.labels
        self.weight: Tensor
        self.bias: Tensor
        self.index: Tensor | None
        weight, bias = torch.from_numpy(head.weight.copy()), torch.from_numpy(head.bias.copy())
        if mapping:
            require_outputs(self.labels, len(head.labels))
            # All outputs come from the backbone's own file; the state holds which of them were chosen.
            self.register_buffer("weight", weight, persistent=False)
            self.register_buffer("bias", bias, persistent=False)
            self.register_buffer("index", torch.arange(len(self.labels)))
        else:
            self.weight = nn.Parameter(weight, requires_grad=learns)
            self.bias = nn.Parameter(bias, requires_grad=learns and head.kind == "linear")
            index = torch.from_numpy(head.index.copy()) if head.kind == "mapping" else None
            self.register_buffer("index", index, persistent=False)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        if self.kind == "mapping":
            assert self.index is not None
            return embedding[:, self.index]
        return self._logits(embedding, *self._rows())

    def to_head(self) -> Head:
        """The head as it is now, for checkpoints."""
        if self.kind == "mapping":
            assert self.index is not None
            return Head.mapping(self.index.cpu().numpy(), self.labels)
        weight, bias = (part.detach().cpu().numpy() for part in self._rows())
        if self.kind == "text":
            return Head.text(weight, self.labels, self.scale)
        return Head.linear(weight, bias, self.labels)

    @torch.no_grad()
    def remap(self, embeddings: Tensor, labels: Tensor) -> bool:
        """Choose the output of each class by what the frozen model answers on its images.

        Pairs of class and output are taken by how often they occur, most frequent first, each class and each output
        once; of equals the smaller class, then the smaller output. A class that is left takes the free output that is
        largest on the mean of its embeddings. The same embeddings give the same mapping, in any order.

        Args:
            embeddings: (n, D) of training images.
            labels: (n,) int64 classes, 0 <= class < C.

        Returns:
            Whether the mapping changed.
        """
        assert self.mapping, "this head does not map"
        assert self.index is not None
        labels = labels.to(embeddings.device)
        parts = (self._logits(part, self.weight, self.bias) for part in torch.split(embeddings, CHUNK))
        answers = torch.cat([part.argmax(dim=1) for part in parts])
        outputs = len(self.weight)
        pairs, counts = (part.cpu().numpy() for part in torch.unique(labels * outputs + answers, return_counts=True))
        chosen = _greedy(pairs, counts, len(self.labels), outputs)
        free = np.ones(outputs, bool)
        free[chosen[chosen >= 0]] = False
        for label in np.flatnonzero(chosen < 0):
            own = embeddings[labels == int(label)]
            mean = own.double().mean(dim=0, keepdim=True).float() if len(own) else embeddings.new_zeros(1, own.shape[1])
            liking = self._logits(mean, self.weight, self.bias)[0].cpu().numpy()
            chosen[label] = int(np.where(free, liking, -np.inf).argmax())
            free[chosen[label]] = False
        index = torch.from_numpy(chosen).to(self.index)
        changed = not torch.equal(index, self.index)
        self.index.copy_(index)
        return changed

    def _rows(self) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,), or nothing for a text head, of the classes."""
        weight, bias = self.weight, self.bias
        if self.mapping:
            assert self.index is not None
            weight, bias = weight[self.index], bias[self.index] if self.kind == "linear" else bias
        if self.learns and self.kind == "text":
            weight = F.normalize(weight, dim=-1)
        return weight, bias

    def _logits(self, embedding: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.kind == "text":
            return self.scale * F.normalize(embedding, dim=-1) @ weight.T
        return F.linear(embedding, weight, bias)


def require_outputs(labels: tuple[str, ...], outputs: int) -> None:
    """Refuse more classes than there are outputs, of which each takes one.

    Raises:
        DataError: there are.
    """
    if len(labels) > outputs:
        raise DataError(
            "label mapping",
            expected=f"at most {outputs} classes, one for each output of the frozen model",
            got=str(len(labels)),
            do="train with a linear head: --head linear",
        )


def _greedy(pairs: np.ndarray, counts: np.ndarray, classes: int, outputs: int) -> np.ndarray:
    """Output of each class, (classes,) int64, -1 where none was left; pairs are class * outputs + output, ascending."""
    chosen, taken = np.full(classes, -1, np.int64), np.zeros(outputs, bool)
    for at in np.argsort(-counts, kind="stable"):
        label, output = divmod(int(pairs[at]), outputs)
        if chosen[label] < 0 and not taken[output]:
            chosen[label], taken[output] = output, True
    return chosen
