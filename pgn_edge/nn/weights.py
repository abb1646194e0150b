"""What the adapters of other libraries' ViTs share: sizes in names, files of weights, downloads, classifiers."""

from __future__ import annotations

import io
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pgn_edge.errors import CheckpointError, DataError, GeometryError, PgnEdgeError
from pgn_edge.heads import Head
from pgn_edge.nn.layouts import layout_of
from pgn_edge.nn.vit import ZeroShot

HUB = "the model hub"  # stands for the address that the hub's own client is configured with
ANSWER_S = 5.0  # longest wait for the server of a download to answer at all
ADVICE = "pass a local copy with --weights FILE, or go online once: the library keeps what it downloads"


def split_size(name: str) -> tuple[str, tuple[int, int] | None]:
    """`NAME@320` -> `NAME` and the image size (320, 320) in pixels; None for a name without a size.

    Raises:
        GeometryError: what stands behind the @ is no size in pixels.
    """
    plain, at, size = name.rpartition("@")
    if not at:
        return name, None
    if not (size.isascii() and size.isdecimal() and len(size) <= 4):
        raise GeometryError(
            name, expected="an image size in pixels behind the @", got=repr(size), do=f"name one, such as {plain}@224"
        )
    return plain, (int(size), int(size))


def require_size(name: str, image_hw: tuple[int, int], patch: int) -> None:
    """Refuse an image size that does not consist of whole patches.

    Args:
        name: of the backbone, for the message.
        image_hw: image size (H, W) in pixels.
        patch: patch size in pixels.

    Raises:
        GeometryError: the patch does not divide it; the message names a size that it divides.
    """
    height, width = image_hw
    if min(image_hw) < patch or height % patch or width % patch:
        raise GeometryError(
            name,
            expected=f"a height and a width that patch size {patch} divides",
            got=f"{height} x {width}",
            do=f"name a size, for example {name.partition('@')[0]}@{max(height - height % patch, patch)}",
        )


def require_patches(name: str, conv: nn.Module) -> None:
    """Refuse a patch projection that is more than W x + b on whole, square patches of an RGB image.

    Raises:
        CheckpointError: overlap, padding, groups, another layer, or images that are not RGB.
    """
    if not isinstance(conv, nn.Conv2d):
        refuse_part(name, "the patch projection", "one convolution", type(conv).__name__)
    patch = conv.kernel_size[0]
    facts = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.in_channels)
    if facts != ((patch, patch), (patch, patch), (0, 0), (1, 1), 1, 3):
        refuse_part(name, "the patch projection", "RGB, square, stride = kernel, no padding, one group", str(conv))


