"""The rearranged decoder gives the numbers of an ordinary one, in torch and as an ONNX file."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from maskwise.errors import ModelError
from maskwise.model.segment_frame import GRID, Frame
from maskwise.training.segmenter_graphs import HEADS, PREVIEW, EncoderGraph, MaskGraph, PromptGraph

RECIPE = Path(__file__).parents[2] / "recipes" / "fetch_segmenter.py"
WIDTH, INNER, WEIGHTS, MASKS = 32, 16, 4, 3


def recipe():
    spec = importlib.util.spec_from_file_location("fetch_segmenter", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Attention(nn.Module):
    """Attention in its ordinary form: every query, key and value is projected."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, INNER) for _ in range(3))
        self.out_proj = nn.Linear(INNER, WIDTH)

    def forward(self, q, k, v):
        parts = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        heads = [part.reshape(part.shape[0], -1, HEADS, INNER // HEADS).transpose(1, 2) for part in parts]
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2)
        return self.out_proj(mixed.reshape(q.shape[0], -1, INNER))


class Layer(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.skip_first_layer_pe = first
        self.self_attn, self.cross_attn_token_to_image, self.cross_attn_image_to_token = (Attention() for _ in range(3))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(WIDTH) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, WIDTH))


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, WIDTH // 2))

    def forward(self, shares):
        """Encode x and y, each 0 to 1."""
        angles = 2 * torch.pi * ((2 * shares - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


def small_sam():
    """A random network with the parts and names of SAM's, narrow enough for a test."""
    torch.manual_seed(0)
    transformer = nn.Module()
    transformer.layers = nn.ModuleList([Layer(True), Layer(False)])
    transformer.final_attn_token_to_image, transformer.norm_final_attn = Attention(), nn.LayerNorm(WIDTH)
    decoder, prompts = nn.Module(), nn.Module()
    decoder.iou_token, decoder.mask_tokens = nn.Embedding(1, WIDTH), nn.Embedding(MASKS, WIDTH)
    decoder.transformer = transformer
    decoder.iou_prediction_head = nn.Linear(WIDTH, MASKS)
    decoder.output_hypernetworks_mlps = nn.ModuleList([nn.Linear(WIDTH, WEIGHTS) for _ in range(MASKS)])
    norm = nn.LayerNorm(8)
    decoder.output_upscaling = nn.Sequential(
        nn.ConvTranspose2d(WIDTH, 8, 2, 2), norm, nn.GELU(), nn.ConvTranspose2d(8, WEIGHTS, 2, 2), nn.GELU()
    )
    prompts.input_image_size = (1024, 1024)
    prompts.pe_layer, prompts.not_a_point_embed = Positions(), nn.Embedding(1, WIDTH)
    prompts.point_embeddings = nn.ModuleList([nn.Embedding(1, WIDTH) for _ in range(4)])
    prompts.no_mask_embed = nn.Embedding(1, WIDTH)
    for module in (decoder, prompts):
        for parameter in module.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    encoder = nn.Conv2d(3, WIDTH, 16, 16)
    return SimpleNamespace(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder)


def ordinary_answers(sam, features, points, labels):
    """SAM's decoder as its paper describes it, for one prompt."""
    prompts, decoder = sam.prompt_encoder, sam.mask_decoder
    sparse = []
    for place, label in zip(points, labels, strict=True):
        position = prompts.pe_layer((place + 0.5) / 1024)
        sparse.append(
            prompts.not_a_point_embed.weight[0]
            if label == -1
            else position + prompts.point_embeddings[int(label)].weight[0]
        )
    original = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, torch.stack(sparse)])[None]
    step = (torch.arange(GRID) + 0.5) / GRID
    rows, columns = torch.meshgrid(step, step, indexing="ij")
    position = prompts.pe_layer(torch.stack([columns, rows], dim=-1)).reshape(1, -1, WIDTH)
    tokens, cells = original, features
    for layer in decoder.transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + original
            tokens = tokens + layer.self_attn(placed, placed, tokens)
        tokens = layer.norm1(tokens)
        tokens = layer.norm2(tokens + layer.cross_attn_token_to_image(tokens + original, cells + position, cells))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        cells = layer.norm4(cells + layer.cross_attn_image_to_token(cells + position, tokens + original, tokens))
    final = decoder.transformer.final_attn_token_to_image(tokens + original, cells + position, cells)
    tokens = decoder.transformer.norm_final_attn(tokens + final)
    weights = [head(tokens[0, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)]
    first, norm, act, second, last = decoder.output_upscaling
    image = cells.transpose(1, 2).reshape(1, WIDTH, GRID, GRID)
    middle = norm(first(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    fine = last(second(act(middle)))[0]
    logits = torch.stack([(weight[:, None, None] * fine).sum(0) for weight in weights])
    return logits, decoder.iou_prediction_head(tokens[0, 0])


POINTS = torch.tensor([[[100.0, 900.0], [0, 0]], [[30.0, 40.0], [700.0, 500.0]], [[512.0, 1.0], [9.0, 300.0]]])
LABELS = torch.tensor([[1, -1], [2, 3], [0, 1]])


@pytest.fixture(scope="module")
def sam():
    return small_sam()


@pytest.fixture(scope="module")
def encoded(sam):
    """The encoder's outputs for a random image, and that every cell stands for itself."""
    image = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return *EncoderGraph(sam)(image), torch.zeros(GRID**2)


def test_the_rearranged_decoder_gives_the_numbers_of_an_ordinary_one(sam, encoded):
    with torch.no_grad():
        cells, weights, scores, previews = PromptGraph(sam)(*encoded, POINTS, LABELS)
        logits = MaskGraph(sam)(cells.reshape(3, GRID, GRID, WIDTH), weights)
        for number in range(len(POINTS)):
            expected, expected_scores = ordinary_answers(sam, encoded[0], POINTS[number], LABELS[number])
            scale = expected.abs().max()
            assert scale > 0.1
            torch.testing.assert_close(logits[number] / scale, expected / scale, rtol=0, atol=2e-5)
            torch.testing.assert_close(scores[number], expected_scores, rtol=1e-4, atol=1e-5)
    assert PREVIEW == (3, 0)  # Of a cell of 4 x 4 pixels the one in row 2 and column 2.
    torch.testing.assert_close(previews.reshape(3, MASKS, GRID, GRID), logits[..., 2::4, 2::4], rtol=1e-4, atol=1e-4)


def test_one_cell_stands_for_equal_ones(sam, encoded):
    """Where all cells beside a photograph are equal, taking one of them as many changes nothing."""
    cells, sizes = Frame((400, 1000)).cells()
    rows, columns = 26, 64
    inside = rows * columns
    features, position, keys, values, queries, _ = (array.clone() for array in encoded)
    features[:, inside:], position[inside:] = features[:, -1:], position[-1:]
    keys[..., inside:], values[:, :, inside:] = keys[..., -1:], values[:, :, -1:]
    queries[..., inside:] = queries[..., -1:]
    whole = (features, position, keys, values, queries, torch.zeros(GRID**2))
    few = (features[:, cells], position[cells], keys[..., cells], values[:, :, cells], queries[..., cells])
    with torch.no_grad():
        expected = PromptGraph(sam)(*whole, POINTS, LABELS)
        got = PromptGraph(sam)(*few, torch.from_numpy(sizes).log().float(), POINTS, LABELS)
        other = PromptGraph(sam)(*few, torch.zeros(len(cells)), POINTS, LABELS)
    assert len(cells) < 0.5 * GRID**2
    torch.testing.assert_close(got[0][:, :inside], expected[0][:, :inside], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(got[2], expected[2], rtol=1e-3, atol=1e-4)
    assert (other[2] - expected[2]).abs().max() > 1e-2


def test_cells_outside_the_photograph_can_be_left_out(sam):
    graph = MaskGraph(sam)
    cells = torch.randn(2, GRID, GRID, WIDTH)
    weights = torch.randn(2, MASKS, WEIGHTS)
    with torch.no_grad():
        torch.testing.assert_close(graph(cells[:, :5, :9], weights[:, 1:]), graph(cells, weights)[:, 1:, :20, :36])


def test_the_encoder_adds_the_embedding_for_no_mask(sam):
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = EncoderGraph(sam)(image)[0]
        expected = sam.image_encoder(image)[0, :, 2, 3] + sam.prompt_encoder.no_mask_embed.weight[0]
    torch.testing.assert_close(features[0, 2 * 4 + 3], expected)


def test_the_exported_graphs_give_the_numbers_of_torch(sam, encoded, tmp_path):
    module = recipe()
    prompt_graph, mask_graph = PromptGraph(sam).eval(), MaskGraph(sam).eval()
    module.export_decoder(prompt_graph, mask_graph, (WIDTH, INNER // HEADS), tmp_path)
    sessions = [onnxruntime.InferenceSession(tmp_path / name) for name in (module.PROMPTS, module.DRAWING)]
    names = ["features", "position", "keys", "values", "queries", "log_sizes"]
    for count in (1, 3):
        prompts = {"points": POINTS[:count].numpy(), "labels": LABELS[:count].numpy()}
        inputs = {name: array.numpy() for name, array in zip(names, encoded, strict=True)} | prompts
        got = sessions[0].run(None, inputs)
        with torch.no_grad():
            expected = prompt_graph(*encoded, POINTS[:count], LABELS[:count])
            cells = expected[0].reshape(count, GRID, GRID, WIDTH)[:, :7, :11].contiguous()
            logits = mask_graph(cells, expected[1][:, :2])
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=1e-3, atol=2e-4)
        (drawn,) = sessions[1].run(None, {"cells": cells.numpy(), "weights": expected[1][:, :2].numpy()})
        np.testing.assert_allclose(drawn, logits.numpy(), rtol=1e-3, atol=2e-4)


def test_the_recipe_refuses_another_file(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"others")
    with pytest.raises(ModelError, match=r"weights\.pt: has SHA-256 .*, not abc; nothing was written"):
        recipe().check_sha256(path, "abc")
