"""The Prompt Generation Network: image -> mixture coefficients -> prompt tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError
from pgn_edge.nn.generator import ResNet10

GeneratorName = Literal["resnet10", "constant"]


@dataclass(frozen=True)
class PgnConfig:
    """Shape of a PGN.

    Args:
        generator: `resnet10` looks at the image; `constant` does not (the paper's input-independent prompts).
        prompts: K, at least 1.
        library: N, at least 1; `constant` has one library token for each prompt, so N = K.
        width: token width d of the frozen ViT.
        resolution: width in pixels at which the generator looks.
    """

    generator: GeneratorName
    prompts: int
    library: int
    width: int
    resolution: int

    def __post_init__(self) -> None:
        if self.generator not in get_args(GeneratorName):
            raise CheckpointError(
                "generator",
                expected=" or ".join(get_args(GeneratorName)),
                got=repr(self.generator),
                do="choose one of them",
            )
        if min(self.prompts, self.library, self.width, self.resolution) < 1:
            raise CheckpointError("PGN", expected="sizes of at least 1", got=str(asdict(self)), do="choose other sizes")
        if self.generator == "constant" and self.library != self.prompts:
            raise CheckpointError(
                "library size",
                expected=f"{self.prompts}, one token for each constant prompt",
                got=str(self.library),
                do="leave --library out",
            )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PgnConfig:
        """Read what `dataclasses.asdict` wrote.

        Raises:
            CheckpointError: a field is missing, unknown or of the wrong type.
        """
        try:
            return cls(
                data["generator"],
                int(data["prompts"]),
                int(data["library"]),
                int(data["width"]),
                int(data["resolution"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise CheckpointError(
                "PGN configuration",
                expected="generator, prompts, library, width and resolution",
                got=repr(data),
                do="train again",
            ) from exc


class PGN(nn.Module):
    """Prompt tokens as softmax mixtures over a learned token library.

    Args:
        config: its shape.
        token_std: of the library's first entries; the paper has 0.02.

    Source: Loedeman et al., BMVC 2024, section 3.2.
    """

    def __init__(self, config: PgnConfig, token_std: float = 0.02) -> None:
        super().__init__()
        self.config = config
        self.library = nn.Parameter(token_std * torch.randn(config.library, config.width))
        self.generator: nn.Module | None = None
        if config.generator == "resnet10":
            self.generator = ResNet10(config.prompts * config.library, config.resolution)

    def coefficients(self, image: Tensor) -> Tensor:
        """Mixture coefficients c, (B, K, N), each row of N sums to 1, from normalised (B, 3, H, W)."""
        config = self.config
        if self.generator is None:
            one_hot = torch.eye(config.prompts, dtype=image.dtype, device=image.device)
            return one_hot.expand(image.shape[0], -1, -1)  # len() would make the batch of an export static
        logits: Tensor = self.generator(image)
        return logits.view(-1, config.prompts, config.library).softmax(dim=-1)

    def forward(self, image: Tensor) -> Tensor:
        """Prompt tokens h = c T, (B, K, d), from normalised (B, 3, H, W)."""
        return self.coefficients(image) @ self.library
