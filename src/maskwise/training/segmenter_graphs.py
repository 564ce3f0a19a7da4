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

HEADS = 8
"""Attention heads of the decoder."""
PREVIEW = (3, 0)
"""The pixel of a cell that previews show: places in the two steps of 2 x 2 by which a cell is enlarged, row by row.
The last of the first step and the first of the second meet right and below the cell's centre."""


class EncoderGraph(nn.Module):
    """The image encoder, and what the decoder's first layer makes of the cells, which is the same for every prompt."""

    no_mask: Tensor
    gaussian: Tensor

    def __init__(self, sam: Any) -> None:
        """Take the parts of a SAM network.

        Args:
            sam: the original, with `image_encoder`, `prompt_encoder` and `mask_decoder`.
        """
        super().__init__()
        self.encoder: Any = sam.image_encoder
        self.register_buffer("no_mask", sam.prompt_encoder.no_mask_embed.weight.detach().clone())
        self.register_buffer("gaussian", gaussian_of(sam))
        layer = sam.mask_decoder.transformer.layers[0]
        self.to_cells: Any = layer.cross_attn_token_to_image
        self.from_cells: Any = layer.cross_attn_image_to_token

    def forward(
        self, image: Float32[Tensor, "1 3 side side"]
    ) -> tuple[
        Float32[Tensor, "1 cells channels"],
        Float32[Tensor, "cells channels"],
        Float32[Tensor, "1 heads inner cells"],
        Float32[Tensor, "1 heads cells inner"],
        Float32[Tensor, "1 heads inner cells"],
    ]:
        """Return features of the cells, their position encoding, and keys, values and queries of the first layer.

        Args:
            image: normalised, padded with zeros at the right and the bottom.
        """
        encoded = self.encoder(image)
        steps = [2 * ((torch.arange(side, dtype=torch.float32) + 0.5) / side) - 1 for side in encoded.shape[2:]]
        rows, columns = torch.meshgrid(*steps, indexing="ij")
        position = position_encoding(torch.stack([columns, rows], dim=-1).flatten(0, 1), self.gaussian)
        features = encoded.flatten(2).transpose(1, 2) + self.no_mask
        placed = features + position
        keys = _split(self.to_cells.k_proj(placed)).transpose(2, 3)
        queries = _split(self.from_cells.q_proj(placed)).transpose(2, 3)
        return features, position, keys, _split(self.to_cells.v_proj(features)), queries


