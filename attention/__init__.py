"""Attention over image tokens: pure tensor code that does not import ComfyUI."""
