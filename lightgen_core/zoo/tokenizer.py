"""The zoo's tokenizer: every word of the grammar is one token, any other is spelt in characters."""

import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lightgen_core.scene.grammar import meanings, phrasings
from lightgen_core.zoo.training import full_world

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
"""Ids 0, 1 and 2, as in T5."""


def grammar_words() -> set[str]:
    """Return every word of the scene world's captions."""
    all_meanings = meanings(full_world())
    one_of_each = {(meaning.category, meaning.count, meaning.relation): meaning for meaning in all_meanings}
    captions = [meaning.canonical for meaning in all_meanings]  # every shape, colour, number and relation
    captions += [caption for meaning in one_of_each.values() for caption in phrasings(meaning)]  # every other word
    return {word for caption in captions for word in caption.split()}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build a lower-casing WordPiece tokenizer that appends END, as T5's."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    words = sorted(grammar_words() - set(characters))
    tokens = [PAD, END, UNKNOWN, *characters, *(f"##{c}" for c in characters), *words]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
