"""SmolLM2-135M read from a GGUF file and run with plain torch operations.

Written to check the C++ library against something that shares no code with it, so it favours being obviously
right over being fast: weights are dequantised once, keys are kept *un-rotated* and rotated for their present index
every time they are read (nothing can drift), and the default arithmetic is double precision.
"""

import gguf
import numpy as np
import torch


class Cache:
    """Raw keys and values per (layer, kv head), plus the raw queries of the entries added since the last gather.

    Row i of a head stands at position i: that is all the position information there is. Layers may have different
    numbers of rows; each counts from its own first one.
    """

    def __init__(self, model):
        self.keys = [torch.empty(model.kv_heads, 0, model.head_dim, dtype=model.dtype) for _ in range(model.layers)]
        self.values = [k.clone() for k in self.keys]
        self.queries = [torch.empty(model.heads, 0, model.head_dim, dtype=model.dtype) for _ in range(model.layers)]

    def __len__(self):
        return self.keys[0].shape[1]

    def append(self, layer, queries, keys, values):
        self.queries[layer] = torch.cat([self.queries[layer], queries], dim=1)
        self.keys[layer] = torch.cat([self.keys[layer], keys], dim=1)
        self.values[layer] = torch.cat([self.values[layer], values], dim=1)

    def drop_last(self, count):
        """Forget the last `count` entries (a catalyst that has done its work)."""
        if count == 0:
            return
        for rows in (self.queries, self.keys, self.values):
            for layer in range(len(rows)):
                rows[layer] = rows[layer][:, :-count]

    def gather(self, kept):
        """Keep only the entries `kept[layer, kv head, :]` (ascending indices), which move to positions 0, 1, 2 ..."""
        for layer in range(len(self.keys)):
            index = kept[layer][:, :, None].expand(-1, -1, self.keys[layer].shape[2])
            self.keys[layer] = self.keys[layer].gather(1, index)
            self.values[layer] = self.values[layer].gather(1, index)
            # Heads now hold different entries, so a past query no longer has one row for all heads: drop them.
            self.queries[layer] = self.queries[layer][:, :0]


class SmolLM2:
    def __init__(self, path, dtype=torch.float64):
        reader = gguf.GGUFReader(path)

        def setting(name):
            return reader.fields["llama." + name].contents()

        def weight(name):
            tensor = tensors[name]
            return torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).to(dtype)

        assert reader.fields["general.architecture"].contents() == "llama"
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.dtype = dtype
        self.layers = setting("block_count")
        self.heads = setting("attention.head_count")
        self.kv_heads = setting("attention.head_count_kv")
        self.head_dim = setting("embedding_length") // self.heads
        self.epsilon = setting("attention.layer_norm_rms_epsilon")
        self.embedding = weight("token_embd.weight")  # also the output matrix: the model ties the two
        self.output_norm = weight("output_norm.weight")
        names = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
        self.blocks = [{name: weight(f"blk.{i}.{name}.weight") for name in names} for i in range(self.layers)]
        pairs = np.arange(self.head_dim // 2, dtype=np.float64)
        # Angles are always computed in double precision and only then rounded to the working type.
        self.frequencies = torch.from_numpy(setting("rope.freq_base") ** (-2.0 * pairs / self.head_dim))

    def rms_norm(self, x, gain):
        return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + self.epsilon) * gain

    def rotate(self, x, first):
        """RoPE of rows x[head, i, :] standing at position first + i, pairs (2j, 2j + 1).

        GGUF files of the `llama` architecture store the query and key rows already permuted for this pairing.
        """
        positions = torch.arange(first, first + x.shape[1], dtype=torch.float64)
        angles = positions[:, None] * self.frequencies[None, :]
        cos, sin = torch.cos(angles).to(x.dtype), torch.sin(angles).to(x.dtype)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

    def attention(self, cache, layer, count):
        """Attention probabilities [query head, query, entry] of the queries of the last `count` entries."""
        total = len_of(cache.keys[layer])
        assert count <= len_of(cache.queries[layer]), "a query from before the last gather is gone"
        queries = self.rotate(cache.queries[layer][:, len_of(cache.queries[layer]) - count :], total - count)
        keys = self.rotate(cache.keys[layer], 0)
        keys = keys.repeat_interleave(self.heads // self.kv_heads, dim=0)  # query head h reads kv head h // group
        scores = queries @ keys.transpose(1, 2) / self.head_dim**0.5
        entry = torch.arange(total)
        unseen = entry[None, :] > (total - count + torch.arange(count))[:, None]
        return torch.softmax(scores.masked_fill(unseen, float("-inf")), dim=-1)

    def attention_mass(self, cache, count):
        """u[layer, kv head, entry]: attention the last `count` queries gave, summed over them and the head group."""
        group = self.heads // self.kv_heads
        mass = []
        for layer in range(self.layers):
            received = self.attention(cache, layer, count).sum(dim=1)
            mass.append(received.view(self.kv_heads, group, -1).sum(dim=1))
        return torch.stack(mass)

    def forward(self, tokens, cache):
        """Append `tokens` to the cache at its next positions; logits [token, vocabulary]."""

        def split(x, heads):
            return x.view(len(tokens), heads, self.head_dim).transpose(0, 1)

        x = self.embedding[torch.tensor(tokens)]
        for layer, block in enumerate(self.blocks):
            h = self.rms_norm(x, block["attn_norm"])
            cache.append(
                layer,
                split(h @ block["attn_q"].T, self.heads),
                split(h @ block["attn_k"].T, self.kv_heads),
                split(h @ block["attn_v"].T, self.kv_heads),
            )
            values = cache.values[layer].repeat_interleave(self.heads // self.kv_heads, dim=0)
            mixed = self.attention(cache, layer, len(tokens)) @ values
            x = x + mixed.transpose(0, 1).reshape(len(tokens), -1) @ block["attn_output"].T
            h = self.rms_norm(x, block["ffn_norm"])
            x = x + (torch.nn.functional.silu(h @ block["ffn_gate"].T) * (h @ block["ffn_up"].T)) @ block["ffn_down"].T
        return self.rms_norm(x, self.output_norm) @ self.embedding.T


def len_of(rows):
    """Number of entries in rows[head, entry, dim]."""
    return rows.shape[1]


def tokenizer(path):
    """The model's byte-level BPE, built from the vocabulary and merges inside the GGUF file."""
    import tokenizers

    reader = gguf.GGUFReader(path)
    vocabulary = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    bpe = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=merges)
    )
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    return bpe
