"""What one decoding step needs of memory, computed from a configuration of transformers alone.

Letters: B sequences, T positions of prompt and buffer, L buffer positions, V vocabulary, D hidden width, I width of the
feed-forward layer, Q and K widths of all queries and all keys.
"""

from __future__ import annotations

from typing import Any

import torch

from envs.beliefs import ACCELERATOR_CHUNK, CHUNK
from envs.caches import make_cache
from envs.models.attention_maps import CHUNK as MAPS_CHUNK
from envs.models.attention_maps import LAYERS
from envs.readings import BEST_K, TOP_K

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


def step_memory(
    config: Any,
    batch: int,
    prompt: int,
    length: int,
    dtype: torch.dtype,
    features: frozenset[str] = frozenset(),
    is_sampled: bool = False,
    device: str = "cpu",
    cache: str = "none",
) -> dict[str, int]:
    """Compute the peak memory of one forward and of reading its logits.

    The attention kernel's own workspace and what the allocator keeps in reserve come on top; allow a tenth more.

    Args:
        config: the model's configuration, of transformers' class.
        batch: B.
        prompt: tokens of the longest prompt.
        length: L.
        dtype: of the weights.
        features: what is read of the logits; see `envs.readings.READINGS`.
        is_sampled: whether tokens are drawn (a temperature above 0).
        device: a torch device; the CPU works on smaller pieces.
        cache: as `envs.caches.make_cache` reads it.

    Returns:
        Bytes of each part: ``weights``; ``layer``, the most that one layer holds; ``logits`` in the weights' dtype,
        (B, L, V), or of all B T positions in a masked language model, whose head runs on the prompt too; ``beliefs``,
        the working copies; ``attention``, what attention maps are made of and the maps, 0 where none are asked for;
        ``hidden``, the last states, or those of every layer where a masked language model must
        return them; ``view``, what a policy is shown; ``kept``, keys and values of all layers, rows and positions, 0
        without a cache; and ``peak``, of all that are there at once.

    Raises:
        ValueError: if there is no such cache.
    """
    size, positions = dtype.itemsize, batch * (prompt + length)
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    is_native = config.model_type in CAUSAL
    head = getattr(config, "head_dim", None) or width // heads
    queries, keys = heads * head, (getattr(config, "num_key_value_heads", None) or heads) * head
    # Embeddings, the layer's input, the residual and its normed copy; and gate, up and their product,
    feed_forward = 4 * width + 3 * inner
    # or queries, keys and values, the turned queries and three terms of the turned keys.
    attention = 4 * width + queries + 2 * keys + max(3 * queries, queries + 3 * keys)
    scores = batch * length * config.vocab_size
    states = 1 if is_native or "hidden" not in features else config.num_hidden_layers + 1
    chunk = CHUNK if torch.device(device).type == "cpu" or is_sampled else ACCELERATOR_CHUNK
    last = batch * length * _shown(config, features, prompt + length)
    # The last step's view is still there when this one's is made. What a cache leaves of it is copied, and then what
    # the forward has said is written over the copy.
    is_cached = make_cache(cache).keeps
    view = (3 if is_cached else 2) * last
    # Each row has one position more, for the padding of others.
    kept = config.num_hidden_layers * 2 * batch * (prompt + length + 1) * keys if is_cached else 0
    parts = {
        "weights": count_parameters(config) * size,
        "layer": positions * max(feed_forward, attention) * size,
        "hidden": positions * width * size * states,
        "logits": (scores if is_native else positions * config.vocab_size) * size,
        "beliefs": _copies(features, is_sampled) * min(scores, max(chunk, config.vocab_size)),
        "attention": _maps(batch, prompt + length, heads, queries + keys, size) if "attention" in features else 0,
        "view": view,
        "kept": kept * size,
    }
    reading = parts["hidden"] + parts["logits"] + max(parts["beliefs"], parts["attention"]) + view
    return parts | {"peak": parts["weights"] + parts["kept"] + max(parts["layer"] + last, reading)}


def _maps(batch: int, positions: int, heads: int, width: int, size: int) -> int:
    """Return the bytes of the last layers' queries and keys, of whole maps, and of working copies of some of them."""
    some = max(heads * positions * positions, min(batch * heads * positions * positions, MAPS_CHUNK))
    # Scores in the weights' dtype and in float32, and probabilities; the sum of the maps and what is made of it.
    return batch * positions * LAYERS * width * size + some * (size + 8) + 3 * 4 * batch * positions * positions


def _shown(config: Any, features: frozenset[str], positions: int) -> int:
    """Return the bytes of a position's tensors in a view, of so many; the (N, L) readings are too small to count."""
    sizes = {
        "probabilities": 4 * config.vocab_size,
        "hidden": 4 * config.hidden_size,
        "best_probabilities": 4 * BEST_K,
        "top": (4 + 8) * TOP_K,
        "attention": 4 * positions,
    }
    return sum(bytes_ for name, bytes_ in sizes.items() if name in features)


def _copies(features: frozenset[str], is_sampled: bool) -> int:
    """Return the bytes of all working copies of a logit: one without the mask token, and those made of it in turn."""
    largest = 4  # inside the log-sum-exp
    if "entropy" in features:
        largest = 2 * 4  # log-probabilities and probabilities, each written over in place
    if is_sampled:
        largest = 5 * 8  # counters, their sums with a row's key, and what mixing them holds, of 64 bits
    return 4 + largest
