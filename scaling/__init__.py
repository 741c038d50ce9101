"""Sizes and factors: pure arithmetic that does not import ComfyUI."""
