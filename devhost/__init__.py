"""The development host: a real ComfyUI, an environment for it, and tiny models to run on it.

Nothing in here is installed by users of the pack (see `.comfyignore`).
"""
