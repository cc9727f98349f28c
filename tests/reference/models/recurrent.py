"""Models with layers that keep a state instead of the context: Qwen3-Next (gated delta net) and LFM2 (short
convolutions). A distillation leaves their states alone; a probe's are put back.
"""

import copy

import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, Qwen3NextConfig, Qwen3NextForCausalLM
from transformers.models.lfm2.modeling_lfm2 import Lfm2HybridConvCache
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextDynamicCache

from .frame import Family, PotLayer, Steered, hidden


class Recurrent(Steered):
    """Token by token: these models of transformers go on from a state in no other way."""

    def new_cache(self):
        """transformers' own, for the states."""

    def restart(self):
        super().restart()
        self.cache = self.new_cache()
        self.cache.update = lambda keys, values, layer, *_: self.layers[layer].update(keys, values)

    def make_layer(self, i):
        return super().make_layer(i) if self.kinds[i] == "full_attention" else None

    def steered(self, i, kwargs):
        return super().steered(i, kwargs) if self.kinds[i] == "full_attention" else kwargs

    def forward(self, tokens, probe=False):
        before = self.size, self.stream, copy.deepcopy(self.states())
        rows, attention = [], []
        for token in tokens:
            rows.append(self.step(token))
            attention.append({i: paid[:, :, :, : before[0]] for i, paid in self.attention.items()})
        self.attention = {i: torch.cat([step[i] for step in attention], 2) for i in self.attention}
        if probe:
            self.size, self.stream = before[:2]
            self.put_back(before[2])
            for layer in self.layers:
                if isinstance(layer, PotLayer):
                    layer.truncate(self.size)
        return torch.stack(rows)

    def step(self, token):
        self.count = 1
        # Any position but 0 says that there is a state; LFM2 takes those below the kernel's size for places in it.
        position = torch.tensor([self.stream + 8])
        with torch.no_grad():
            out = self.model(
                torch.tensor([[token]]), position_ids=position[None], cache_position=position, use_cache=True,
                past_key_values=self.cache, attention_mask=hidden(torch.ones(1, 1, dtype=torch.bool)),
            )
        self.size += 1
        self.stream += 1
        return out.logits[0, 0]

    def states(self):
        return {name: getattr(self.cache, name) for name in self.names}

    def put_back(self, states):
        for name, state in states.items():
            setattr(self.cache, name, state)


class Qwen3Next(Recurrent):
    names = "conv_states", "recurrent_states"

    def new_cache(self):
        return Qwen3NextDynamicCache(self.config)


class Lfm2(Recurrent):
    names = ("conv_cache",)

    def new_cache(self):
        return Lfm2HybridConvCache(self.config, 1, torch.float64)


SIZES = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}


def qwen3_next():
    return Family(
        "qwen3_next", Qwen3NextConfig, Qwen3NextForCausalLM,
        SIZES | {
            "num_hidden_layers": 4, "head_dim": 16, "rms_norm_eps": 1e-6,
            "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
            "linear_conv_kernel_dim": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "linear_key_head_dim": 8, "linear_value_head_dim": 6, "decoder_sparse_step": 2, "num_experts": 4,
            "num_experts_per_tok": 2, "norm_topk_prob": True, "moe_intermediate_size": 12,
            "shared_expert_intermediate_size": 10,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25},
        },
    )


def lfm2():
    return Family(
        "lfm2", Lfm2Config, Lfm2ForCausalLM,
        SIZES | {
            "num_hidden_layers": 5, "norm_eps": 1e-5, "conv_L_cache": 3, "conv_bias": False,
            "layer_types": ["conv", "conv", "full_attention", "conv", "full_attention"],
            "block_auto_adjust_ff_dim": False, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    )


def steered():
    yield "qwen3_next", lambda: Qwen3Next(qwen3_next())
    yield "lfm2", lambda: Lfm2(lfm2())
