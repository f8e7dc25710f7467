"""How the model reads images: tiles -> tower -> chunks -> resampler -> tokens of the prompt.

Shapes: num_images images in num_tiles tiles, (num_tiles, channels, S, S) flat, in the order of the B prompts. A tile
has num_patches patches; a sampled chunk has num_latents tokens.
"""

from typing import Any

import torch
from transformers import CLIPVisionConfig
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .chunking_xgenmm import arrange_chunks, check, fits_prompt, image_of_chunk, resolve_num_tiles, split_tokens
from .compat_xgenmm import checkpoints_gradients
from .images_xgenmm import normalize_tiles
from .outputs_xgenmm import XGenMMImageOutput, asked_states, image_output
from .text_queries_xgenmm import TextQueries, one_image_per_prompt, prompt_mask_of, select_text


class ImageReadingMixin:
    """Reads images; a subclass has `config`, `vision_tower`, `resampler` and token embeddings."""

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.Tensor | None = None,
        image_num_tiles: torch.Tensor | None = None,
        prompt_ids: torch.Tensor | None = None,
        prompt_mask: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> XGenMMImageOutput:
        """Computes the tokens that images take in the prompt.

        Args:
            pixel_values: All tiles of all images, (num_tiles, channels, S, S).
            image_sizes: Image sizes in pixels as (height, width), (num_images, 2). Needed for images of more
                than one tile.
            image_num_tiles: Tiles per image, (num_images,). Default: counted from `image_sizes`, or one per image.
            prompt_ids: The prompts, (B, L), with their images expanded or not. Needed where
                `resampler_config.text_conditioned` is set (the first release).
            prompt_mask: 1 on the prompts' real tokens, (B, L).
            prompt_embeds: In place of `prompt_ids`, (B, L, text width).
            **kwargs: Passed to the vision tower; `output_hidden_states` and `output_attentions` also to the resampler.

        Returns:
            `last_hidden_state` of the vision tower, (num_tiles, patches, width), and in `pooler_output` a list of one
            (tokens, text width) tensor per image.

        Raises:
            ValueError: If tiles, sizes and counts do not fit each other, or the prompt is missing.
        """
        image_num_tiles = resolve_num_tiles(
            self.config, pixel_values.shape[0], image_sizes, image_num_tiles, pixel_values.device
        )
        text = None
        if prompt_ids is not None or prompt_embeds is not None:
            mask = self.image_token_mask(prompt_ids, prompt_embeds)
            embeds = self.get_input_embeddings()(prompt_ids) if prompt_embeds is None else prompt_embeds
            text = self._text_queries(embeds, mask, prompt_mask_of(prompt_mask, mask), image_num_tiles.shape[0])
        vision = self.get_vision_features(pixel_values, **kwargs)
        states = asked_states(kwargs, self.config)
        sampled = self._sample(vision.last_hidden_state, image_sizes, image_num_tiles, text, **states)
        tokens = split_tokens(self.config, sampled.last_hidden_state.flatten(0, 1), image_num_tiles)
        return image_output(vision, tokens, sampled)

    def get_vision_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Runs the vision tower; a frozen one keeps no graph, even if a hook made its embeddings differentiable.

        Args:
            pixel_values: All tiles of all images, (num_tiles, channels, S, S); uint8 tiles are normalised here.
            **kwargs: Passed to the vision tower.

        Returns:
            The tower's output; its `last_hidden_state` is (num_tiles, patches, width).
        """
        if pixel_values.dtype == torch.uint8:
            mean, std = (getattr(self.config, f"image_{name}", None) or [0.5] * 3 for name in ("mean", "std"))
            pixel_values = normalize_tiles(pixel_values, mean, std).to(self.dtype)
        if self.vision_tower.config._attn_implementation != "eager":
            kwargs.pop("output_attentions", None)  # only eager attention returns weights, and 4.57 warns
        trained = any(weight.requires_grad for weight in self.vision_tower.parameters())
        if trained and checkpoints_gradients(self.vision_tower) and not pixel_values.requires_grad:
            # re-entrant checkpointing gives an adapter in a layer no gradient unless the layer's input has one
            pixel_values = pixel_values.detach().requires_grad_()
        with torch.set_grad_enabled((trained or pixel_values.requires_grad) and torch.is_grad_enabled()):
            return self.vision_tower(pixel_values, return_dict=True, **kwargs)

    def sample_tokens(
        self,
        features: torch.Tensor,
        image_sizes: torch.Tensor | None,
        image_num_tiles: torch.Tensor,
        text: TextQueries | None = None,
    ) -> torch.Tensor:
        """Turns the tower's features (num_tiles, patches, width) into (total image tokens, text width)."""
        return self._sample(features, image_sizes, image_num_tiles, text).last_hidden_state.flatten(0, 1)

    def _sample(
        self,
        features: torch.Tensor,
        image_sizes: torch.Tensor | None,
        image_num_tiles: torch.Tensor,
        text: TextQueries | None,
        **states: bool,
    ) -> BaseModelOutput:
        chunks, visible = arrange_chunks(self.config, self._patch_features(features), image_sizes, image_num_tiles)
        if text is not None:
            text = text._replace(image=image_of_chunk(image_num_tiles.to(chunks.device), chunks.shape[0]))
        return self.resampler(chunks, visible, text, **states)

    def _text_queries(
        self, embeds: torch.Tensor, mask: torch.Tensor, prompt_mask: Any, num_images: int
    ) -> TextQueries | None:
        """Returns the text queries of each image, or None if the resampler reads no text."""
        if not self.config.resampler_config.text_conditioned:
            return None
        check(one_image_per_prompt(mask, num_images))
        return select_text(self.config, embeds, mask, prompt_mask, num_images)

    def _patch_features(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the patches' features after the tower's final norm, without a class token."""
        if not isinstance(self.config.vision_config, CLIPVisionConfig):
            return features
        # the library's CLIP normalises only the class token
        return self.vision_tower.vision_model.post_layernorm(features[:, 1:])

    def image_token_mask(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Finds the image tokens of a batch.

        Args:
            input_ids: (B, L), or None.
            inputs_embeds: (B, L, text width); read where there are no ids.

        Returns:
            True at image tokens, (B, L).
        """
        if input_ids is not None and (input_ids.numel() or inputs_embeds is None):
            return input_ids == self.config.image_token_id
        embeds: Any = inputs_embeds
        image_token = torch.tensor(self.config.image_token_id, device=embeds.device)
        return (embeds == self.get_input_embeddings()(image_token)).all(-1)

    def _read_images(
        self,
        images: dict[str, Any],
        embeds: torch.Tensor,
        mask: torch.Tensor,
        prompt_mask: torch.Tensor | None,
        repeats: int,
        states: dict[str, bool],
    ) -> tuple[torch.Tensor | None, XGenMMImageOutput | None]:
        """Returns the images' tokens, (total image tokens, text width), computed or given, and the requested states.

        Everything is checked before the tower runs, so that the host never waits for the tower.
        """
        pixel_values, sizes = images["pixel_values"], images["image_sizes"]
        encoded = (images["mm_encoder_outputs"] or {}).get("image")
        if encoded is not None and pixel_values is not None:
            raise ValueError("Pass either pixel_values or mm_encoder_outputs, not both.")
        if encoded is not None and encoded.pooler_output is not None:
            tokens = torch.cat(list(encoded.pooler_output))
            check(fits_prompt(tokens.shape[0] * repeats, mask))
            return tokens, encoded if states else None
        source = pixel_values if encoded is None else encoded.last_hidden_state
        if source is None or source.shape[0] == 0:
            return None, None
        num_tiles = resolve_num_tiles(
            self.config, source.shape[0], sizes, images["image_num_tiles"], source.device, mask, repeats
        )
        text = self._text_queries(embeds, mask, prompt_mask, num_tiles.shape[0] * repeats)
        vision = self.get_vision_features(pixel_values, **states) if encoded is None else encoded
        features = vision.last_hidden_state
        if text is not None and repeats > 1:  # the tokens differ from row to row
            features, num_tiles = features.repeat(repeats, 1, 1), num_tiles.repeat(repeats)
            sizes = None if sizes is None else sizes.repeat(repeats, 1)
        sampled = self._sample(features, sizes, num_tiles, text, **states)
        tokens = sampled.last_hidden_state.flatten(0, 1)
        if not states:
            return tokens, None
        return tokens, image_output(vision, split_tokens(self.config, tokens, num_tiles), sampled)
