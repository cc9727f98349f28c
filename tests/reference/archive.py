"""The archive: keys before RoPE and values of everything that was read, and what is brought back from it.

Rows are kept as they are read back: rounded to f32, f16, or codes of 8 or 4 bits, written here from the definition of
these codes. A recall appends them to another pot, which distils them with the question as catalyst, as if it read them.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from ccd import Pot

GROUP = 32  # channels that share a scale


def rounded_rows(rows, kind):
    """rows[..., channel] in single precision after they were kept as `kind`."""
    rows = rows.astype(np.float32)
    if kind == "f32":
        return rows
    if kind == "f16":
        return rows.astype(np.float16).astype(np.float32)
    assert rows.shape[-1] % GROUP == 0
    groups = rows.reshape(*rows.shape[:-1], -1, GROUP)
    return {"int8": _int8, "int4": _int4}[kind](groups).reshape(rows.shape)


def made_up_channels(layers, kv_heads, head_dim):
    """Centre and spread of key channels, [layer, kv head, 1, channel], as the test makes them up as well."""
    i = np.arange(layers * kv_heads * head_dim, dtype=np.float32).reshape(layers, kv_heads, 1, head_dim)
    return i % 7 / 2 - np.float32(1.5), np.float32(0.5) + i % 5 / 4


def _int8(x):
    """scale * code, codes -127 .. 127; the scale is the largest magnitude / 127 as f16."""
    scale = _f16(np.abs(x).max(axis=-1, keepdims=True) / np.float32(127))
    codes = np.clip(x * _inverse(scale), -127, 127)
    return scale * np.copysign(np.floor(np.abs(codes) + np.float32(0.5)), codes)


def _int4(x):
    """offset + scale * code, codes 0 .. 15; the offset is the least as f16, the scale the rest of the range / 15."""
    offset = _f16(x.min(axis=-1, keepdims=True))
    scale = _f16((x.max(axis=-1, keepdims=True) - offset) / np.float32(15))
    return offset + scale * np.floor(np.clip((x - offset) * _inverse(scale), 0, 15) + np.float32(0.5))


def _f16(x):
    return x.astype(np.float16).astype(np.float32)


def _inverse(scale):
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)


class Archive:
    """Everything that was read, in text order. Of kind "int4_channels", keys are centred and scaled by channel before
    they are rounded, and back when they are read. `noise` moves all rows before they are rounded, by so much of the
    group's largest magnitude at most: it shows what codes that round the other way change."""

    def __init__(self, kind="f32", noise=0.0, seed=1):
        self.kind = kind
        self.noise = noise
        self.random = np.random.default_rng(seed)
        self.positions, self.nuc, self.pinned = [], [], []
        self.keys, self.values = [], []  # of every call: [layer, kv head, entry, channel] in single precision

    def __len__(self):
        return len(self.positions)

    def append(self, positions, nuc, pinned, keys, values):
        """keys and values: [layer][kv head, entry, channel]."""
        self.positions += positions
        self.nuc += nuc
        self.pinned += pinned
        self.keys.append(self._kept_keys(torch.stack(list(keys)).numpy()))
        self.values.append(self._kept(torch.stack(list(values)).numpy()))

    def _kept_keys(self, keys):
        if self.kind != "int4_channels":
            return self._kept(keys)
        layers, kv_heads, _, head_dim = keys.shape
        centre, spread = made_up_channels(layers, kv_heads, head_dim)
        return centre + spread * self._kept((keys - centre) / spread)

    def _kept(self, rows):
        if self.noise:
            groups = rows.reshape(*rows.shape[:-1], -1, GROUP)
            moved = self.random.uniform(-self.noise, self.noise, groups.shape)
            rows = (groups + moved * np.abs(groups).max(axis=-1, keepdims=True)).reshape(rows.shape)
        return rounded_rows(rows, self.kind.removesuffix("_channels"))

    def kept_as(self, kind, noise=0.0, seed=1):
        """The same, of an archive in f32, rounded further."""
        assert self.kind == "f32"
        copy = Archive(kind, noise, seed)
        copy.positions, copy.nuc, copy.pinned = list(self.positions), list(self.nuc), list(self.pinned)
        copy.keys = [copy._kept_keys(rows) for rows in self.keys]
        copy.values = [copy._kept(rows) for rows in self.values]
        return copy


@dataclass(frozen=True)
class RecallSettings:
    steps: int = 1
    draft: int = 12  # tokens of a draft, which stands behind the question in the next step's catalyst
    read_anew: bool = False


@dataclass
class Step:
    pot: Pot  # as the archive's distillation left it
    found: Pot  # the same or, read anew, the same entries as they see one another
    draft: list  # in this step's catalyst
    lead: float  # by how much the closest of its tokens was ahead of the next one's logit


