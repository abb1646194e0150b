"""The Prompt Generation Network: image -> mixture coefficients -> prompt tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError
from pgn_edge.nn.generator import ResNet10
from pgn_edge.preprocess import Preprocess

GeneratorName = Literal["resnet10", "constant"]
LibrarySpace = Literal["token", "pixel"]


@dataclass(frozen=True)
class PgnConfig:
    """Shape of a PGN.

    Args:
        generator: `resnet10` looks at the image; `constant` does not (the paper's input-independent prompts).
        prompts: K, at least 1.
        library: N, at least 1; `constant` has one library token for each prompt, so N = K.
        width: of a library entry; the token width d of the frozen ViT, or 3P² pixel values for `pixel`.
        resolution: width in pixels at which the generator looks.
        space: what the library holds; `token` as in the paper, or `pixel`, patches of legal RGB.
    """

    generator: GeneratorName
    prompts: int
    library: int
    width: int
    resolution: int
    space: LibrarySpace = "token"

    def __post_init__(self) -> None:
        choices = {"generator": (self.generator, GeneratorName), "library space": (self.space, LibrarySpace)}
        for what, (value, known) in choices.items():
            if value not in get_args(known):
                raise CheckpointError(
                    what, expected=" or ".join(get_args(known)), got=repr(value), do="choose one of them"
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
                data.get("space", "token"),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise CheckpointError(
                "PGN configuration",
                expected="generator, prompts, library, width, resolution and space",
                got=repr(data),
                do="train again",
            ) from exc


class PGN(nn.Module):
    """Prompts as softmax mixtures over a learned library.

    Args:
        config: its shape.
        library_std: of the library's first parameters; the paper has 0.02 for tokens. In pixel space they go through a
            sigmoid, and 1 spreads them over the middle of the range.
        preprocess: its normalisation says which values are legal RGB; only `pixel` needs it.

    Source: Loedeman et al., BMVC 2024, section 3.2; the pixel space is this project's.
    """

    def __init__(self, config: PgnConfig, library_std: float = 0.02, preprocess: Preprocess | None = None) -> None:
        super().__init__()
        self.config = config
        self.library = nn.Parameter(library_std * torch.randn(config.library, config.width))
        if config.space == "pixel":
            low, high = torch.zeros(config.width), torch.ones(config.width)
            if preprocess is not None:
                low, high = (torch.from_numpy(side).repeat_interleave(config.width // 3) for side in preprocess.legal())
            self.register_buffer("low", low)
            self.register_buffer("high", high)
        self.generator: nn.Module | None = None
        if config.generator == "resnet10":
            self.generator = ResNet10(config.prompts * config.library, config.resolution)

    def entries(self) -> Tensor:
        """What is mixed: T (N, d) in token space; in pixel space L (N, 3P²), each value within legal RGB."""
        if self.config.space == "token":
            return self.library
        low, high = self.get_buffer("low"), self.get_buffer("high")
        return torch.lerp(low, high, self.library.sigmoid())

    def coefficients(self, image: Tensor) -> Tensor:
        """Mixture coefficients c, (B, K, N), each row of N sums to 1, from normalised (B, 3, H, W)."""
        config = self.config
        if self.generator is None:
            one_hot = torch.eye(config.prompts, dtype=image.dtype, device=image.device)
            return one_hot.expand(image.shape[0], -1, -1)  # len() would make the batch of an export static
        logits: Tensor = self.generator(image)
        return logits.view(-1, config.prompts, config.library).softmax(dim=-1)

    def forward(self, image: Tensor) -> Tensor:
        """Mixtures c T or c L, (B, K, width), from normalised (B, 3, H, W); prompt tokens in token space."""
        return self.coefficients(image) @ self.entries()
