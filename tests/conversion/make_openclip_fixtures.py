"""Builds small OpenCLIP towers and records their features; run it where open_clip_torch and timm import.

    python tests/conversion/make_openclip_fixtures.py tests/fixtures/openclip

Each folder it writes is an OpenCLIP checkpoint (weights in float16, the text tower included) with the tower's input
and features beside it. Made with open_clip_torch 3.3.0, timm 1.0.31, torch 2.13.0.
"""

import json
import sys
from functools import cache
from pathlib import Path

import torch


TEXT = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
CLIP_VISION = {"image_size": 28, "layers": 2, "width": 48, "head_width": 12, "patch_size": 7}
SIGLIP_VISION = {
    "image_size": 30,
    "timm_model_name": "vit_base_patch7_siglip_tiny",
    "timm_model_pretrained": False,
    "timm_pool": "map",
    "timm_proj": "none",
}
CONFIGS = {
    "clip_quick_gelu": {"embed_dim": 8, "quick_gelu": True, "vision_cfg": CLIP_VISION, "text_cfg": TEXT},
    "clip_gelu": {"embed_dim": 8, "vision_cfg": CLIP_VISION, "text_cfg": TEXT},
    "siglip": {"embed_dim": 48, "custom_text": True, "vision_cfg": SIGLIP_VISION, "text_cfg": TEXT},
}
TORCHVISION_OPERATORS = (
    "nms", "qnms", "roi_align", "_roi_align_backward", "ps_roi_align", "_ps_roi_align_backward", "roi_pool",
    "_roi_pool_backward", "ps_roi_pool", "_ps_roi_pool_backward", "qroi_align", "deform_conv2d",
    "_deform_conv2d_backward",
)  # fmt: skip


def import_open_clip():
    """Imports open_clip, also beside a torchvision whose compiled operators do not load.

    torchvision then stops at operators without a schema. None of them is used here, so placeholders do.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, AttributeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in TORCHVISION_OPERATORS:
            try:
                library.define(f"{operator}(Tensor x) -> Tensor")
            except RuntimeError:
                continue  # it has one
    import open_clip

    return open_clip


@cache
def register_tiny_siglip() -> None:
    """Tells timm a SigLIP trunk of a few thousand parameters."""
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer

    def vit_base_patch7_siglip_tiny(pretrained: bool = False, **kwargs) -> VisionTransformer:
        del pretrained
        sizes = {"img_size": 30, "patch_size": 7, "embed_dim": 48, "depth": 2, "num_heads": 12, "mlp_ratio": 2.5}
        kept = {name: kwargs[name] for name in ("num_classes", "global_pool") if name in kwargs}
        return VisionTransformer(**sizes, class_token=False, **kept)

    register_model(vit_base_patch7_siglip_tiny)


def build_tower(config: dict):
    """Returns an OpenCLIP model with random weights that float16 holds exactly."""
    open_clip = import_open_clip()
    register_tiny_siglip()
    arguments = {name: value for name, value in config.items() if name != "custom_text"}
    build = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    torch.manual_seed(0)
    model = build(**arguments).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Large enough for activation functions to differ.
            noise = torch.randn_like(parameter) * (0.5 if "norm" in name or "ln_" in name else 0.2)
            parameter.copy_((parameter + noise).half().float())
    return model


def features_of(model, pixels: torch.Tensor) -> torch.Tensor:
    """Returns every patch's feature after the tower's final norm, (num_tiles, patches, width)."""
    with torch.no_grad():
        if hasattr(model.visual, "trunk"):
            return model.visual.trunk.forward_features(pixels)
        model.visual.output_tokens = True
        return model.visual(pixels)[1]


def main(out: Path) -> None:
    from safetensors.torch import save_file

    for name, config in CONFIGS.items():
        model = build_tower(config)
        size = config["vision_cfg"]["image_size"]
        pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
        written = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}}
        (folder / "open_clip_config.json").write_text(json.dumps(written, indent=1) + "\n")
        save_file(
            {"pixels": pixels, "features": features_of(model, pixels).contiguous()}, folder / "expected.safetensors"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
