"""Windows of image tokens for self-attention, for grids of any size.

With K windows, attention needs 1/K of the computation. If a side is not divisible by the number of windows,
the windows overlap: each contains distinct real tokens, so nothing is padded, masked or resized. A token in
several windows is a key in all of them, and takes its result from the window with the nearest centre.

The grid is cyclic and shifted by quarters of a window before it is split, so that borders move.

Source: HiDiffusion's MSW-MSA (arXiv 2311.17528), two by two windows. The overlap and other counts are ours;
for sides that divide, the result is that of the published partition.

B batch, H W height and width of the grid, N = H * W tokens, D their width, K windows of T tokens each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import bad_input
from ..record import record
from ..scaling.size import Size

QUARTERS = 4


@record
class WindowGrid:
    """`count` = (rows, columns) of equal windows over a grid of `size` = (height, width) tokens.

    Raises:
        ValueError: when a side has no window, or more windows than tokens.
    """

    size: Size
    count: Size = (2, 2)

    def __post_init__(self) -> None:
        if not all(1 <= count <= side for side, count in zip(self.size, self.count, strict=True)):
            hint = "A window holds at least one token."
            raise bad_input("count", f"1 to {self.size} windows along height and width", self.count, hint)

    @property
    def window(self) -> Size:
        """The (height, width) of one window: each side divided by its count, rounded up."""
        height, width = (-(-side // count) for side, count in zip(self.size, self.count, strict=True))
        return height, width


def native_count(size: Size, trained: Size) -> Size:
    """Return how many windows have about as many tokens as a grid of the `trained` size: 1 or more per side.

    A window's side is never below 7/8 of the trained one: in smaller ones the tiny models duplicate objects.
    """
    rows, columns = (max(1, int(side / own + 0.25)) for side, own in zip(size, trained, strict=True))
    return rows, columns


def window_indices(
    grid: WindowGrid, quarter: int | Tensor, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return the grid tokens of each window, and the position of each grid token's result.

    Args:
        grid: the windows.
        quarter: shift of the grid up and left, in quarters of a window; 0 to 3, as a number or a 0-d tensor.

    Returns:
        (K * T,) token numbers in the grid, window after window, and (N,) positions in the windows laid end to
        end.
        Taking the first and then the second is the identity.
    """
    (height, width), (rows, columns) = grid.size, grid.count
    window_height, window_width = grid.window
    from_rows, row_window, row_offset = _axis(height, rows, quarter, device)
    from_columns, column_window, column_offset = _axis(width, columns, quarter, device)
    # (rows, window height) and (columns, window width) -> (rows, columns, window height, window width)
    source = from_rows[:, None, :, None] * width + from_columns[None, :, None, :]
    window = row_window[:, None] * columns + column_window
    offset = row_offset[:, None] * window_width + column_offset
    return source.flatten(), (window * (window_height * window_width) + offset).flatten()


def _axis(
    length: int, count: int, quarter: int | Tensor, device: torch.device | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return for one axis: the positions in each window (count, window), and each position's window and
    position in it (length,).
    """
    window = -(-length // count)
    numbers = torch.arange(count, device=device)
    places = torch.arange(length, device=device)
    begin = numbers * (length - window) // max(count - 1, 1)
    # Of a place from a window's centre, doubled.
    distance = (2 * (places - begin[:, None]) - (window - 1)).abs()
    nearest = (distance * count + numbers[:, None]).argmin(0)  # of two alike, the first
    shift = quarter * (window // QUARTERS)
    source = (begin[:, None] + places[:window] + shift) % length
    moved = (places - shift) % length
    owner = nearest[moved]
    return source, owner, moved - begin[owner]


def partition_windows(tokens: Tensor, source: Tensor, windows: int) -> Tensor:
    """Split tokens (B, N, D) into windows (B * K, T, D), all windows of one batch entry first."""
    batch, _, width = tokens.shape
    # (B, N, D) -> (B, K T, D) -> (B K, T, D)
    return tokens.index_select(1, source).reshape(batch * windows, -1, width)


def merge_windows(windows: Tensor, position: Tensor, count: int) -> Tensor:
    """Merge windows (B * K, T, D) into tokens (B, N, D), the inverse of `partition_windows`; `count` is K."""
    # (B K, T, D) -> (B, K T, D) -> (B, N, D)
    return windows.reshape(-1, count * windows.shape[1], windows.shape[2]).index_select(1, position)
