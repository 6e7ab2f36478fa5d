"""A LLaVA of some thousand random weights, saved to a folder as a user has it: it writes noise about images."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tests.factories.tiny_language_model import WORDS

CHAT = (
    "{% for turn in messages %}<user> {% for part in turn['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}<model>{% endfor %}"
)
SIDE, PATCH = 16, 8


def save_tiny_vlm(folder: Path, *, chat: bool = True, words: str = WORDS) -> Path:
    """Write model and processor as `save_pretrained` does; `words`: that it can write, with spaces between."""
    special = ["<pad>", "<end>", "<unknown>", "<user>", "<model>", "<image>"]
    vocabulary = {word: place for place, word in enumerate([*special, *words.split()])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        additional_special_tokens=["<user>", "<model>", "<image>"],
    )
    size = {"height": SIDE, "width": SIDE}
    processor = LlavaProcessor(
        CLIPImageProcessor(size=size, crop_size=size),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT if chat else None,
    )
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, **small),
        text_config=LlamaConfig(
            vocab_size=len(vocabulary),
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
            **small,
        ),
        image_token_index=vocabulary["<image>"],
        vision_feature_layer=-1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.3)
        model.lm_head.weight[list(range(2, 6))] = 0  # no special token but the end is likely
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