class PromptGraph(nn.Module):
    """Prompts to masks that are not drawn yet: cell features, weights of the last layer, predicted IoU, previews.

    In later layers, attention from few tokens to many cells and back is computed without projecting the cells: the
    projection matrices are multiplied into the few tokens instead. That is exact, and halves the multiplications of a
    click, which has seven tokens.
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
        self.register_buffer("gaussian", gaussian_of(sam))
        kinds = [prompts.not_a_point_embed, *prompts.point_embeddings]
        self.register_buffer("kinds", torch.cat([kind.weight for kind in kinds]).detach().clone())
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        self.register_buffer("output_tokens", tokens.detach().clone())
        self.transformer: Any = decoder.transformer
        self.iou_head: Any = decoder.iou_prediction_head
        self.weight_heads: Any = decoder.output_hypernetworks_mlps
        self.drawing = MaskGraph(sam)

    def forward(  # noqa: PLR0917  # Inputs of a graph have an order.
        self,
        features: Float32[Tensor, "1 cells channels"],
        position: Float32[Tensor, "cells channels"],
        keys: Float32[Tensor, "1 heads inner cells"],
        values: Float32[Tensor, "1 heads cells inner"],
        queries: Float32[Tensor, "1 heads inner cells"],
        log_sizes: Float32[Tensor, " cells"],
        points: Float32[Tensor, "prompts points 2"],
        labels: Int64[Tensor, "prompts points"],
    ) -> tuple[
        Float32[Tensor, "prompts cells channels"],
        Float32[Tensor, "prompts masks weights"],
        Float32[Tensor, "prompts masks"],
        Float32[Tensor, "prompts masks cells"],
    ]:
        """Return features of the cells, weights of each mask, predicted IoU, and one logit of every cell and mask.

        Args:
            features: of `EncoderGraph`, like the next four; all cells, or some that stand for all.
            position: see there.
            keys: see there.
            values: see there.
            queries: see there.
            log_sizes: logarithm of the number of cells that each stands for.
            points: x and y, pixels of the 1024 x 1024 frame.
            labels: 1 part of the object, 0 not part of it, 2 and 3 first and last corner of its box, -1 no point.
        """
        embedded = self._embed_points(points, labels)
        original = torch.cat([self.output_tokens.expand(points.shape[0], -1, -1), embedded], dim=1)
        first, second = self.transformer.layers
        tokens = self._attend_to_tokens(first, original, original)
        query = _split(first.cross_attn_token_to_image.q_proj(tokens + original))
        shares = (_scaled(query) @ keys + log_sizes).softmax(dim=-1)
        tokens = _after_cells(first, tokens, _joined(first.cross_attn_token_to_image, shares @ values))
        key = _split(first.cross_attn_image_to_token.k_proj(tokens + original))
        cells = _updated_cells(first, features, tokens, _scaled(key) @ queries)

        tokens = self._attend_to_tokens(second, tokens, original)
        placed = cells + position
        attended = _tokens_to_cells(second.cross_attn_token_to_image, tokens + original, placed, cells, log_sizes)
        tokens = _after_cells(second, tokens, attended)
        cells = _updated_cells(second, cells, tokens, _logits_of_cells(second, placed, tokens + original))

        final = self.transformer.final_attn_token_to_image
        attended = _tokens_to_cells(final, tokens + original, cells + position, cells, log_sizes)
        tokens = self.transformer.norm_final_attn(tokens + attended)
        weights = torch.stack([head(tokens[:, 1 + index]) for index, head in enumerate(self.weight_heads)], dim=1)
        return cells, weights, self.iou_head(tokens[:, 0]), self.drawing.preview(cells, weights)

    @staticmethod
    def _attend_to_tokens(layer: Any, tokens: Tensor, original: Tensor) -> Tensor:
        if layer.skip_first_layer_pe:
            return layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
        placed = tokens + original
        return layer.norm1(tokens + layer.self_attn(q=placed, k=placed, v=tokens))

    def _embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        placed = position_encoding(2 * ((points + 0.5) / self.frame) - 1, self.gaussian)
        return torch.where(labels[..., None] < 0, 0.0, placed) + self.kinds[labels + 1]


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
        cells: Float32[Tensor, "prompts rows columns channels"],
        weights: Float32[Tensor, "prompts masks weights"],
    ) -> Float32[Tensor, "prompts masks height width"]:
        """Return mask logits, four pixels a cell in each direction; above 0 is the object.

        Args:
            cells: of `PromptGraph`, those that are wanted.
            weights: of `PromptGraph`, for the masks that are wanted.
        """
        prompts, rows, columns, _ = cells.shape
        middle = torch.unflatten(cells.flatten(1, 2) @ self.first + self.first_bias, 2, (4, -1))
        fine = F.gelu(self._normed(middle) @ self.second + self.second_bias).reshape(prompts, -1, weights.shape[2])
        logits = (weights @ fine.transpose(1, 2)).reshape(prompts, -1, rows, columns, 2, 2, 2, 2)
        return logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(prompts, -1, 4 * rows, 4 * columns)

    def preview(self, cells: Tensor, weights: Tensor) -> Tensor:
        """Return one of the sixteen logits of every cell, at a tenth of the cost; prompts x masks x cells."""
        matrix, bias = (torch.unflatten(part, -1, (4, -1)) for part in (self.first, self.first_bias))
        middle = cells @ matrix[:, PREVIEW[0]] + bias[PREVIEW[0]]
        matrix, bias = (torch.unflatten(part, -1, (4, -1)) for part in (self.second, self.second_bias))
        fine = F.gelu(self._normed(middle) @ matrix[:, PREVIEW[1]] + bias[PREVIEW[1]])
        return weights @ fine.transpose(1, 2)

    def _normed(self, middle: Tensor) -> Tensor:
        return F.gelu(F.layer_norm(middle, middle.shape[-1:], self.norm.weight, self.norm.bias, self.norm.eps))


def gaussian_of(sam: Any) -> Tensor:
    """Return the random matrix of SAM's position encoding."""
    return sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.detach().clone()


