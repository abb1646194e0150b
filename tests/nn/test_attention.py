"""The block that computes a class token alone, against the whole one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pgn_edge.nn.attention import Block, ClassTokenBlock, stack

HEADS, WIDTH = 3, 12


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


def whole(inner: int = WIDTH, bias: bool = True, optional: bool = False) -> Block:
    """A block of random parts; `inner` is the width of its attention."""
    torch.manual_seed(0)
    block = Block()
    block.heads, block.norm_1, block.norm_2 = HEADS, nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
    block.qkv, block.out = nn.Linear(WIDTH, 3 * inner, bias=bias), nn.Linear(inner, WIDTH)
    block.mlp = nn.Sequential(nn.Linear(WIDTH, 20), nn.GELU(), nn.Linear(20, WIDTH))
    if optional:
        block.query_norm, block.key_norm = nn.LayerNorm(inner // HEADS), nn.LayerNorm(inner // HEADS)
        block.inner_norm, block.scale_1, block.scale_2 = nn.LayerNorm(inner), Scale(), Scale()
    for parameter in block.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return block.double()


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"optional": True}, {"inner": 24}],
    ids=["plain", "no bias in query, key and value", "with every optional part", "attention wider than the tokens"],
)
def test_it_is_the_whole_block_at_its_first_token(options: dict[str, int]):
    block = whole(**options)
    last = ClassTokenBlock(block)
    x = torch.randn(2, 7, WIDTH, dtype=torch.float64, requires_grad=True)
    expected, got = block(x)[:, :1], last(x)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(each.square().sum(), x)[0] for each in (got, expected)]
    assert gradients[1].abs().amax(dim=-1).min() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)


def test_it_takes_no_memory_of_its_own():
    block = whole(optional=True)
    memory = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    assert {parameter.untyped_storage().data_ptr() for parameter in ClassTokenBlock(block).parameters()} == memory


def test_the_last_of_a_stack_is_the_only_one_that_changes():
    blocks = [whole(), whole(), whole()]
    assert [*stack(blocks, class_token=False)] == blocks
    *before, last = stack(blocks, class_token=True)
    assert before == blocks[:2]
    assert isinstance(last, ClassTokenBlock)
    assert len(stack([], class_token=True)) == 0
