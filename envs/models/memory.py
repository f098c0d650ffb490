"""What one decoding step needs of memory, computed from a configuration of transformers alone.

Letters: B sequences, T positions of prompt and buffer, L buffer positions, V vocabulary, D hidden width, I width of the
feed-forward layer, Q and K widths of all queries and all keys.
"""

from __future__ import annotations

from typing import Any

import torch

from envs.beliefs import CHUNK

CAUSAL = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def count_parameters(config: Any) -> int:
    """Count a model's weights by building it on the meta device, which holds no values.

    Args:
        config: of a causal class of the native route, or of any masked language model.
    """
    import transformers

    with torch.device("meta"):
        if config.model_type in CAUSAL:
            model = getattr(transformers, CAUSAL[config.model_type])(config)
        else:
            model = transformers.AutoModelForMaskedLM.from_config(config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


def step_memory(config: Any, batch: int, prompt: int, length: int, dtype: torch.dtype) -> dict[str, int]:
    """Compute the peak memory of one forward and of reading its logits.

    The attention kernel's own workspace and what the allocator keeps in reserve come on top; allow a tenth more.

    Args:
        config: the model's configuration, of transformers' class.
        batch: B.
        prompt: tokens of the longest prompt.
        length: L.
        dtype: of the weights.

    Returns:
        Bytes of each part: ``weights``; ``layer``, the most that one layer holds; ``logits``, (B, L, V) in the
        weights' dtype; ``beliefs``, the float32 working copies; ``hidden``, the last states; and ``peak``, of all that
        are there at once.
    """
    size, positions = dtype.itemsize, batch * (prompt + length)
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // heads
    queries, keys = heads * head, (getattr(config, "num_key_value_heads", None) or heads) * head
    # Embeddings, the layer's input, the residual and its normed copy; and gate, up and their product,
    feed_forward = 4 * width + 3 * inner
    # or queries, keys and values, the turned queries and three terms of the turned keys.
    attention = 4 * width + queries + 2 * keys + max(3 * queries, queries + 3 * keys)
    scores = batch * length * config.vocab_size
    parts = {
        "weights": count_parameters(config) * size,
        "layer": positions * max(feed_forward, attention) * size,
        "hidden": positions * width * size,
        "logits": scores * size,
        # A float32 copy without the mask token, and the one inside the log-sum-exp.
        "beliefs": 2 * 4 * min(scores, max(CHUNK, config.vocab_size)),
    }
    reading = parts["hidden"] + parts["logits"] + parts["beliefs"]
    return parts | {"peak": parts["weights"] + max(parts["layer"], reading)}
