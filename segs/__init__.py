"""Segments of an image: made, cropped, pasted. Pure tensor code that does not import ComfyUI."""
