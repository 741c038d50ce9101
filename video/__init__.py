"""Videos frame by frame: read, written in parts that can be resumed, joined;
pure code that does not import ComfyUI.
"""
