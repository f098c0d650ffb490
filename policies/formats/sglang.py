"""A package for SGLang, whose plug-ins can name another algorithm of unmasking."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from policies.formats.engine import Engine


class SGLang(Engine):
    """See `Engine` and the module of the same name in `SHIPPED`."""

    name = "sglang"
    title = "SGLang"
    model = "inclusionAI/LLaDA2.0-mini"
    version = "sglang 0.5.23: its plug-in loader, configuration and\nboth loops, on a CPU with a table for a model"
    install = "pip install 'sglang>=0.5.23'"
    plugins = "sglang.srt.plugins"
    usage = """```bash
python -m sglang.launch_server --model-path inclusionAI/LLaDA2.0-mini --trust-remote-code \\
    --dllm-algorithm UnmaskingPolicy --dllm-algorithm-config {folder}/unmasking.yaml
curl http://localhost:30000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "default", "messages": [{{"role": "user", "content": "What is 17 times 23?"}}]}}'
```

`unmasking.yaml` can hold `speed`, where the policy has a dial, and `block_size`. It runs first-done-first-out and with
`--no-dllm-fdfo`.
"""
    extra: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"unmasking.yaml": "# Options of the algorithm; see README.md.\nspeed: {speed}\n"}
    )
