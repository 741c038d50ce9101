"""The node that draws the plan of the effects on a model."""

from __future__ import annotations

import comfy.samplers
import numpy as np
import torch
from comfy_api.latest import io

from ..host.images import check_levels, latent_size
from ..host.models import check_model
from ..host.notice import logged, pictures_with_notices
from ..patches.plan_picture import draw_plan
from ..patches.run_plan import plan_run


class MegapixelPlan(io.ComfyNode):
    """A drawing of the plan, before anything is sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelPlan",
            display_name="Plan Preview (Megapixel)",
            category="model/patch/unet",
            description=(
                "Draws what the Megapixel effects on a model will do during sampling: one row per UNet "
                "block, one column per step, the feature size in each cell and a colour for each effect. It "
                "samples nothing and takes a moment; use it to check a schedule before you sample."
            ),
            search_aliases=["Deep Shrink plan", "HiDiffusion plan", "schedule preview", "RAU-Net", "MSW-MSA"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model after the last Megapixel node, as it goes to the sampler."
                ),
                io.Latent.Input(
                    "latent_image", tooltip="The latent that goes to the sampler; only its size is used."
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=10000, tooltip="Number of steps, as in the sampler."
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.SCHEDULER_NAMES,
                    tooltip="Scheduler, as in the sampler. It sets the noise level of each step.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Denoise, as in the sampler. 1 runs all noise levels.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Noise levels of a custom sampler. They override steps, scheduler and denoise.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The plan as an image.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, latent_image, steps, scheduler, denoise, sigmas=None) -> io.NodeOutput:
        check_model(model)
        if sigmas is None:
            sigmas = comfy.samplers.KSampler(
                model, steps, torch.device("cpu"), "euler", scheduler, denoise
            ).sigmas
        check_levels(sigmas)
        plan = plan_run(model, latent_size(latent_image, "latent_image"), sigmas)
        picture = draw_plan(plan)
        # (H, W, 3) bytes -> (1, H, W, 3) floats from 0 to 1
        image = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)[None]
        texts = (
            []
            if plan.effects
            else ["model: nothing to do, it has no Megapixel effect. Connect it after a Megapixel node."]
        )
        return pictures_with_notices(logged(texts), image, cls)
