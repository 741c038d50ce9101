"""Which blocks a text means."""

from __future__ import annotations


def parse_blocks(text: str, socket: str) -> tuple[int, ...]:
    """Return the block numbers in a text such as "1,2" or "9 10 11": sorted, each once; empty is none.

    Raises:
        ValueError: something in it is no number; one sentence that names the socket.
    """
    words = text.replace(",", " ").split()
    if wrong := [word for word in words if not (word.isascii() and word.isdigit())]:
        raise ValueError(
            f"{socket}: expected block numbers with commas between, got '{wrong[0]}'. "
            "Write them like 1,2, or leave it empty for none."
        )
    return tuple(sorted({int(word) for word in words}))
