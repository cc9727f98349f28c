"""The stages in torch and in kvpress, and the inputs that they share with infinipot."""

import dataclasses
import functools
import importlib.metadata
import math
import pathlib
import types

import numpy as np
import torch
from kvpress import KeyRerotationPress, SnapKVPress
from transformers.models.llama.modeling_llama import repeat_kv, rotate_half

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
CHUNK = 256  # tokens whose logits exist at once, as in an engine that reads by chunks


def kvpress_version():
    return importlib.metadata.version("kvpress")


@dataclasses.dataclass(frozen=True)
class Shape:
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    entries: int  # M, the catalyst's included
    catalyst: int  # p
    keep: int  # C
    theta: float

    @property
    def read(self):
        return self.entries - self.catalyst

    @property
    def group(self):
        return self.query_heads // self.kv_heads


def distinct(scores):
    """The same scores, some of them raised by a few units in the last place until no two of a head are equal, so that every
    rule for ties selects the same entries. Positive floats order like their bits."""
    bits = scores.float().numpy().view(np.int32)
    order = np.argsort(bits, axis=-1, kind="stable")
    steps = np.arange(bits.shape[-1], dtype=np.int32)
    raised = np.maximum.accumulate(np.take_along_axis(bits, order, -1) - steps, axis=-1) + steps
    result = np.empty_like(bits)
    np.put_along_axis(result, order, raised, -1)
    return torch.from_numpy(result.view(np.float32))


