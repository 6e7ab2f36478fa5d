"""The released model's function, written from its formulas in float64 numpy: the reference for parity.

Shares no code with `lightgen_core`. `python -m tests.factories.released_formula` writes the golden file again.
"""

import json
import math

import numpy as np
from scipy.special import erf

from tests.support import paths

GOLDEN = paths.GOLDEN / "upstream.json"
GRIDS = ((16, 16), (32, 32), (16, 32))
WIDTH, HEADS, DEPTH, HEAD_WIDTH, HEAD_DEPTH, TEXT_WIDTH, WORDS, TOKEN_WIDTH, PLACES = 32, 4, 2, 48, 2, 24, 7, 64, 256


def released_state() -> dict[str, np.ndarray]:
    """A small released state dict with random weights, fp32; the same on every machine."""
    random = np.random.RandomState(20250311)
    state: dict[str, np.ndarray] = {}

    def vectors(name: str, *shape: int) -> None:
        state[name] = (0.3 * random.standard_normal(shape)).astype(np.float32)

    def linear(name: str, inputs: int, outputs: int) -> None:
        state[name + ".weight"] = (0.6 * random.standard_normal((outputs, inputs)) / math.sqrt(inputs)).astype(
            np.float32
        )
        vectors(name + ".bias", outputs)

    def norm(name: str, width: int) -> None:
        state[name + ".weight"] = (1 + 0.2 * random.standard_normal(width)).astype(np.float32)
        vectors(name + ".bias", width)

    def mlp(name: str) -> None:
        linear(name + ".fc1", WIDTH, 4 * WIDTH)
        linear(name + ".fc2", 4 * WIDTH, WIDTH)

    for name in ("encoder_pos_embed_learned", "decoder_pos_embed_learned", "last_pos_embed_learned"):
        vectors(name, 1, PLACES, WIDTH)
    for name in ("fake_latent", "mask_token"):
        vectors(name, 1, 1, WIDTH)
    linear("text_emb.text_proj.linear_1", TEXT_WIDTH, WIDTH)
    linear("text_emb.text_proj.linear_2", WIDTH, WIDTH)
    linear("z_proj", TOKEN_WIDTH, WIDTH)
    linear("decoder_embed", WIDTH, WIDTH)
    linear("last_embed", WIDTH, WIDTH)
    for name in ("text_emb.text_aligner_norm", "z_proj_ln", "encoder_norm", "decoder_norm", "cross_norm"):
        norm(name, WIDTH)
    for part in ("text_emb.text_aligner", "encoder_blocks", "decoder_blocks", "cross_attn_blocks"):
        for block in (f"{part}.{index}" for index in range(DEPTH)):
            if part == "cross_attn_blocks":
                norm(block + ".normq", WIDTH)
                norm(block + ".normkv", WIDTH)
                linear(block + ".attn.query_linear", WIDTH, WIDTH)
                linear(block + ".attn.kv", WIDTH, 2 * WIDTH)
            else:
                norm(block + ".norm1", WIDTH)
                linear(block + ".attn.qkv", WIDTH, 3 * WIDTH)
            linear(block + ".attn.proj", WIDTH, WIDTH)
            norm(block + ".norm2", WIDTH)
            mlp(block + ".mlp")
    net = "diffloss.net."
    linear(net + "time_embed.mlp.0", 256, HEAD_WIDTH)
    linear(net + "time_embed.mlp.2", HEAD_WIDTH, HEAD_WIDTH)
    linear(net + "cond_embed", WIDTH, HEAD_WIDTH)
    linear(net + "input_proj", TOKEN_WIDTH, HEAD_WIDTH)
    for block in (f"{net}res_blocks.{index}" for index in range(HEAD_DEPTH)):
        norm(block + ".in_ln", HEAD_WIDTH)
        linear(block + ".mlp.0", HEAD_WIDTH, HEAD_WIDTH)
        linear(block + ".mlp.2", HEAD_WIDTH, HEAD_WIDTH)
        linear(block + ".adaLN_modulation.1", HEAD_WIDTH, 3 * HEAD_WIDTH)
    linear(net + "final_layer.adaLN_modulation.1", HEAD_WIDTH, 2 * HEAD_WIDTH)
    linear(net + "final_layer.linear", HEAD_WIDTH, 2 * TOKEN_WIDTH)
    return state


