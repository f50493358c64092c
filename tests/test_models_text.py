"""Prompts of running text: what is given, what is left to write, and what a chat template makes of a message."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from models.tasks.base import TaskError
from models.tasks.text import MOST_BLANKS, Text

TOKENIZER = Path(__file__).parents[1] / "models" / "pretrained" / "stories-ar" / "tokenizer.json"
TEMPLATE = (
    "{% for turn in messages %}{% if 'rude' in turn.content %}{{ raise_exception('be kind') }}{% endif %}"
    "User: {{ turn.content }}\n{% endfor %}{% if add_generation_prompt %}Model: {% endif %}"
)


def text(template: str | None = None) -> Text:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), mask_token="<mask>", chat_template=template)
    return Text(tokenizer, len(tokenizer), tokenizer.mask_token_id, longest=64)


def test_a_message_is_asked_by_the_template_and_its_answer_left_to_write() -> None:
    task = text(TEMPLATE)
    asked = task.parse(task.chat("Tell me of a fox.", 5))[0].tolist()
    assert asked[-5:] == [task.mask_token_id] * 5
    assert asked[:-5] == task.encode("User: Tell me of a fox.\nModel: ")


@pytest.mark.parametrize(
    ("template", "message", "why"),
    [
        (None, "Hello", r"has no chat template; give plain text with \[MASK:n\]"),
        (TEMPLATE, "A rude word", "chat template refuses the message: be kind"),
        (TEMPLATE, "Fill [MASK:3] in", r"the message holds '\[MASK:3\]'; a message is asked whole"),
    ],
)
def test_a_message_that_cannot_be_asked_is_refused(template: str | None, message: str, why: str) -> None:
    with pytest.raises(TaskError, match=why):
        text(template).chat(message, 5)


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("Once upon a time", "leaves nothing to write"),
        (f"Once [MASK:{MOST_BLANKS + 1}]", "more tokens than any model here writes"),
        ("Once <mask> upon [MASK]", "holds '<mask>', the mask token"),
    ],
)
def test_a_prompt_that_says_not_what_to_write_is_refused(prompt: str, why: str) -> None:
    with pytest.raises(TaskError, match=why):
        text().parse(prompt)


def test_a_file_of_prompts_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    task, path = text(), tmp_path / "prompts.txt"
    path.write_bytes("\ufeffOnce [MASK:2] time\n\nThe [MASK]\n".encode())
    assert [row.tolist() for row in task.read(path)] == [task.parse(line)[0].tolist() for line in ("Once [MASK:2] time", "The [MASK]")]