def refuse_part(name: str, part: str, expected: str, got: str) -> NoReturn:
    """Refuse a model of which one part is not what the adapter understands.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(
        name,
        expected=f"{part}: {expected}",
        got=got,
        do="choose a plain ViT, such as open_clip:ViT-B-32/openai, timm:vit_base_patch16_224 or torchvision:vit_b_32",
    )


@contextmanager
def mapped(name: str, expected: str, do: str, kind: type[PgnEdgeError] = CheckpointError) -> Iterator[None]:
    """Whatever a foreign library raises in here becomes one line of ours, and its log stays silent.

    Raises:
        PgnEdgeError: of the given kind, instead of the foreign error.
    """
    # Offline, the hub's client logs each of its tries, twice; the error that follows says it once.
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    except PgnEdgeError:
        raise
    except Exception as exc:
        # The libraries, their hub client and torch raise dozens of types here, down to bare RuntimeError.
        raise kind(name, expected=expected, got=brief(exc), do=do) from exc
    finally:
        logging.disable(before)


def brief(exc: Exception) -> str:
    """Type and first line of a foreign error, 200 characters at the most."""
    return f"{type(exc).__name__}: {exc}".split("\n")[0][:200]


@contextmanager
def downloading(name: str, library: str, address: str) -> Iterator[None]:
    """`mapped` for the download of weights; a machine without a network is told so in seconds.

    Args:
        name: Name of the backbone, for messages.
        library: Library that downloads.
        address: URL of the server. If it does not answer, only weights in the library's own cache are taken.

    Raises:
        CheckpointError: the weights are in no cache and cannot be downloaded.
    """
    # The hub's client tries five times with growing pauses, which is a silent minute.
    online = _answers(address)
    expected = f"weights from the download of {library}" + ("" if online else f" (no answer from {address})")
    # torch's hub client writes to stdout, where a command with --json prints its one document.
    with mapped(name, expected, ADVICE), redirect_stdout(io.StringIO()), nullcontext() if online else _offline():
        yield


def _answers(address: str) -> bool:
    """Whether a server answers at all, through the proxies of the environment."""
    from huggingface_hub import constants

    if address == HUB:
        address = constants.ENDPOINT
        if constants.HF_HUB_OFFLINE:
            return False
    answered = threading.Event()
    # In a thread, since no timeout ends a look-up of the server's name.
    threading.Thread(target=_ask, args=(address, answered), daemon=True).start()
    return answered.wait(ANSWER_S)


def _ask(address: str, answered: threading.Event) -> None:
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310  # the addresses are constants of libraries
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S):  # noqa: S310
            answered.set()
    except urllib.error.HTTPError:
        answered.set()
    except (OSError, ValueError):
        return


@contextmanager
def _offline() -> Iterator[None]:
    """Let the libraries take what is in their caches, and fail at once where nothing is."""
    from huggingface_hub import constants

    def refuse(url: str, *arguments: Any, **options: Any) -> None:
        raise OSError(f"no network to download {url}")

    before, fetch = constants.HF_HUB_OFFLINE, torch.hub.download_url_to_file
    constants.HF_HUB_OFFLINE, torch.hub.download_url_to_file = True, refuse
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, torch.hub.download_url_to_file = before, fetch


def require_bytes(name: str, tower: nn.Module, most: int | None) -> None:
    """Refuse an image tower whose weights one file cannot hold, before they are read.

    Args:
        name: Name of the backbone.
        tower: Image tower, usually from `sketch`.
        most: Limit in bytes of float32; None for no limit.

    Raises:
        CheckpointError: a larger tower.
    """
    count = sum(parameter.numel() for parameter in tower.parameters())
    if most is not None and 4 * count > most:
        raise CheckpointError(
            name,
            expected=f"an image tower of at most {most / 1e6:.0f} MB in float32, the limit of an ONNX file",
            got=f"{4 * count / 1e6:.0f} MB ({count / 1e6:.0f} M parameters)",
            do="choose a smaller one, for example open_clip:ViT-L-14/openai; --fp16 passes through float32 too",
        )


def sketch(name: str, build: Callable[[], Any]) -> Any:
    """Build a model without memory for its weights and without initialising them; `fill` brings them.

    Raises:
        CheckpointError: the library cannot build it.
    """
    with mapped(name, "an architecture that can be built", "choose another"), torch.device("meta"):
        return build()


def fill(model: nn.Module, state: Mapping[str, Tensor], name: str, source: str) -> None:
    """Give every parameter and persistent buffer of `model` the tensor of its name, as float32.

    Args:
        model: may come from `sketch`; the tensors become its own, nothing is copied that is float32 already.
        state: one tensor for each name.
        name: of the backbone, for messages.
        source: where the state came from, for messages.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape differs; it says which came first.
    """
    got = ""
    try:
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
        got = f"no {missing[0]}" if missing else f"the unknown {unexpected[0]}" if unexpected else ""
    except RuntimeError as exc:
        lines = str(exc).split("\n\t")  # a headline, then one line for each tensor
        got = lines[min(1, len(lines) - 1)].rstrip(".")
    library, remedy = layout_of(state)
    if got and remedy and not name.startswith((library, "dino")):
        got, advice = f"{got}, but names of {library}", remedy
    else:
        advice = "check that the file belongs to this backbone, and name the size it was saved at: NAME@SIZE"
    left = [key for key, tensor in chain(model.named_parameters(), model.named_buffers()) if tensor.is_meta]
    if got or left:
        raise CheckpointError(
            source,
            expected=f"every tensor of {name} and no other",
            got=got or f"no {left[0]}",
            do=advice,
        )
    model.float().eval()


def linear_of(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """A linear layer around parameters that exist already."""
    with torch.device("meta"):  # its own would be initialised for nothing
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = weight
    linear.bias = bias  # type: ignore[assignment]  # None is what a layer without a bias holds
    return linear


class FrozenClassifier(ZeroShot):
    """The frozen model's own classifier as the maker of heads: class i is its output i.

    Args:
        name: of the backbone, for messages.
        classifier: from the embedding to the outputs; None for a model without one.

    Source: Loedeman et al., BMVC 2024: a supervised ViT keeps its classifier, and label i maps to output i.
    """

    def __init__(self, name: str, classifier: nn.Linear | None) -> None:
        self.name, self.classifier = name, classifier

    def head(self, labels: tuple[str, ...], template: str) -> Head:
        """The classifier's first rows; the names of the classes and `template` say nothing to it."""
        outputs = 0 if self.classifier is None else self.classifier.out_features
        if len(labels) > outputs:
            raise self._refuse(f"at most {outputs} classes" if outputs else "", str(len(labels)))
        return self._rows(labels)

    def outputs(self) -> Head:
        """The whole classifier; its classes are numbers."""
        if self.classifier is None:
            raise self._refuse("", "")
        return self._rows(tuple(str(index) for index in range(self.classifier.out_features)))

    def _refuse(self, expected: str, got: str) -> DataError:
        return DataError(
            self.name,
            expected=expected or "a model with a classifier of its own",
            got=got if expected else "none",
            do="train with a linear head: --head linear",
        )

    @torch.no_grad()
    def _rows(self, labels: tuple[str, ...]) -> Head:
        assert self.classifier is not None
        weight = self.classifier.weight[: len(labels)].cpu()
        bias = weight.new_zeros(len(weight)) if self.classifier.bias is None else self.classifier.bias[: len(labels)]
        return Head.linear(weight.numpy(), bias.cpu().numpy(), labels)
