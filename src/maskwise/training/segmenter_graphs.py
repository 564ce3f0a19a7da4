"""The networks of the segmenter as they are exported: SAM's, rearranged so that many prompts of an image are fast.

They compute the numbers of the original up to rounding. `cells` are the 64 x 64 places of the encoded image, row by
row; a cell is 16 x 16 pixels of the 1024 x 1024 frame and 4 x 4 pixels of a mask.

Source:
    A. Kirillov et al., Segment anything, arXiv:2304.02643; C. Zhang et al., Faster segment anything, arXiv:2306.14289.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

GRID = 64
"""Cells along each side of the encoded image."""
HEADS = 8
"""Attention heads of the decoder."""


class EncoderGraph(nn.Module):
    """The image encoder; adds the decoder's embedding for "no mask given", which is the same in every cell."""

    no_mask: Tensor

    def __init__(self, sam: Any) -> None:
        """Take the parts of a SAM network.

        Args:
            sam: the original, with `image_encoder` and `prompt_encoder`.
        """
        super().__init__()
        self.encoder: Any = sam.image_encoder
        self.register_buffer("no_mask", sam.prompt_encoder.no_mask_embed.weight.detach().clone())

    def forward(self, image: Float32[Tensor, "1 3 side side"]) -> Float32[Tensor, "1 cells channels"]:
        """Encode a normalised image, padded with zeros at the right and the bottom."""
        return self.encoder(image).flatten(2).transpose(1, 2) + self.no_mask


class PromptGraph(nn.Module):
    """Prompts to masks that are not drawn yet: cell features, weights of the last layer, predicted IoU.

    Attention from few tokens to many cells and back is computed without projecting the cells: the projection matrices
    are multiplied into the few tokens instead. That is exact, and more than halves the multiplications for up to
    fifteen tokens (a click has seven).
    """

    gaussian: Tensor
    kinds: Tensor
    output_tokens: Tensor

    def __init__(self, sam: Any) -> None:
        """Take the parts of a SAM network.

        Args:
            sam: the original, with `prompt_encoder` and `mask_decoder`.
        """
        super().__init__()
        prompts, decoder = sam.prompt_encoder, sam.mask_decoder
        self.frame = float(prompts.input_image_size[0])
        self.register_buffer("gaussian", prompts.pe_layer.positional_encoding_gaussian_matrix.detach().clone())
        kinds = [prompts.not_a_point_embed, *prompts.point_embeddings]
        self.register_buffer("kinds", torch.cat([kind.weight for kind in kinds]).detach().clone())
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        self.register_buffer("output_tokens", tokens.detach().clone())
        self.masks = len(decoder.mask_tokens.weight)
        self.transformer: Any = decoder.transformer
        self.iou_head: Any = decoder.iou_prediction_head
        self.weight_heads: Any = decoder.output_hypernetworks_mlps

    def forward(
        self,
        features: Float32[Tensor, "1 cells channels"],
        points: Float32[Tensor, "prompts points 2"],
        labels: Int64[Tensor, "prompts points"],
    ) -> tuple[
        Float32[Tensor, "prompts cells channels"],
        Float32[Tensor, "prompts masks weights"],
        Float32[Tensor, "prompts masks"],
    ]:
        """Return features of the cells, weights of each mask, and predicted IoU.

        Args:
            features: of `EncoderGraph`.
            points: x and y, pixels of the 1024 x 1024 frame.
            labels: 1 part of the object, 0 not part of it, 2 and 3 first and last corner of its box, -1 no point.
        """
        original = torch.cat(
            [self.output_tokens.expand(points.shape[0], -1, -1), self._embed_points(points, labels)], dim=1
        )
        position = self._position_of_cells()
        tokens, cells = original, features
        for layer in self.transformer.layers:
            tokens = layer.norm1(self._attend_to_tokens(layer, tokens, original))
            placed = cells + position
            attended = _tokens_to_cells(layer.cross_attn_token_to_image, tokens + original, placed, cells)
            tokens = layer.norm2(tokens + attended)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            attended = _cells_to_tokens(layer.cross_attn_image_to_token, placed, tokens + original, tokens)
            cells = layer.norm4(cells + attended)
        final = self.transformer.final_attn_token_to_image
        tokens = tokens + _tokens_to_cells(final, tokens + original, cells + position, cells)
        tokens = self.transformer.norm_final_attn(tokens)
        weights = [head(tokens[:, 1 + index]) for index, head in enumerate(self.weight_heads)]
        return cells, torch.stack(weights, dim=1), self.iou_head(tokens[:, 0])

    @staticmethod
    def _attend_to_tokens(layer: Any, tokens: Tensor, original: Tensor) -> Tensor:
        if layer.skip_first_layer_pe:
            return layer.self_attn(q=tokens, k=tokens, v=tokens)
        placed = tokens + original
        return tokens + layer.self_attn(q=placed, k=placed, v=tokens)

    def _embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        placed = self._encode(2 * ((points + 0.5) / self.frame) - 1)
        return torch.where(labels[..., None] < 0, 0.0, placed) + self.kinds[labels + 1]

    def _position_of_cells(self) -> Tensor:
        steps = 2 * ((torch.arange(GRID, dtype=torch.float32) + 0.5) / GRID) - 1
        x, y = steps.repeat(GRID), steps.repeat_interleave(GRID)
        return self._encode(torch.stack([x, y], dim=-1))

    def _encode(self, places: Tensor) -> Tensor:
        """Return the encoding of places, each coordinate -1 to 1."""
        angles = 2 * math.pi * (places @ self.gaussian)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _split(vectors: Tensor) -> Tensor:
    """Return `batch heads tokens channels` of `batch tokens (heads channels)`."""
    return torch.unflatten(vectors, 2, (HEADS, -1)).transpose(1, 2)


