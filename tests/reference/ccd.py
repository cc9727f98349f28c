"""Continual Context Distillation (InfiniPot, arXiv 2410.01518, section 3) and the policies it is compared with.

One `Pot` reads an endless stream of tokens in at most `capacity` entries per (layer, kv head). Everything is written
for reading, not for speed; scores are per lane, a lane being a set of (layer, kv head) that keep the same entries.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from smollm2 import Cache


@dataclass(frozen=True)
class Settings:
    # infinipot, streaming_llm, snapkv, tova, h2o, sirllm, knorm, keydiff, value_norm, truncation, reread,
    # expected_attention, temporal_redundancy
    policy: str
    granularity: str = "head"  # one lane per kv head ("head"), per layer ("layer"), or for the model ("shared")
    capacity: int = 256
    keep: int = 128
    sinks: int = 4
    recent: int = 0
    alpha: float = 0.5  # infinipot: share of the free places given by NuC
    over_queries: str = "sum"  # infinipot: how attention of catalyst tokens and query heads is combined, "sum" or "max"
    aggregate: str = "sum"  # infinipot: how the heads of a lane are combined, "sum", "max" (of shares) or "peak" (max)
    term_share: float = 0.0  # infinipot: share of the free places given by what is near rare tokens of the catalyst
    lag: int = 0  # infinipot: how far the kernel lies before an entry
    kernel: int = 1  # infinipot: max over neighbours; snapkv: mean over neighbours
    window: int = 32  # snapkv: how many of the last queries are observed
    decay: float = 1.0  # sirllm: factor per distillation survived
    block: int = 16  # reread: tokens that are read again at once; the catalyst stands before them
    layers: int = 0  # infinipot, reread: the first so many layers alone count where a lane has heads of them; 0: all
    pooling: str = "max"  # reread: over neighbours, "max" or "mean"
    future: int = 512  # expected_attention: positions over which RoPE is averaged
    period: int = 1  # temporal_redundancy: entries of a frame
    frames: int = 32  # temporal_redundancy: recent frames that keys are compared with

    def protected_recent(self):
        """Policies that need the newest entries protect them whatever `recent` says."""
        half = self.keep // 2
        least = {"snapkv": self.window, "tova": 1, "h2o": half, "truncation": half}
        least["temporal_redundancy"] = self.period * self.frames
        return max(self.recent, least.get(self.policy, 0))


@dataclass
class Distillation:
    stream_position: int  # of the token whose arrival made it necessary
    kept: list  # [lane][entry], ascending indices
    candidates: np.ndarray  # [lane, entry], which entries were not protected
    scores: dict = field(default_factory=dict)  # name -> [lane, entry], smoothed, as the selection saw them


@dataclass(frozen=True)
class Margin:
    """How far a selection was from going the other way, relative to the score of the last entry chosen."""

    relative: float = float("inf")
    distillation: int = -1
    lane: int = -1
    score: str = ""


class Pot:
    def __init__(self, model, settings, catalyst=(), archive=None):
        self.model = model
        self.settings = settings
        self.archive = archive  # where everything that is read goes as well (archive.py)
        self.catalyst = list(catalyst) if settings.policy in ("infinipot", "reread") else []
        self.limit = settings.capacity - len(self.catalyst) - (settings.block if settings.policy == "reread" else 0)
        self.stream = []
        assert settings.keep < self.limit
        self.lanes = lanes_of(model, settings.granularity)
        self.cache = Cache(model)
        # The records that travel with every entry, [lane, entry].
        self.position = np.zeros((len(self.lanes), 0), dtype=np.int64)
        self.nuc = np.zeros((len(self.lanes), 0))
        self.pinned = np.zeros((len(self.lanes), 0), dtype=bool)
        self.survived = np.zeros((len(self.lanes), 0), dtype=np.int64)
        # h2o: attention received from every query so far; reread: the most from a single one, [layer, kv head, entry].
        self.received = torch.zeros(model.layers, model.kv_heads, 0, dtype=model.dtype)
        # expected_attention: raw queries of all that was read but the sinks, per layer [query head, token, dim].
        self.queries = [rows.clone() for rows in self.cache.queries]
        self.last_logits = None
        self.stream_nuc = []  # one per token of the stream, whether still in the pot or not
        self.distillations = []
        self.margins = []

    def __len__(self):
        return self.position.shape[1]

    def _mass(self, count):
        return self.model.attention_mass(self.cache, count)

    def _most(self, count):
        """[layer, kv head, entry] the largest attention that any of the last `count` tokens pays, in any query head."""
        most = []
        for layer in range(self.model.layers):
            paid = self.model.attention(self.cache, layer, count).amax(dim=1)
            most.append(paid.view(self.model.kv_heads, -1, paid.shape[1]).amax(dim=1))
        return torch.stack(most)

    def feed(self, tokens, pinned=False, chunk=None):
        """Read tokens. `chunk` limits how many go through the model at once; it cannot change the outcome."""
        tokens = list(tokens)
        while tokens:
            if len(self) == self.limit:
                self.distil()  # only now that another token is known to follow
            count = min(len(tokens), self.limit - len(self), chunk or self.limit)
            self._append(tokens[:count], pinned)
            tokens = tokens[count:]

    def _append(self, tokens, pinned):
        logits = self.model.forward(tokens, self.cache)
        nuc = []
        for i, token in enumerate(tokens):
            prediction = logits[i - 1] if i > 0 else self.last_logits
            nuc.append(0.0 if prediction is None else (torch.logsumexp(prediction, 0) - prediction[token]).item())
        self.last_logits = logits[-1]
        first = len(self.stream_nuc)
        self.stream += tokens
        self.stream_nuc += nuc
        records = range(first, first + len(tokens)), nuc, [pinned] * len(tokens)
        self.add_records(*records)
        if self.archive is not None:
            rows = self.cache.keys, self.cache.values
            self.archive.append(*records, *([row[:, -len(tokens) :] for row in layers] for layers in rows))
        if self.settings.policy == "expected_attention":
            past_sinks = max(0, self.settings.sinks - first)
            for layer, rows in enumerate(self.cache.queries):
                new = rows[:, rows.shape[1] - len(tokens) + past_sinks :]
                self.queries[layer] = torch.cat([self.queries[layer], new], dim=1)
        if self.settings.policy == "reread":
            new = torch.zeros(*self.received.shape[:2], len(tokens), dtype=self.model.dtype)
            self.received = torch.cat([self.received, new], dim=2)
        if self.settings.policy == "h2o":
            new = torch.zeros(*self.received.shape[:2], len(tokens), dtype=self.model.dtype)
            self.received = torch.cat([self.received, new], dim=2) + self._mass(len(tokens))

    def add_records(self, positions, nuc, pinned):
        """The records of new entries, the same in all lanes."""

        def extend(record, values):
            return np.concatenate([record, np.tile(np.asarray(values, dtype=record.dtype), (len(self.lanes), 1))], 1)

        self.position = extend(self.position, positions)
        self.nuc = extend(self.nuc, nuc)
        self.pinned = extend(self.pinned, pinned)
        self.survived = extend(self.survived, [0] * len(positions))

    def distil(self):
        scores, stages = self._scores()
        kept = []
        for lane, protected in enumerate(self.protected()):
            chosen = protected.copy()
            assert protected.sum() <= self.settings.keep
            places = self.settings.keep - protected.sum()
            for name, share in stages:
                # A share of None takes every place still empty.
                count = int(share * places) if share is not None else self.settings.keep - chosen.sum()
                best, margin = select(scores[name][lane], ~chosen, count)
                chosen[best] = True
                self.margins.append(Margin(margin, len(self.distillations), lane, name))
            kept.append(np.flatnonzero(chosen))
        self.distillations.append(Distillation(len(self.stream_nuc), kept, ~self.protected(), scores))
        self._compact(kept)

    def protected(self):
        index = np.arange(len(self))
        edges = (index < self.settings.sinks) | (index >= len(self) - self.settings.protected_recent())
        return self.pinned | edges

    def _scores(self):
        """Scores by name, [lane, entry], and the order in which they fill the free places."""
        s = self.settings
        candidates = ~self.protected()
        if s.policy == "infinipot":
            self.model.forward(self.catalyst, self.cache)
            of_queries = self._mass if s.over_queries == "sum" else self._most
            u = of_queries(len(self.catalyst))[:, :, : len(self)]
            self.cache.drop_last(len(self.catalyst))
            cap = self._lane_scores(u, s.aggregate, s.layers)
            scores = {"nuc": pool(self.nuc, candidates, s.kernel, "max", s.lag), "cap": pool(cap, candidates, s.kernel, "max", s.lag)}
            if s.term_share == 0:
                return scores, [("nuc", s.alpha), ("cap", None)]
            near = pool(pool(self._term_scores(cap, candidates), candidates, 33, "mean"), candidates, 17, "max")
            return scores | {"terms": near}, [("nuc", s.alpha), ("cap", 1 - s.alpha - s.term_share), ("terms", None)]
        if s.policy == "streaming_llm":
            return {"position": self.position.astype(float)}, [("position", None)]
        if s.policy == "reread":
            self._read_again()
            best = self.received.numpy()
            counts = [[pair for pair in heads if pair[0] < s.layers] or heads for heads in self.lanes]
            scores = np.stack([np.stack([best[pair] for pair in heads]).max(axis=0) for heads in counts])
            return {"reread": pool(scores, candidates, s.kernel, s.pooling)}, [("reread", None)]
        if s.policy == "truncation":
            return {"position": -self.position.astype(float)}, [("position", None)]
        if s.policy == "snapkv":
            u = self._lane_scores(self._mass(s.window), "sum")
            return {"snapkv": pool(u, candidates, s.kernel, "mean")}, [("snapkv", None)]
        if s.policy == "tova":
            u = self._mass(1)
            u = u.sum(dim=1, keepdim=True).expand_as(u)  # all heads of a layer decide together, at any granularity
            return {"tova": self._lane_scores(u, "sum")}, [("tova", None)]
        if s.policy == "h2o":
            return {"h2o": self._lane_scores(self.received, "sum")}, [("h2o", None)]
        if s.policy == "sirllm":
            return {"sirllm": self.nuc * s.decay**self.survived}, [("sirllm", None)]
        if s.policy in ("knorm", "keydiff", "value_norm", "expected_attention", "temporal_redundancy"):
            return {s.policy: self._lane_scores(self._entry_scores(), "sum")}, [(s.policy, None)]
        raise ValueError(f"unknown policy {s.policy}")

    def _read_again(self):
        """Raise `received` by what came since the last distillation, read again in blocks behind the catalyst."""
        read = len(self.stream_nuc)
        fresh = self.stream[self.distillations[-1].stream_position if self.distillations else 0 : read]
        for start in range(0, len(fresh), self.settings.block):
            probe = self.catalyst + fresh[start : start + self.settings.block]
            self.model.forward(probe, self.cache)
            self.received = torch.maximum(self.received, self._most(len(probe))[:, :, : len(self)])
            self.cache.drop_last(len(probe))

    def _entry_scores(self):
        """[layer, kv head, entry] of what keys and values alone tell. Keys as they are rotated where they stand."""
        if self.settings.policy == "value_norm":
            return torch.stack([values.norm(dim=-1) for values in self.cache.values])
        keys = [self.model.rotate(keys, 0) for keys in self.cache.keys]
        if self.settings.policy == "knorm":
            return torch.stack([-k.norm(dim=-1) for k in keys])
        if self.settings.policy == "expected_attention":
            return torch.stack([self._expected_attention(layer, k) for layer, k in enumerate(keys)])
        if self.settings.policy == "temporal_redundancy":
            return self._temporal_redundancy(keys)
        return torch.stack([self._unlikeness(k) for k in keys])

    @staticmethod
    def _unlikeness(keys):
        """keydiff of keys[kv head, entry, dim]."""
        directions = keys / keys.norm(dim=-1, keepdim=True)
        mean = directions.mean(dim=1, keepdim=True)
        return -(directions * mean).sum(dim=-1) / mean.norm(dim=-1)

    def _expected_attention(self, layer, keys):
        """[kv head, entry] under Gaussian queries after the mean rotation of the positions that follow."""
        model, sinks = self.model, self.settings.sinks
        # Row i of the rotation of the identity, at every position: where channel i goes.
        turned = torch.stack([torch.eye(model.head_dim, dtype=model.dtype)] * self.settings.future, dim=1)
        rotation = model.rotate(turned, keys.shape[1]).mean(dim=1).T  # [to, from]
        values = self.cache.values[layer]
        scores = torch.zeros(values.shape[:2], dtype=model.dtype)
        group = model.heads // model.kv_heads
        for head, queries in enumerate(self.queries[layer]):
            mean = rotation @ queries.mean(dim=0)
            covariance = rotation @ torch.cov(queries.T, correction=0) @ rotation.T
            seen = keys[head // group, sinks:]
            logits = seen @ mean / model.head_dim**0.5
            logits += ((seen @ covariance) * seen).sum(dim=-1) / model.head_dim / 2
            scores[head // group, sinks:] += torch.softmax(logits, dim=0) / group
        return scores * values.norm(dim=-1)

    def _temporal_redundancy(self, keys):
        """[layer, kv head, entry] 1 - mean cosine with the recent keys at the same place of a frame."""
        period = self.settings.period
        directions = [k / k.norm(dim=-1, keepdim=True) for k in keys]
        result = [torch.empty(k.shape[:2], dtype=k.dtype) for k in keys]
        for lane, heads in enumerate(self.lanes):
            place = torch.from_numpy(self.position[lane] % period)
            recent = torch.arange(len(place)) >= len(place) - period * self.settings.frames
            same = ((place[:, None] == place[None, :]) & recent[None, :]).to(self.model.dtype)
            for layer, head in heads:
                cosines = directions[layer][head] @ directions[layer][head].T
                result[layer][head] = 1 - (cosines * same).sum(dim=1) / same.sum(dim=1)
        return torch.stack(result)

    def _term_scores(self, cap, candidates):
        """How rare the tokens of the catalyst are in each lane, 0 .. 1, and a tenth of CaP relative to the largest; [lane, entry]."""
        result = 0.1 * cap / np.where(candidates, cap, 0).max(axis=1, keepdims=True)
        for lane, position in enumerate(self.position):
            tokens = np.asarray(self.stream)[position]
            free = tokens[candidates[lane]]
            for term in set(self.catalyst) & set(free.tolist()):
                rarity = 1 - np.log((free == term).sum()) / np.log(len(free))
                result[lane, tokens == term] += rarity**4
        return result

    def _lane_scores(self, u, aggregate, layers=0):
        """[layer, kv head, entry] -> [lane, entry]. Of a lane with heads of the first `layers` layers only these count."""
        u = u.numpy()
        result = []
        for heads, protected in zip(self.lanes, self.protected()):
            heads = [pair for pair in heads if pair[0] < layers] or heads
            rows = np.stack([u[layer, head] for layer, head in heads])
            if aggregate == "sum":
                result.append(rows.sum(axis=0))
            elif aggregate == "peak":
                result.append(rows.max(axis=0))
            else:
                total = rows[:, ~protected].sum(axis=1, keepdims=True)
                shares = np.divide(rows, total, out=np.zeros_like(rows), where=total != 0)
                result.append(shares.max(axis=0))
        return np.stack(result)

    def _compact(self, kept):
        def take(record):
            return np.stack([row[indices] for row, indices in zip(record, kept)])

        index = [[None] * self.model.kv_heads for _ in range(self.model.layers)]
        for heads, row in zip(self.lanes, kept):
            for layer, head in heads:
                index[layer][head] = torch.from_numpy(row)
        index = [torch.stack(rows) for rows in index]
        if self.settings.policy in ("h2o", "reread"):
            self.received = torch.stack([rows.gather(1, i) for rows, i in zip(self.received, index)])
        self.cache.gather(index)
        self.position, self.nuc, self.pinned = take(self.position), take(self.nuc), take(self.pinned)
        self.survived = take(self.survived) + 1

    def smallest_margin(self):
        return min(self.margins, key=lambda margin: margin.relative, default=Margin())


def lanes_of(model, granularity):
    """The (layer, kv head) pairs of every lane, lanes in order of layer, then head."""
    pairs = [[(layer, head) for head in range(model.kv_heads)] for layer in range(model.layers)]
    if granularity == "layer":
        return pairs
    flat = [pair for layer in pairs for pair in layer]
    return [flat] if granularity == "shared" else [[pair] for pair in flat]


def pool(scores, candidates, kernel, how, lag=0):
    """Smooth [lane, entry] over `kernel` neighbours, `lag` before. Only candidates lend their score to a neighbour."""
    result = np.full_like(scores, -np.inf if how == "max" else 0)
    lent = np.where(candidates, scores, -np.inf if how == "max" else 0)
    for shift in range(-(kernel // 2) - lag, kernel // 2 - lag + 1):
        target = slice(max(0, -shift), scores.shape[1] - max(0, shift))
        source = slice(max(0, shift), scores.shape[1] - max(0, -shift))
        if how == "max":
            result[:, target] = np.maximum(result[:, target], lent[:, source])
        else:
            result[:, target] += lent[:, source]
    return result if how == "max" else result / kernel


def select(scores, eligible, count):
    """The `count` best eligible indices (equal scores: lower index first) and the relative margin of the choice.

    Max pooling gives neighbours the very same number. Such a tie is broken by index whatever the rounding, so the
    margin looks at the nearest scores that differ from it instead.
    """
    order = sorted(np.flatnonzero(eligible), key=lambda i: (-scores[i], i))
    assert 0 <= count <= len(order)
    if count == 0 or count == len(order):
        return order[:count], float("inf")
    last, refused = scores[order[count - 1]], scores[order[count]]
    if last != refused:
        gap = last - refused
    else:
        others = scores[order][scores[order] != last]
        gap = np.abs(others - last).min() if len(others) else float("inf")
    return order[:count], float(gap / abs(last)) if last != 0 else float(gap)
