"""Reads a stream through a model of Hugging Face transformers whose cache and positions are steered as a pot would
steer them, in double precision, and writes down what comes of it. A golden file has no weights: `weights` makes
them from their names, as tests/models/golden_model.hpp does.

A layer that keeps the whole context has a PotLayer: at most CAPACITY entries at the positions 0, 1, 2, ..., other
tokens in each kv head. Window layers keep their own, at the stream's positions.
"""

import copy
import dataclasses
import math
import random
import sys

import numpy as np
import torch
import transformers

# transformers takes some steps in single precision, whatever the model's type. Here these are double too.
torch.float32 = torch.float = torch.float64
torch.Tensor.float = torch.Tensor.double
torch.set_default_dtype(torch.float64)

CAPACITY, KEEP, CATALYST, CHUNK, DISTILLATIONS, AFTER = 24, 10, 3, 7, 5, 4
LIMIT = CAPACITY - CATALYST  # entries at which a distillation is due


def weights(name, shape):
    """splitmix64 of FNV-1a of the name plus the index, as numbers in -0.5 .. 0.5; norms are around 1."""
    seed = np.uint64(14695981039346656037)
    with np.errstate(over="ignore"):
        for byte in name.encode():
            seed = (seed ^ np.uint64(byte)) * np.uint64(1099511628211)
        x = (seed + np.arange(math.prod(shape), dtype=np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    numbers = (x >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    if "norm" in name:
        numbers += 1
    return torch.tensor(numbers.reshape(shape))


def rounded(numbers):
    return [float(f"{number:.9g}") for number in numbers]


class PotLayer:
    """Keys as projected, (kv heads, entries, channels), and values."""

    def __init__(self, turn):
        self.turn = turn  # (keys, positions, forward or back) -> keys
        self.keys = self.values = None

    def __len__(self):
        return 0 if self.keys is None else self.keys.shape[1]

    def update(self, keys, values):
        """Takes keys that the model has turned for their positions; gives back all, turned for theirs."""
        positions = torch.arange(len(self), len(self) + keys.shape[2])
        keys = self.turn(keys, positions, back=True)[0]
        self.keys = keys if self.keys is None else torch.cat([self.keys, keys], 1)
        self.values = values[0] if self.values is None else torch.cat([self.values, values[0]], 1)
        return self.turn(self.keys[None], torch.arange(len(self)), back=False), self.values[None]

    def truncate(self, size):
        self.keys, self.values = self.keys[:, :size], self.values[:, :size]

    def keep(self, kept):
        """Other entries in each head."""
        rows = [torch.tensor(each) for each in kept]
        self.keys = torch.stack([self.keys[head, row] for head, row in enumerate(rows)])
        self.values = torch.stack([self.values[head, row] for head, row in enumerate(rows)])


class StreamLayer:
    """All of the stream's keys and values; the mask hides what has left the window."""

    def __init__(self):
        self.keys = self.values = None

    def update(self, keys, values):
        self.keys = keys if self.keys is None else torch.cat([self.keys, keys], 2)
        self.values = values if self.values is None else torch.cat([self.values, values], 2)
        return self.keys, self.values

    def truncate_stream(self, size):
        self.keys, self.values = self.keys[:, :, :size], self.values[:, :, :size]


class SteeredCache:
    """What transformers' attention sees of the layers above."""

    def __init__(self, layers):
        self.layers = layers

    def update(self, keys, values, layer, *_):
        return self.layers[layer].update(keys, values)

    def get_seq_length(self, *_):
        return 0


def hidden(seen):
    return torch.where(seen, 0.0, -math.inf)[None, None]


@dataclasses.dataclass
class Family:
    """A model to make. `config` are the config's arguments, which also go to the golden file."""

    name: str
    config_class: type
    model_class: type
    config: dict
    rotates: list = None  # for each of the model's layers, whether it has RoPE; None: all


class Steered:
    """A model, and a stream read so far. Other kinds of layers: derive, and see make_layer, before and after."""

    def __init__(self, family):
        self.family = family
        extra = {"pad_token_id": None, "attn_implementation": "eager", "experts_implementation": "eager"}
        self.config = family.config_class(**copy.deepcopy(family.config), **extra)
        self.model = family.model_class(self.config).eval()
        self.shapes = {name: tuple(weight.shape) for name, weight in self.tensors()}
        tied = getattr(self.config, "tie_word_embeddings", False)
        made = {name: weights(name, shape) for name, shape in self.shapes.items()}
        missing, unexpected = self.model.load_state_dict(made, strict=False)
        assert not unexpected and (not missing or (tied and list(missing) == ["lm_head.weight"])), (missing, unexpected)
        self.decoder = self.model.model
        types = getattr(self.config, "layer_types", None)
        self.kinds = types or ["full_attention"] * self.config.num_hidden_layers
        self.module = sys.modules[type(self.decoder).__module__]
        self.size = self.stream = 0
        self.attention = {}
        self.restart()
        for i, layer in enumerate(self.decoder.layers):
            layer.register_forward_pre_hook(lambda _, args, kwargs, i=i: (args, self.steered(i, kwargs)), with_kwargs=True)
            if hasattr(layer, "self_attn"):
                layer.self_attn.register_forward_hook(lambda _, args, out, i=i: self.attention.update({i: out[1]}))

    def restart(self):
        self.size = self.stream = 0
        self.layers = [self.make_layer(i) for i in range(len(self.kinds))]

    # What other families may override.

    def make_layer(self, i):
        if self.kinds[i] == "sliding_attention":
            return StreamLayer()
        return PotLayer(lambda keys, positions, back: self.turn(i, keys, positions, back))

    def turn(self, i, keys, positions, back):
        """RoPE of keys (1, kv heads, entries, channels) by the model's own function, forward or back."""
        if not self.rotates(i):
            return keys
        cos, sin = (each[:, positions] for each in self.table(i))
        if back:
            length = cos**2 + sin**2  # the attention factor, squared
            cos, sin = cos / length, -sin / length
        return self.module.apply_rotary_pos_emb(keys, keys, cos, sin)[1]

    def table(self, i):
        """The model's cosines and sines of layer i, of all positions that may come."""
        everything = torch.arange(1000 if self.kinds[i] == "sliding_attention" else CAPACITY)[None]
        kind = (self.kinds[i],) if isinstance(self.config.rope_parameters.get("full_attention"), dict) else ()
        return self.decoder.rotary_emb(torch.zeros(1), everything, *kind)

    def tensors(self):
        """What has a weight of its name."""
        return self.model.named_parameters()

    def choose(self, choice, _lane):
        """The entries that a lane keeps."""
        return sorted(choice.sample(range(LIMIT), KEEP))

    def tokens(self, choice, length):
        """The stream."""
        vocabulary = self.config.get_text_config().vocab_size
        return [choice.randrange(vocabulary) for _ in range(length)]

    def more(self):
        """What else goes to the golden file."""
        return {}

    def before(self, probe):
        """Before a pass."""

    def after(self, probe):
        """After a pass; a probe must leave no trace."""

    # The rest is the same for all.

    def rotates(self, i):
        return self.family.rotates is None or bool(self.family.rotates[i])

    def pot_layers(self):
        return [i for i, layer in enumerate(self.layers) if isinstance(layer, PotLayer)]

    def steered(self, i, kwargs):
        """The arguments of decoder layer i: positions and mask as this kind of layer has them."""
        window = self.kinds[i] == "sliding_attention"
        first = self.stream if window else self.size
        positions = torch.arange(first, first + self.count)
        entries = torch.arange(first + self.count)
        seen = entries[None] <= positions[:, None]
        if window:
            seen &= entries[None] > positions[:, None] - self.config.sliding_window
        cos, sin = self.table(i)
        return kwargs | {"position_embeddings": (cos[:, positions], sin[:, positions]), "attention_mask": hidden(seen)}

    def forward(self, tokens, probe=False):
        """Logits of all tokens, (tokens, vocabulary). A probe leaves no trace."""
        self.count = len(tokens)
        self.before(probe)
        positions = torch.arange(self.size, self.size + self.count)
        kinds = set(self.kinds)
        masks = hidden(torch.ones(1, 1, dtype=torch.bool)) if kinds == {"full_attention"} else dict.fromkeys(kinds)
        with torch.no_grad():
            out = self.model(
                torch.tensor([tokens]), position_ids=positions[None], cache_position=positions, attention_mask=masks,
                past_key_values=SteeredCache(self.layers), use_cache=True,
            )
        if probe:
            for layer in self.layers:
                if isinstance(layer, PotLayer):
                    layer.truncate(self.size)
                if isinstance(layer, StreamLayer):
                    layer.truncate_stream(self.stream)
        self.after(probe)
        if not probe:
            self.size += self.count
            self.stream += self.count
        return out.logits[0]

    def scores(self, catalyst):
        """The attention that the catalyst pays to each entry: per lane, summed over queries and query heads."""
        self.forward(catalyst, probe=True)
        lanes = []
        for i in self.pot_layers():
            paid = self.attention[i][0, :, :, : self.size].sum(1)  # (query heads, entries)
            heads = self.layers[i].keys.shape[0]
            lanes += paid.unflatten(0, (heads, -1)).sum(1).tolist()
        return lanes

    def keep(self, kept):
        for i in self.pot_layers():
            heads = self.layers[i].keys.shape[0]
            self.layers[i].keep(kept[:heads])
            kept = kept[heads:]
        self.size = KEEP

    def plain(self, tokens):
        """Logits of the model as transformers runs it, with positions, masks and cache of its own."""
        other = self.family.model_class(self.config).eval()
        other.load_state_dict(self.model.state_dict())
        with torch.no_grad():
            return other(torch.tensor([tokens])).logits[0]


def run(steered):
    """The golden file's content."""
    name = steered.family.name
    choice = random.Random(name)
    length = LIMIT + (DISTILLATIONS - 1) * (LIMIT - KEEP) + AFTER
    tokens = steered.tokens(choice, length)
    catalyst = steered.tokens(choice, CATALYST)

    first = steered.forward(tokens[:LIMIT])
    error = (first - steered.plain(tokens[:LIMIT])).abs().max().item()
    assert error < 1e-9, f"{name} is steered wrong: {error}"
    steered.restart()

    distillations, rows, nuc, before = [], {}, [0.0], None
    for at, token in enumerate(tokens):
        if steered.size == LIMIT:
            cap = steered.scores(catalyst)
            kept = [steered.choose(choice, lane) for lane in range(len(cap))]
            steered.keep(kept)
            distillations.append({"kept": kept, "cap": [rounded(lane) for lane in cap]})
            rows |= {at - 1: before, at: None}
        logits = steered.forward([token])[0]
        if before is not None:
            nuc.append(-torch.log_softmax(before, -1)[token].item())
        before = logits
        if at in rows or at == length - 1:
            rows[at] = logits
    assert len(distillations) == DISTILLATIONS
    return {
        "source": f"transformers {transformers.__version__}", "name": name, "config": steered.family.config,
        "weights": {name: list(shape) for name, shape in steered.shapes.items()},
        "tokens": tokens, "catalyst": catalyst, "capacity": CAPACITY, "keep": KEEP, "chunk": CHUNK,
        "distillations": distillations,
        "logits": {str(row): rounded(logits.tolist()) for row, logits in rows.items()},
        "nuc": rounded(nuc),
    } | steered.more()