def _tokens_to_cells(attention: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from tokens to cells.

    A bias of the keys adds the same to all logits of a query, which softmax ignores; one of the values is added as it
    is, because the attention of a query sums to one.
    """
    query = _split(attention.q_proj(queries))
    channels = query.shape[-1]
    key_weight = attention.k_proj.weight.unflatten(0, (HEADS, channels)) / math.sqrt(channels)
    value_weight = attention.v_proj.weight.unflatten(0, (HEADS, channels)).transpose(1, 2)
    logits = (query @ key_weight).flatten(1, 2) @ keys.transpose(1, 2)
    mixed = torch.unflatten(logits.softmax(dim=-1) @ values, 1, (HEADS, -1)) @ value_weight
    return attention.out_proj(mixed.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def _cells_to_tokens(attention: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from cells to tokens.

    The softmax over few tokens is written out, with the cells last: ONNX Runtime's own is slow for rows this short. The
    shares of each head sum to one, so the bias is added through the values.
    """
    key, value = _split(attention.k_proj(keys)), _split(attention.v_proj(values))
    channels = key.shape[-1]
    query_weight = attention.q_proj.weight.unflatten(0, (HEADS, channels)) / math.sqrt(channels)
    query_bias = attention.q_proj.bias.unflatten(0, (HEADS, channels, 1)) / math.sqrt(channels)
    out_weight = attention.out_proj.weight.transpose(0, 1).unflatten(0, (HEADS, channels))
    logits = (key @ query_weight).flatten(1, 2) @ queries.transpose(1, 2) + (key @ query_bias).flatten(1, 2)
    logits = torch.unflatten(logits, 1, (HEADS, -1))
    shares = (logits - logits.amax(dim=2, keepdim=True)).exp()
    shares = (shares / shares.sum(dim=2, keepdim=True)).flatten(1, 2)
    return shares.transpose(1, 2) @ (value @ out_weight + attention.out_proj.bias / HEADS).flatten(1, 2)


class MaskGraph(nn.Module):
    """Draws masks. Every cell is computed for itself, so cells outside the photograph can be left out."""

    def __init__(self, sam: Any) -> None:
        """Take the parts of a SAM network.

        Args:
            sam: the original, with `mask_decoder`.
        """
        super().__init__()
        first, self.norm, _, second, _ = sam.mask_decoder.output_upscaling
        self.first, self.first_bias = self._as_matrix(first)
        self.second, self.second_bias = self._as_matrix(second)

    @staticmethod
    def _as_matrix(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
        """Return a transposed convolution of stride and size 2 as a matrix: in x (row, column, out)."""
        matrix = layer.weight.permute(0, 2, 3, 1).flatten(1)
        return nn.Parameter(matrix.detach().clone()), nn.Parameter(layer.bias.detach().repeat(4))

    def forward(
        self,
        features: Float32[Tensor, "prompts rows columns channels"],
        weights: Float32[Tensor, "prompts masks weights"],
    ) -> Float32[Tensor, "prompts masks height width"]:
        """Return mask logits, four pixels a cell in each direction; above 0 is the object.

        Args:
            features: of `PromptGraph`, for the cells that are wanted.
            weights: of `PromptGraph`, for the masks that are wanted.
        """
        prompts, rows, columns, _ = features.shape
        middle = torch.unflatten(features.flatten(1, 2) @ self.first + self.first_bias, 2, (4, -1))
        middle = F.gelu(F.layer_norm(middle, middle.shape[-1:], self.norm.weight, self.norm.bias, self.norm.eps))
        fine = F.gelu(middle @ self.second + self.second_bias).reshape(prompts, -1, weights.shape[2])
        logits = (weights @ fine.transpose(1, 2)).reshape(prompts, -1, rows, columns, 2, 2, 2, 2)
        return logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(prompts, -1, 4 * rows, 4 * columns)
