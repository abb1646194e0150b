"""The Prompt Generation Network: image -> mixture coefficients -> prompt tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError
from pgn_edge.nn.generator import Generator, make_generator
from pgn_edge.preprocess import Preprocess

GeneratorName = Literal["resnet10", "resnet18", "mlp", "constant"]
LibrarySpace = Literal["token", "pixel"]
Mixing = Literal["softmax", "sigmoid"]

EDGE = 1 / 32  # share of the legal range, at each end, in which no pixel begins: a sigmoid learns nothing where it ends


@dataclass(frozen=True)
class PgnConfig:
    """Shape of a PGN.

    Args:
        generator: `resnet10`, `resnet18` and `mlp` look at the image; `constant` does not (the paper's
            input-independent prompts).
        prompts: K, at least 1.
        library: N; 0 for prompts straight from the generator's last layer. `constant` has one library token for each
            prompt, so N = K.
        width: of a library entry; the token width d of the frozen ViT, or 3P² pixel values for `pixel`.
        resolution: width in pixels at which the generator looks; for `mlp` the side of the square in the middle.
        space: what the library holds; `token` as in the paper, or `pixel`, patches of legal RGB.
        mixing: `softmax`, or `sigmoid`, each coefficient for itself; the latter for mixtures of tokens alone.
        hidden: width of one hidden layer in the generator's head; 0 for a linear head.
        rounded: whether prompt pixels are rounded to the 256 levels of an 8-bit image; for `pixel` alone.
    """

    generator: GeneratorName
    prompts: int
    library: int
    width: int
    resolution: int
    space: LibrarySpace = "token"
    mixing: Mixing = "softmax"
    hidden: int = 0
    rounded: bool = False

    def __post_init__(self) -> None:
        choices = {
            "generator": (self.generator, GeneratorName),
            "library space": (self.space, LibrarySpace),
            "mixing": (self.mixing, Mixing),
        }
        for what, (value, known) in choices.items():
            if value not in get_args(known):
                raise CheckpointError(
                    what, expected=" or ".join(get_args(known)), got=repr(value), do="choose one of them"
                )
        if min(self.prompts, self.width, self.resolution) < 1 or min(self.library, self.hidden) < 0:
            raise CheckpointError("PGN", expected="sizes of at least 1", got=str(asdict(self)), do="choose other sizes")
        self._check_constant()
        if self.mixing == "sigmoid" and (self.space == "pixel" or not self.mixes):
            raise CheckpointError(
                "mixing",
                expected="softmax for prompts that are pixels or no mixtures",
                got="sigmoid, whose mixtures would leave legal RGB" if self.mixes else "sigmoid",
                do="leave --mixing out",
            )
        if not isinstance(self.rounded, bool) or (self.rounded and self.space != "pixel"):
            raise CheckpointError(
                "rounding",
                expected="true or false, and true for a pixel library alone",
                got=f"{self.rounded!r} for {self.space}",
                do="train with --library-space pixel",
            )

    def _check_constant(self) -> None:
        if self.generator != "constant":
            return
        if self.library != self.prompts:
            raise CheckpointError(
                "library size",
                expected=f"{self.prompts}, one token for each constant prompt",
                got=str(self.library),
                do="leave --library out",
            )
        if self.hidden:
            raise CheckpointError(
                "hidden layer",
                expected="0 for constant prompts, which no net makes",
                got=str(self.hidden),
                do="leave --hidden out",
            )

    @property
    def mixes(self) -> bool:
        """Whether prompts are mixtures that depend on the image."""
        return self.library > 0 and self.generator != "constant"

    @property
    def observed(self) -> bool:
        """Whether the mixtures say how decided the PGN is: shares that sum to 1, made for each image."""
        return self.mixes and self.mixing == "softmax"

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
                data.get("mixing", "softmax"),
                int(data.get("hidden", 0)),
                data.get("rounded", False),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise CheckpointError(
                "PGN configuration",
                expected="generator, prompts, library, width, resolution, space, mixing, hidden and rounded",
                got=repr(data),
                do="train again",
            ) from exc


class PGN(nn.Module):
    """Prompts as mixtures over a learned library, or straight from a net.

    Args:
        config: its shape.
        library_std: of the library's first parameters; the paper has 0.02 for tokens. In pixel space they go through a
            sigmoid, and 1 spreads them over the middle of the range. Prompts without a library begin alike: as that
            many constant ones, which the image moves by about as much.
        preprocess: its normalisation says which values are legal RGB; only `pixel` needs it.
        patches: what a library of pixels begins as (N, 3P²), normalised, brought to within legal RGB; None for random
            ones.

    Source: Loedeman et al., BMVC 2024, section 3.2; the pixel space is this project's.
    """

    def __init__(
        self,
        config: PgnConfig,
        library_std: float = 0.02,
        preprocess: Preprocess | None = None,
        patches: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if config.space == "pixel":
            low, high = torch.zeros(config.width), torch.ones(config.width)
            if preprocess is not None:
                low, high = (torch.from_numpy(side).repeat_interleave(config.width // 3) for side in preprocess.legal())
            self.register_buffer("low", low)
            self.register_buffer("high", high)
        self.library: nn.Parameter | None = None
        if config.library:
            if patches is None:
                first = library_std * torch.randn(config.library, config.width)
            else:
                first = self._before(patches)
            self.library = nn.Parameter(first)
        self.levels = Levels() if config.rounded else None
        self.generator: Generator | None = None
        if config.generator != "constant":
            outputs = config.prompts * (config.library or config.width)
            self.generator = make_generator(config.generator, outputs, config.resolution, config.hidden)
            if not config.library:
                _spread(self.generator.last_layer, library_std)

    @property
    def mixes(self) -> bool:
        """Whether prompts are mixtures that depend on the image."""
        return self.config.mixes

    def legal(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest legal value of each pixel of a prompt, (3P²,); in pixel space alone."""
        return self.get_buffer("low"), self.get_buffer("high")

    def entries(self) -> Tensor:
        """What is mixed: T (N, d) in token space; in pixel space L (N, 3P²), each value within legal RGB."""
        assert self.library is not None
        return self._within(self.library)

    def coefficients(self, image: Tensor) -> Tensor:
        """Mixture coefficients c, (B, K, N), from normalised (B, 3, H, W); where `mixes`. For softmax rows sum to 1."""
        assert self.generator is not None, "constant prompts mix nothing"
        assert self.mixes, "prompts without a library are no mixtures"
        logits: Tensor = self.generator(image)
        logits = logits.view(-1, self.config.prompts, self.config.library)
        return logits.softmax(dim=-1) if self.config.mixing == "softmax" else logits.sigmoid()

    def codes(self, image: Tensor) -> Tensor:
        """What deployment multiplies with a constant, from normalised (B, 3, H, W).

        Mixture coefficients (B, K, N) where it mixes, one-hot ones for constant prompts, and without a library the
        prompts themselves, (B, K, d) tokens or (B, K, 3P²) pixels of legal RGB.
        """
        config = self.config
        if self.generator is None:
            one_hot = torch.eye(config.prompts, dtype=image.dtype, device=image.device)
            return one_hot.expand(image.shape[0], -1, -1)  # len() would make the batch of an export static
        if self.mixes:
            return self.coefficients(image)
        outputs: Tensor = self.generator(image)
        return self._within(outputs.view(-1, config.prompts, config.width))

    def unrounded(self, image: Tensor) -> Tensor:
        """Prompts (B, K, width) as they are before a rounding."""
        codes = self.codes(image)
        return codes if self.library is None else codes @ self.entries()

    def forward(self, image: Tensor) -> Tensor:
        """Prompts (B, K, width) from normalised (B, 3, H, W): tokens in token space, otherwise pixels."""
        prompts = self.unrounded(image)
        if self.levels is None:
            return prompts
        rounded: Tensor = self.levels(prompts, *self.legal())
        return rounded

    def _within(self, values: Tensor) -> Tensor:
        """Pixels from any numbers; tokens as they are."""
        if self.config.space == "token":
            return values
        return torch.lerp(*self.legal(), values.sigmoid())

    def _before(self, pixels: Tensor) -> Tensor:
        """The numbers that `_within` makes pixels of; those outside legal RGB, or at its edge, are moved inside."""
        low, high = self.legal()
        return ((pixels - low) / (high - low)).clamp(EDGE, 1 - EDGE).logit()


class Levels(nn.Module):
    """Rounding to the 256 levels of an 8-bit image; its gradient is that of the identity."""

    def forward(self, pixels: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Pixels (..., 3P²) between low and high, the values of levels 0 and 255, (3P²,) each -> the nearest levels."""
        level = ((pixels - low) * (255 / (high - low))).round()
        rounded = low + level * ((high - low) / 255)
        # The second summand is zero, and carries the gradient: training sees the very values that are deployed.
        return rounded.detach() + (pixels - pixels.detach()) if self.training else rounded


@torch.no_grad()
def _spread(last: nn.Linear, std: float) -> None:
    """Let the outputs begin with the spread of a library's entries."""
    last.weight.mul_(std)
    last.bias.normal_(std=std)
