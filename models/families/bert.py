"""Encoders read as masked-diffusion models: what fills in one mask fills in many (Wang & Cho 2019; Mask-Predict 2019)."""

from models.families.base import Behaviour, Family

_ABOUT = (
    "trained with 15 % of tokens masked (ModernBERT 30 %): beyond that it is far from home; text stands between its start and end tokens"
)


def _bert(name: str, architecture: str, mask: str, hub: tuple[str, ...], unread: tuple[str, ...] = ()) -> Family:
    behaviour = Behaviour("masked", "full", 0, mask_tokens=(mask,))
    return Family(name, name, behaviour, f"transformers.models.{name} (5.23)", hub, (architecture,), _ABOUT, unread=unread)


BERT = _bert("bert", "BertForMaskedLM", "[MASK]", ("google-bert/bert-base-uncased",), ("bert.pooler.", "cls.seq_relationship."))
ROBERTA = _bert("roberta", "RobertaForMaskedLM", "<mask>", ("FacebookAI/roberta-base",), ("roberta.pooler.",))
MODERNBERT = _bert("modernbert", "ModernBertForMaskedLM", "[MASK]", ("answerdotai/ModernBERT-base",))
