"""Detects, chooses and draws faces. Uses numpy, OpenCV and insightface's results,
and does not import ComfyUI.
"""
