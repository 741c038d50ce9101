"""Sizes and factors: pure arithmetic that knows nothing of ComfyUI."""
