"""A package for diffusers, whose `LLaDA2Pipeline` asks its scheduler what to commit."""

from __future__ import annotations

from policies.formats.engine import Engine


class Diffusers(Engine):
    """See `Engine` and the module of the same name in `SHIPPED`."""

    name = "diffusers"
    title = "diffusers (`LLaDA2Pipeline`)"
    model = "inclusionAI/LLaDA2.0-mini"
    version = "diffusers 0.42.1, its own pipeline on a CPU"
    install = "pip install 'diffusers>=0.42' transformers"
    usage = """```python
import torch
from diffusers import LLaDA2Pipeline
from transformers import AutoModelForCausalLM, AutoTokenizer
from unmasking_diffusers import UnmaskingPolicyScheduler

name = "inclusionAI/LLaDA2.0-mini"
model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True, dtype=torch.bfloat16, device_map="auto")
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
pipeline = LLaDA2Pipeline(model=model, scheduler=UnmaskingPolicyScheduler(), tokenizer=tokenizer)
print(pipeline("What is 17 times 23?", gen_length=256, block_length=32).texts[0])
```

`scheduler.save_pretrained(FOLDER)` and `UnmaskingPolicyScheduler.from_pretrained(FOLDER)` keep the policy with the
scheduler's configuration; `UnmaskingPolicyScheduler(speed=0.7)` sets a dial.
"""
