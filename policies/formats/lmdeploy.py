"""A package for LMDeploy, whose strategy's unmasking is replaced before the engine is built."""

from __future__ import annotations

from policies.formats.engine import Engine


class LMDeploy(Engine):
    """See `Engine` and the module of the same name in `SHIPPED`."""

    name = "lmdeploy"
    title = "LMDeploy"
    model = "JetLM/SDAR-8B-Chat"
    version = "lmdeploy 0.18.0: its\nconfiguration and model agent, on a CPU with a table for a model"
    install = "pip install 'lmdeploy>=0.18'"
    usage = """```python
import unmasking_lmdeploy
from lmdeploy import PytorchEngineConfig, pipeline

unmasking_lmdeploy.install()  # before the engine is built; speed=0.7 sets a dial
engine = PytorchEngineConfig(dllm_block_length=4, dllm_unmasking_strategy="low_confidence_dynamic")
print(pipeline("JetLM/SDAR-8B-Chat", backend_config=engine)("What is 17 times 23?").text)
```

LMDeploy has no plug-ins: each worker process of an engine on several GPUs must call `install` too.
"""
