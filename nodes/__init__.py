"""The nodes of the pack, in the order of the menu."""

from .deep_shrink import MegapixelDeepShrink
from .face_analysis import MegapixelFaceAnalysis
from .face_keypoints import MegapixelFaceKeypoints
from .hidiffusion import MegapixelHiDiffusion
from .instant_id import MegapixelInstantIDApply, MegapixelInstantIDAttention, MegapixelInstantIDControlNet
from .instant_id_loader import MegapixelInstantIDLoader
from .msw_msa import MegapixelMSWMSA, MegapixelMSWMSASimple
from .plan import MegapixelPlan
from .rau_net import MegapixelRAUNet, MegapixelRAUNetSimple
from .segs_filter import MegapixelSEGSFilter
from .segs_hooks import MegapixelSaveProgressHook, MegapixelSchedulerFunction
from .segs_makers import MegapixelFacesToSEGS, MegapixelMaskToSEGS, MegapixelTilesToSEGS
from .segs_preview import MegapixelSEGSPreview
from .segs_share import MegapixelSEGSMerge, MegapixelSEGSSend, MegapixelSEGSSlice
from .segs_texts import MegapixelSEGSImages, MegapixelSEGSTexts
from .segs_upscale import MegapixelSEGSUpscale, MegapixelSEGSUpscalePipe
from .upscale import MegapixelUpscale
from .upscale_video import MegapixelUpscaleVideo

NODES = [
    MegapixelDeepShrink,
    MegapixelHiDiffusion,
    MegapixelRAUNetSimple,
    MegapixelRAUNet,
    MegapixelMSWMSASimple,
    MegapixelMSWMSA,
    MegapixelPlan,
    MegapixelUpscale,
    MegapixelUpscaleVideo,
    MegapixelSEGSUpscale,
    MegapixelSEGSUpscalePipe,
    MegapixelMaskToSEGS,
    MegapixelTilesToSEGS,
    MegapixelFacesToSEGS,
    MegapixelSEGSPreview,
    MegapixelSEGSFilter,
    MegapixelSEGSImages,
    MegapixelSEGSTexts,
    MegapixelSEGSSlice,
    MegapixelSEGSSend,
    MegapixelSEGSMerge,
    MegapixelSaveProgressHook,
    MegapixelSchedulerFunction,
    MegapixelFaceAnalysis,
    MegapixelFaceKeypoints,
    MegapixelInstantIDLoader,
    MegapixelInstantIDApply,
    MegapixelInstantIDAttention,
    MegapixelInstantIDControlNet,
]
