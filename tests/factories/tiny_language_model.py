"""A causal language model of some thousand random weights with a tokenizer of whole words: it writes noise, quickly."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

WORDS = """
a the one two three red green blue old small bright quiet circle square star cat dog boat house tree river lamp with
beside under above near in on of at night dawn rain snow photo drawing painting caption write image
"""
CHAT = "{% for turn in messages %}<user> {{ turn['content'] }} <model>{% endfor %}"
CLASSES = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}


def save_tiny_language_model(folder: Path, *, chat: bool = False, seed: int = 0, kind: str = "llama") -> Path:
    """Write the model as `save_pretrained` does; `kind`: of `CLASSES`. Of its words one in forty ends a caption."""
    config_class, model_class = CLASSES[kind]
    special = ["<pad>", "<end>", "<unknown>", "<user>", "<model>"]
    vocabulary = {word: place for place, word in enumerate([*special, *WORDS.split()])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        additional_special_tokens=["<user>", "<model>"],
        chat_template=CHAT if chat else None,
    )
    config = config_class(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