def position_encoding(places: Tensor, gaussian: Tensor) -> Tensor:
    """Return the encoding of places, each coordinate -1 to 1."""
    angles = 2 * math.pi * (places @ gaussian)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _split(vectors: Tensor) -> Tensor:
    """Return `batch heads tokens channels` of `batch tokens (heads channels)`."""
    return torch.unflatten(vectors, 2, (HEADS, -1)).transpose(1, 2)


def _scaled(heads: Tensor) -> Tensor:
    return heads / math.sqrt(heads.shape[-1])


def _joined(attention: Any, heads: Tensor) -> Tensor:
    return attention.out_proj(heads.transpose(1, 2).flatten(2))


def _after_cells(layer: Any, tokens: Tensor, attended: Tensor) -> Tensor:
    tokens = layer.norm2(tokens + attended)
    return layer.norm3(tokens + layer.mlp(tokens))


def _tokens_to_cells(attention: Any, queries: Tensor, keys: Tensor, values: Tensor, log_sizes: Tensor) -> Tensor:
    """Attend from tokens to cells.

    A bias of the keys adds the same to all logits of a query, which softmax ignores; one of the values is added as it
    is, because the attention of a query sums to one.
    """
    query = _scaled(_split(attention.q_proj(queries)))
    key_weight = torch.unflatten(attention.k_proj.weight, 0, (HEADS, -1))
    value_weight = torch.unflatten(attention.v_proj.weight, 0, (HEADS, -1)).transpose(1, 2)
    logits = (query @ key_weight).flatten(1, 2) @ keys.transpose(1, 2) + log_sizes
    mixed = torch.unflatten(logits.softmax(dim=-1) @ values, 1, (HEADS, -1)) @ value_weight
    return attention.out_proj(mixed.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def _logits_of_cells(layer: Any, cells: Tensor, tokens: Tensor) -> Tensor:
    """Return how much cells attend to tokens: batch, heads, tokens, cells."""
    attention = layer.cross_attn_image_to_token
    key = _scaled(_split(attention.k_proj(tokens)))
    query_weight = torch.unflatten(attention.q_proj.weight, 0, (HEADS, -1))
    query_bias = torch.unflatten(attention.q_proj.bias, 0, (HEADS, -1))[..., None]
    logits = (key @ query_weight).flatten(1, 2) @ cells.transpose(1, 2) + (key @ query_bias).flatten(1, 2)
    return torch.unflatten(logits, 1, (HEADS, -1))


def _updated_cells(layer: Any, cells: Tensor, tokens: Tensor, logits: Tensor) -> Tensor:
    """Attend from cells to tokens.

    The softmax over few tokens is written out, with the cells last: ONNX Runtime's own is slow for rows this short. The
    shares of each head sum to one, so the bias is added through the values.
    """
    attention = layer.cross_attn_image_to_token
    value = _split(attention.v_proj(tokens))
    out_weight = torch.unflatten(attention.out_proj.weight.transpose(0, 1), 0, (HEADS, -1))
    shares = (logits - logits.amax(dim=2, keepdim=True)).exp()
    shares = (shares / shares.sum(dim=2, keepdim=True)).flatten(1, 2)
    attended = shares.transpose(1, 2) @ (value @ out_weight + attention.out_proj.bias / HEADS).flatten(1, 2)
    return layer.norm4(cells + attended)