def recall(reader, archive, question, policy, settings, first=None):
    """What the archive holds for a question, step by step. `policy` has the Settings of the recall's distillations,
    `first` the pot of the first one if it is known."""
    steps, draft, lead = [], [], float("inf")
    for _ in range(settings.steps):
        if steps:
            draft, lead = greedy(continued(reader, steps[-1].found), question, settings.draft)
        pot = first if first and not steps else distil_archive(reader, archive, list(question) + draft, policy)
        steps.append(Step(pot, read_anew(reader, pot) if settings.read_anew else pot, draft, lead))
    return steps


def leading_entries(reader):
    """How many entries in front always stay: sinks, and pinned ones right behind them in the text."""
    for i in range(len(reader)):
        if i >= reader.settings.sinks and not reader.pinned[0, i] or (reader.position[:, i] != i).any():
            return i
    return len(reader)


def records_of(pot, entries):
    """Positions, NuC and whether they are pinned, of entries that are the same in all lanes."""
    assert (pot.position[:, entries] == pot.position[:1, entries]).all()
    return [list(record[0, entries]) for record in (pot.position, pot.nuc, pot.pinned)]


def begun(reader, policy, catalyst=()):
    """A pot that holds the reader's leading entries, as they are."""
    pot, leading = Pot(reader.model, policy, catalyst), slice(0, leading_entries(reader))
    rows = [[x[:, leading] for x in all_rows] for all_rows in (reader.cache.keys, reader.cache.values)]
    append_rows(pot, *records_of(reader, leading), *rows)
    return pot


def distil_archive(reader, archive, catalyst, policy):
    """The leading entries, then the archive, distilled to `keep`."""
    pot = begun(reader, policy, catalyst)
    keys, values = (
        torch.from_numpy(np.concatenate(x, axis=2)).to(reader.model.dtype) for x in (archive.keys, archive.values)
    )
    known = set(pot.position[0].tolist())
    rest = [i for i, position in enumerate(archive.positions) if position not in known]
    while rest:
        if len(pot) == pot.limit:
            pot.distil()
        count = min(len(rest), pot.limit - len(pot))
        now, rest = rest[:count], rest[count:]
        records = [[record[i] for i in now] for record in (archive.positions, archive.nuc, archive.pinned)]
        append_rows(pot, *records, keys[:, :, now], values[:, :, now])
    if len(pot) > policy.keep:
        pot.distil()
    return pot


def append_rows(pot, positions, nuc, pinned, keys, values):
    """Entries whose rows are known; they have no queries."""
    none = torch.empty(pot.model.heads, 0, pot.model.head_dim, dtype=pot.model.dtype)
    for layer in range(pot.model.layers):
        pot.cache.append(layer, none, keys[layer], values[layer])
    pot.add_records(positions, nuc, pinned)


def continued(reader, pot, archive=None):
    """A reader with a copy of what `pot` holds, that goes on where `reader` stands in the text."""
    copy = Pot(reader.model, reader.settings, reader.catalyst, archive)
    copy.stream, copy.stream_nuc = list(reader.stream), list(reader.stream_nuc)
    append_rows(copy, [], [], [], pot.cache.keys, pot.cache.values)
    copy.position, copy.nuc, copy.pinned = pot.position.copy(), pot.nuc.copy(), pot.pinned.copy()
    copy.survived = pot.survived.copy()
    copy.margins = list(reader.margins)
    return copy


def read_anew(reader, pot):
    """What most lanes hold (of equals the earlier) behind the leading entries, read behind these as plain text."""
    anew = begun(reader, pot.settings)
    lanes = Counter(pot.position[:, len(anew) :].flatten().tolist())
    most = sorted(lanes, key=lambda position: (-lanes[position], position))[: len(pot) - len(anew)]
    records = {}
    for position, nuc, pinned in zip(pot.position.flat, pot.nuc.flat, pot.pinned.flat):
        records[position] = position, nuc, pinned
    positions, nuc, pinned = zip(*(records[position] for position in sorted(most)))
    anew.model.forward([reader.stream[position] for position in positions], anew.cache)
    anew.add_records(positions, nuc, pinned)
    return anew


def greedy(pot, ask, count):
    """`count` tokens that the model finds likeliest after `ask`, and the smallest lead that one had."""
    pot.feed(ask)
    tokens, lead = [], float("inf")
    for _ in range(count):
        best = pot.last_logits.topk(2)
        tokens.append(best.indices[0].item())
        lead = min(lead, (best.values[0] - best.values[1]).item())
        pot.feed(tokens[-1:])
    return tokens, lead
