"""Enlarging pictures with a network, tile by tile, without a seam: pure tensor code that knows nothing of ComfyUI."""