class Inputs:
    """Random keys, values (layers, 1, kv_heads, M, d) and queries (layers, 1, query_heads, p, d); the scores for the selection
    are their CaP."""

    def __init__(self, shape, element, seed):
        self.shape, self.element = shape, element
        torch.manual_seed(seed)
        draw = lambda heads, rows: torch.randn(shape.layers, 1, heads, rows, shape.head_dim).to(DTYPES[element])
        self.keys, self.values = (draw(shape.kv_heads, shape.entries) for _ in range(2))
        self.queries = draw(shape.query_heads, shape.catalyst)
        self.prepare()
        self.scores = distinct(torch.cat([self.torch_cap(layer)[None] for layer in range(shape.layers)]))
        self.kept = torch.stack([self.kvpress_select(layer)[0] for layer in range(shape.layers)])

    def prepare(self):
        s = self.shape
        self.inv_freq = 1.0 / (s.theta**(torch.arange(0, s.head_dim, 2, dtype=torch.float64) / s.head_dim)).float()
        self.future = torch.full((s.catalyst, s.catalyst), float("-inf"), dtype=DTYPES[self.element]).triu(1)
        self.products = torch.empty(s.kv_heads, s.group * s.catalyst, s.entries, dtype=DTYPES[self.element])
        # The part of a model's attention module that kvpress looks at. Its queries are given as hidden states.
        self.module = types.SimpleNamespace(
            config=types.SimpleNamespace(num_attention_heads=s.query_heads, num_key_value_heads=s.kv_heads),
            head_dim=s.head_dim, q_proj=lambda hidden: hidden, rotary_emb=types.SimpleNamespace(inv_freq=self.inv_freq))
        self.press = SnapKVPress(window_size=s.catalyst, kernel_size=1)
        ones = torch.ones(1, s.catalyst, s.head_dim, dtype=DTYPES[self.element])
        self.unrotated = {"position_embeddings": (ones, torch.zeros_like(ones))}

    def write(self, folder):
        """As infinipot-stages reads them: raw floats."""
        folder = pathlib.Path(folder)
        padded = torch.nn.functional.pad(self.scores, (0, self.shape.catalyst))
        for name, tensor in (("keys", self.keys), ("values", self.values), ("queries", self.queries.transpose(2, 3)),
                             ("scores", padded)):
            with open(folder / f"{name}.f32", "wb") as file:
                for layer in tensor:
                    layer.float().contiguous().numpy().tofile(file)

    # CaP, (kv_heads, M - p): sums over the queries and the query heads of a group.

    def torch_cap(self, layer):
        """Mirrors kvpress's SnapKVPress.compute_window_attention and SnapKVPress.score, without the pooling and with a mask for
        the last p entries only."""
        s = self.shape
        keys = repeat_kv(self.keys[layer], s.group)
        attention = torch.matmul(self.queries[layer], keys.transpose(2, 3)) / math.sqrt(s.head_dim)
        attention[..., s.read:] += self.future
        attention = torch.softmax(attention, dim=-1, dtype=torch.float32).to(attention.dtype)
        return attention[..., :s.read].sum(dim=-2).view(s.kv_heads, s.group, s.read).sum(1)

    @functools.cached_property
    def hidden(self):
        """Queries as (1, p + 1, H * d): kvpress needs more tokens than its window has."""
        flat = self.queries.transpose(2, 3).flatten(3)
        return torch.cat([flat[:, :, :1], flat], dim=2)

    def kvpress_cap(self, layer):
        """SnapKVPress.score without pooling; means where CaP has sums."""
        s = self.shape
        scores = self.press.score(self.module, self.hidden[layer], self.keys[layer], self.values[layer], None, self.unrotated)
        return scores[0, :, :s.read] * (s.catalyst * s.group)

    def multiply(self, layer):
        """The limit: the products alone, no key repeated, into memory that is already there."""
        s = self.shape
        queries = self.queries[layer].view(s.kv_heads, s.group * s.catalyst, s.head_dim)
        torch.bmm(queries, self.keys[layer, 0].transpose(1, 2), out=self.products)

    def cap_tolerance(self):
        """A logit q.k / sqrt(d) is about 5 at most. f32: its sum of d products errs by less than d units. 16 bits: torch rounds
        the product and the quotient to the type (a unit of 5 each), the probability to it, and their sum too."""
        largest = float(self.scores.max())
        unit = torch.finfo(DTYPES[self.element]).eps / 2
        return largest * (self.shape.head_dim * unit if self.element == "f32" else 16 * unit)

    # Selection, (1, kv_heads, C).

    def torch_select(self, layer):
        """As KeyRerotationPress.compress selects, in no order."""
        return self.scores[layer, None].topk(self.shape.keep, dim=-1).indices

    def kvpress_select(self, layer):
        """As KeyRerotationPress.compress selects: in ascending order, which re-rotation needs."""
        indices = self.scores[layer, None].topk(self.shape.keep, dim=-1).indices
        return torch.sort(indices, dim=2).values

    # Compaction, (1, kv_heads, C, d) keys and values.

    @functools.cached_property
    def angles(self):
        """cos and sin of every shift 0 .. M - 1, (M, d): what an engine computes once."""
        shifts = torch.arange(self.shape.entries, dtype=torch.float64)
        halves = torch.outer(shifts, self.inv_freq.double())
        both = torch.cat((halves, halves), dim=-1)
        return both.cos().to(DTYPES[self.element]), -both.sin().to(DTYPES[self.element])

    def torch_compact(self, layer):
        """The same as kvpress_compact, but with cosines and sines from a table."""
        s = self.shape
        kept = self.kept[layer, None]
        rows = kept.unsqueeze(-1).expand(-1, -1, -1, s.head_dim)
        shifts = kept - torch.arange(s.keep)
        keys = self.keys[layer].gather(2, rows)
        keys = keys * self.angles[0][shifts] + rotate_half(keys) * self.angles[1][shifts]
        return keys, self.values[layer].gather(2, rows)

    def kvpress_compact(self, layer):
        """KeyRerotationPress.rerotate_keys, then the values as KeyRerotationPress.compress gathers them."""
        kept = self.kept[layer, None]
        keys = KeyRerotationPress.rerotate_keys(self.module, kept, self.keys[layer])
        rows = kept.unsqueeze(-1).expand(-1, -1, -1, self.shape.head_dim)
        return keys, self.values[layer].gather(2, rows).contiguous()

    def key_tolerance(self):
        """kvpress computes angles in f32: one of up to M - C radians errs by two units of it. 16 bits: it rounds cosine, sine,
        both products and their sum to the type; ours is rounded once."""
        angle = (self.shape.entries - self.shape.keep) * 2**-23
        unit = torch.finfo(DTYPES[self.element]).eps / 2
        return math.sqrt(2) * float(self.keys.abs().max()) * (angle + 4 * unit)


class Logits:
    """Random logits (rows, vocab), and the tokens that came, (rows)."""

    def __init__(self, rows, vocab, seed):
        torch.manual_seed(seed)
        self.logits = torch.randn(rows, vocab).mul_(4)
        self.tokens = torch.randint(vocab, (rows,))

    def write(self, folder):
        folder = pathlib.Path(folder)
        self.logits.numpy().tofile(folder / "logits.f32")
        self.tokens.int().numpy().tofile(folder / "tokens.i32")

    def torch_nuc(self):
        """(rows) nats, a chunk at a time."""
        pairs = zip(self.logits.split(CHUNK), self.tokens.split(CHUNK))
        return torch.cat([torch.nn.functional.cross_entropy(*pair, reduction="none") for pair in pairs])

    def tolerance(self):
        """torch sums the exponentials in f32, in 8 lanes or more: each addition errs by a unit at most. Results are below 64,
        as the maximum and the logarithm that torch subtracts one after the other."""
        return (self.logits.shape[1] / 8 + 3 * 64) * 2**-24
