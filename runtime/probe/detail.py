"""Whether single pixels reach the ViT.

One level of difference from pixel to pixel on a plain picture is gone to the last bit after any clear resampling, and
after most re-encoding. The same level from half to half is not: where the answer follows the one and not the other,
pixels do not arrive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgn_edge.runtime.probe.subject import Subject
from pgn_edge.runtime.probe.yardstick import distances, rms

PLAIN = (90, 140, 170)  # levels of a picture without content
SAME = 1e-6  # distance of unit vectors: text of six digits, and rounding of float32
SEEN = 50  # times that, for what is clearly seen


@dataclass(frozen=True)
class Detail:
    """How a level moves the answer, in distances of vectors of length 1.

    Args:
        fine: up and down from pixel to pixel.
        coarse: up in one half and down in the other.
        same: none at all, or `SAME` where that is more.
    """

    fine: float
    coarse: float
    same: float

    @property
    def lost(self) -> bool:
        """Whether the answer does not follow single pixels, though it follows larger parts."""
        return self.fine <= self.same and self.coarse > SEEN * self.same


def detail(subject: Subject) -> Detail:
    """Ask for a plain picture and the same with one level of difference, in 8 bits.

    Args:
        subject: that is asked, four times.

    Raises:
        EngineError: as `Subject.answer`.
    """
    height, width = subject.size_hw
    rows, columns = np.indices((height, width))
    plain = np.tile(np.array(PLAIN, np.int16), (height, width, 1))
    steps = [0 * rows, (-1) ** (rows + columns), np.where(rows < height // 2, 1, -1), 0 * rows]
    answers = [subject.answer((plain + step[..., None])[None]) for step in steps]
    fine, coarse, same = (rms(distances(answers[0], other)) for other in answers[1:])
    return Detail(fine, coarse, max(same, SAME))
