"""Enlarging images with a network, tile by tile, without a seam:
pure tensor code that does not import ComfyUI.
"""
