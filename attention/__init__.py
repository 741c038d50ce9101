"""Attention over image tokens: pure tensor code that knows nothing of ComfyUI."""
