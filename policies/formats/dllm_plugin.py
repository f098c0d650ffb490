"""A package for vLLM's dllm-plugin, whose sampler calls a function that chooses what to commit."""

from __future__ import annotations

from policies.formats.engine import Engine


class DLLMPlugin(Engine):
    """See `Engine` and the module of the same name in `SHIPPED`."""

    name = "dllm_plugin"
    title = "vLLM's dllm-plugin"
    model = "inclusionAI/LLaDA2.0-mini"
    version = "a stub that has the\nsignatures of its commit 33cd242"
    install = "pip install git+https://github.com/vllm-project/dllm-plugin"
    plugins = "vllm.general_plugins"
    usage = """```bash
VLLM_USE_V2_MODEL_RUNNER=1 vllm serve inclusionAI/LLaDA2.0-mini --trust-remote-code
```

The package is found as a general plug-in of vLLM; `UNMASKING_SPEED=0.7` in the environment sets a dial. The plug-in
commits what is left after its own limit of iterations: let that be at least the length of a block.
"""
