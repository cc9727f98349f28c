"""Models whose layers are attention and a feed-forward network: full or windowed, with or without RoPE."""

from transformers import Cohere2Config, Cohere2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig
from transformers import GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM
from transformers import Qwen3Config, Qwen3ForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

from .frame import Family, Steered

FULL, WINDOW = "full_attention", "sliding_attention"


def sizes(layers, hidden=48, head_dim=None):
    """What all have. Where the config has no head_dim it is hidden / 4."""
    more = {} if head_dim is None else {"head_dim": head_dim}
    return {
        "vocab_size": 40, "hidden_size": hidden, "intermediate_size": 40, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    } | more


def families():
    yield Family(
        "llama3", LlamaConfig, LlamaForCausalLM,
        sizes(2, head_dim=16) | {
            "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            },
        },
    )
    yield Family(
        "qwen3", Qwen3Config, Qwen3ForCausalLM,
        sizes(2, head_dim=16) | {
            "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        },
    )
    rope_layers = [1, 1, 0, 1]
    yield Family(
        "smollm3", SmolLM3Config, SmolLM3ForCausalLM,
        sizes(4) | {
            "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "no_rope_layers": rope_layers,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        },
        rotates=rope_layers,
    )
    yield Family(
        "phi3", Phi3Config, Phi3ForCausalLM,
        sizes(2, hidden=64) | {
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "original_max_position_embeddings": 16,
            "max_position_embeddings": 64, "partial_rotary_factor": 0.75,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 500.0, "factor": 4.0,
                "original_max_position_embeddings": 16,
                "short_factor": [1.0, 1.0625, 1.125, 1.25, 1.5, 1.75], "long_factor": [1.0, 1.5, 2.0, 3.0, 3.5, 4.0],
            },
        },
    )
    yield Family(
        "cohere2", Cohere2Config, Cohere2ForCausalLM,
        sizes(4) | {
            "layer_norm_eps": 1e-5, "tie_word_embeddings": True, "logit_scale": 0.0625, "sliding_window": 8,
            "layer_types": [WINDOW, FULL, WINDOW, FULL],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
        },
        rotates=[1, 0, 1, 0],
    )
    yield Family(
        "gemma3", Gemma3TextConfig, Gemma3ForCausalLM,
        sizes(4, head_dim=16) | {
            "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "query_pre_attn_scalar": 24, "sliding_window": 8,
            "layer_types": [WINDOW, FULL, WINDOW, FULL],
            "rope_parameters": {
                FULL: {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0},
                WINDOW: {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    )
    yield Family(
        "gpt_oss", GptOssConfig, GptOssForCausalLM,
        sizes(4, head_dim=16) | {
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "max_position_embeddings": 256, "sliding_window": 8,
            "num_local_experts": 4, "num_experts_per_tok": 2,
            "layer_types": [WINDOW, FULL, WINDOW, FULL],
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "beta_fast": 8.0, "beta_slow": 1.0,
                "truncate": False, "original_max_position_embeddings": 64,
            },
        },
    )


def steered():
    for family in families():
        yield family.name, lambda family=family: Steered(family)
