"""Effects on a ModelPatcher: everything about block numbers, sigmas and `transformer_options`.

Every effect is a function `apply_<effect>(model, config) -> model` that returns a patched clone.
"""
