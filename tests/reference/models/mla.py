"""DeepSeek V3: multi-head latent attention. transformers caches expanded keys and values, a row per head, whose last
channels RoPE turns; they are the same in all heads.

An engine may keep these (`expanded`), where each head keeps other tokens, or the row that they are made of (`latent`):
then a layer has one row, and all heads keep the same tokens.
"""

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from .frame import Family, Steered


class Expanded(Steered):
    def tensors(self):
        yield from super().tensors()
        balance = "e_score_correction_bias"  # of the experts; transformers calls it no parameter
        yield from ((name, each) for name, each in self.model.named_buffers() if name.endswith(balance))

    def turn(self, i, keys, positions, back):
        still, turned = keys.split([self.config.qk_nope_head_dim, self.config.qk_rope_head_dim], -1)
        # The cache has the pairs of the rotation in halves already, whatever their order was in the projection.
        return torch.cat([still, super().turn(i, turned, positions, back)], -1)


class Latent(Expanded):
    def scores(self, catalyst):
        lanes, heads = super().scores(catalyst), self.config.num_attention_heads
        return [torch.tensor(lanes[i : i + heads]).sum(0).tolist() for i in range(0, len(lanes), heads)]

    def keep(self, kept):
        super().keep([lane for lane in kept for _ in range(self.config.num_attention_heads)])


def family(name, rope, **more):
    config = {
        "vocab_size": 40, "hidden_size": 32, "intermediate_size": 24, "moe_intermediate_size": 12,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 16,
        "qk_nope_head_dim": 6, "qk_rope_head_dim": 8, "v_head_dim": 10, "first_k_dense_replace": 1,
        "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3,
        "routed_scaling_factor": 1.5, "norm_topk_prob": True, "rms_norm_eps": 1e-6, "max_position_embeddings": 128,
        "tie_word_embeddings": False, "rope_parameters": {"rope_theta": 500.0} | rope,
    }
    return Family(name, DeepseekV3Config, DeepseekV3ForCausalLM, config | more)


def steered():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    both = yarn | {"mscale": 1.0, "mscale_all_dim": 0.7}
    yield "deepseek_v3_latent", lambda: Latent(family("deepseek_v3_latent", both, q_lora_rank=12))
    yield "deepseek_v3_expanded", lambda: Expanded(
        family("deepseek_v3_expanded", {"rope_type": "default"}, q_lora_rank=None, rope_interleave=False)
    )