def inputs(grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """Two images with 70 % of their tokens masked, and their texts; fp32, the same on every machine."""
    random = np.random.RandomState(grid[0] * 1000 + grid[1])
    tokens = grid[0] * grid[1]
    mask = np.stack([random.permutation(tokens) < 0.7 * tokens for _ in range(2)])
    return {
        "tokens": random.standard_normal((2, tokens, TOKEN_WIDTH)).astype(np.float32),
        "mask": mask,
        "text": random.standard_normal((2, WORDS, TEXT_WIDTH)).astype(np.float32),
    }


def head_inputs() -> dict[str, np.ndarray]:
    """Noisy tokens, steps and conditions of 32 rows, the first and last step among them."""
    random = np.random.RandomState(7)
    return {
        "noisy": random.standard_normal((32, TOKEN_WIDTH)).astype(np.float32),
        "timestep": np.append([0, 999], random.randint(0, 1000, 30)),
        "condition": random.standard_normal((32, WIDTH)).astype(np.float32),
    }


class Released:
    """The formulas. Weights are looked up by their released names."""

    def __init__(self, state: dict[str, np.ndarray], heads: int = HEADS):
        self.state = {name: tensor.astype(np.float64) for name, tensor in state.items()}
        self.heads = heads

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.state[name + ".weight"].T + self.state[name + ".bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        return normalised(x) * self.state[name + ".weight"] + self.state[name + ".bias"]

    def mlp(self, name: str, x: np.ndarray) -> np.ndarray:
        inner = self.linear(name + ".fc1", x)
        return self.linear(name + ".fc2", inner * 0.5 * (1 + erf(inner / math.sqrt(2))))

    def attention(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        mixed = []
        for part in np.split(np.arange(q.shape[-1]), self.heads):
            score = np.einsum("bqc,bkc->bqk", q[..., part], k[..., part]) / math.sqrt(len(part))
            weight = np.exp(score - score.max(-1, keepdims=True))
            mixed.append(weight / weight.sum(-1, keepdims=True) @ v[..., part])
        return np.concatenate(mixed, axis=-1)

    def block(self, name: str, x: np.ndarray) -> np.ndarray:
        q, k, v = np.split(self.linear(name + ".attn.qkv", self.norm(name + ".norm1", x)), 3, axis=-1)
        x = x + self.linear(name + ".attn.proj", self.attention(q, k, v))
        return x + self.mlp(name + ".mlp", self.norm(name + ".norm2", x))

    def text_block(self, name: str, x: np.ndarray, text: np.ndarray) -> np.ndarray:
        query = self.norm(name + ".normq", x)
        k, v = np.split(self.linear(name + ".attn.kv", self.norm(name + ".normkv", text)), 2, axis=-1)
        q = self.linear(name + ".attn.query_linear", query)
        x = query + self.linear(name + ".attn.proj", self.attention(q, k, v))
        return x + self.mlp(name + ".mlp", self.norm(name + ".norm2", x))

    def positions(self, name: str, grid: tuple[int, int]) -> np.ndarray:
        table = self.state[name][0]
        side = math.isqrt(len(table))
        if grid == (side, side):
            return table
        # The map is resized to (w, h), not (h, w), and then read off as it lies in memory.
        along, across = (bicubic(side, size) for size in reversed(grid))
        return np.einsum("ia,jb,abc->ijc", along, across, table.reshape(side, side, -1)).reshape(grid[0] * grid[1], -1)

    def states(self, tokens: np.ndarray, mask: np.ndarray, text: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        batch, count, _ = tokens.shape
        inner = self.linear("text_emb.text_proj.linear_1", text)
        tanh = np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3))
        text = self.linear("text_emb.text_proj.linear_2", 0.5 * inner * (1 + tanh))
        for index in range(DEPTH):
            text = self.block(f"text_emb.text_aligner.{index}", text)
        text = self.norm("text_emb.text_aligner_norm", text)

        x = self.linear("z_proj", tokens) + self.positions("encoder_pos_embed_learned", grid)
        x = self.norm("z_proj_ln", x)[~mask].reshape(batch, -1, x.shape[-1])
        for index in range(DEPTH):
            x = self.block(f"encoder_blocks.{index}", x)
        x = self.linear("decoder_embed", self.norm("encoder_norm", x))

        full = np.broadcast_to(self.state["mask_token"], (batch, count, x.shape[-1])).copy()
        full[~mask] = x.reshape(-1, x.shape[-1])
        full = full + self.positions("decoder_pos_embed_learned", grid)
        for index in range(DEPTH):
            full = self.block(f"decoder_blocks.{index}", full)

        x = self.linear("last_embed", self.norm("decoder_norm", full)) + self.positions("last_pos_embed_learned", grid)
        for index in range(DEPTH):
            x = self.text_block(f"cross_attn_blocks.{index}", x, text)
        return self.norm("cross_norm", x)

    def head(self, noisy: np.ndarray, timestep: np.ndarray, condition: np.ndarray) -> np.ndarray:
        net = "diffloss.net."
        # The released angles are fp32, which at step 999 is 6e-5 of them: part of the function, so rounded here too.
        exponent = np.float32(-math.log(10_000)) * np.arange(128, dtype=np.float32) / np.float32(128)
        frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
        angle = (timestep[:, None].astype(np.float32) * frequency).astype(np.float64)
        waves = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
        time = self.linear(net + "time_embed.mlp.2", silu(self.linear(net + "time_embed.mlp.0", waves)))
        y = silu(time + self.linear(net + "cond_embed", condition))
        x = self.linear(net + "input_proj", noisy)
        for index in range(HEAD_DEPTH):
            block = f"{net}res_blocks.{index}"
            shift, scale, gate = np.split(self.linear(block + ".adaLN_modulation.1", y), 3, axis=-1)
            inner = self.norm(block + ".in_ln", x) * (1 + scale) + shift
            x = x + gate * self.linear(block + ".mlp.2", silu(self.linear(block + ".mlp.0", inner)))
        shift, scale = np.split(self.linear(net + "final_layer.adaLN_modulation.1", y), 2, axis=-1)
        return self.linear(net + "final_layer.linear", normalised(x) * (1 + scale) + shift)


def normalised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def bicubic(side: int, size: int) -> np.ndarray:
    """Weights (size, side) of Keys' cubic convolution with a = -0.75, edges repeated, at scale (size + 0.1) / side."""
    weights, a = np.zeros((size, side)), -0.75
    for row in range(size):
        centre = (row + 0.5) * side / (size + 0.1) - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            d = abs(centre - tap)
            near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[row, min(max(tap, 0), side - 1)] += near if d <= 1 else far
    return weights


def sampled(values: np.ndarray) -> list[float]:
    """64 values spread over an array, rounded to seven digits after the point."""
    return np.round(values.ravel()[np.linspace(0, values.size - 1, 64).astype(int)], 7).tolist()


def main() -> None:
    model = Released(released_state())
    golden = {"head": sampled(model.head(**head_inputs()))}
    for grid in GRIDS:
        golden[f"{grid[0]}x{grid[1]}"] = sampled(model.states(**inputs(grid), grid=grid))
    GOLDEN.write_text(json.dumps(golden).replace("], ", "],\n ") + "\n")


if __name__ == "__main__":
    main()
