"""A tiny model that no family knows, in code of its own beside its weights."""

import importlib.util
import json
from pathlib import Path

from published import write_tokenizer
from tiny_networks import stirred

BOX = """\
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

class BoxConfig(PreTrainedConfig):
    model_type = "box"
    hidden_size: int = 32
    num_hidden_layers: int = 2
    vocab_size: int = 310
    max_position_embeddings: int = 64

class Mixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, mask):
        query, key, value = self.qkv(x).chunk(3, -1)
        scores = query @ key.transpose(1, 2) / x.shape[-1] ** 0.5 + mask
        return self.out(scores.softmax(-1) @ value), scores

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix, self.feed = Mixer(width), nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x, mask):
        x = x + self.mix(self.one(x), mask)[0]
        return x + self.feed(self.two(x))

class BoxModel(PreTrainedModel):
    config_class = BoxConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.place = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.stack = nn.ModuleList([Block(config.hidden_size) for _ in range(config.num_hidden_layers)])
        self.end, self.head = nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        ids = torch.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = torch.where(seen.bool()[:, None], 0.0, -1e30)
        x = self.embed(input_ids) + self.place(ids)
        for block in self.stack:
            x = block(x, mask)
        return MaskedLMOutput(logits=self.head(self.end(x)))
"""
LAYOUT = """\
[layout]
readout = ["end", "head"]
opened_by = "AutoModelForMaskedLM"
[layout.sites]
hook_embed = "embed:output"
hook_resid_pre = "stack.{layer}:input"
hook_attn_out = "stack.{layer}.mix:output"
hook_mlp_out = "stack.{layer}.feed:output"
hook_resid_post = "stack.{layer}:output"
"""
FACTS = '[facts]\nobjective = "masked"\nattention = "full"\nlogit_shift = 0\nmask_token_id = 301\n'


def write_box(folder: Path) -> Path:
    """Writes its code, random weights and tokenizer; returns the folder."""
    write_tokenizer(folder, "<box>")
    (folder / "modeling_box.py").write_text(BOX)
    spec = importlib.util.spec_from_file_location("modeling_box", folder / "modeling_box.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    stirred(module.BoxModel(module.BoxConfig())).save_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "modeling_box.BoxConfig", "AutoModelForMaskedLM": "modeling_box.BoxModel"}
    (folder / "config.json").write_text(json.dumps({**raw, "architectures": ["BoxModel"], "auto_map": own}))
    return folder
