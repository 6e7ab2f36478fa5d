"""The zoo's tokenizer: every word of the grammar is one token, any other is spelt in characters."""

import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lightgen_core.scene.grammar import meanings, phrasings
from lightgen_core.zoo.training import full_world

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
"""Ids 0, 1 and 2, as in T5."""
CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation
SPELLING = (PAD, END, UNKNOWN, *CHARACTERS, *(f"##{character}" for character in CHARACTERS))
"""The first tokens: what a word outside the grammar is made of."""


def grammar_words() -> set[str]:
    """Return every word of the scene world's captions."""
    all_meanings = meanings(full_world())
    one_of_each = {(meaning.category, meaning.count, meaning.relation): meaning for meaning in all_meanings}
    captions = [meaning.canonical for meaning in all_meanings]  # every shape, colour, number and relation
    captions += [caption for meaning in one_of_each.values() for caption in phrasings(meaning)]  # every other word
    return {word for caption in captions for word in caption.split()}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build a lower-casing WordPiece tokenizer that appends END, as T5's."""
    tokens = [*SPELLING, *sorted(grammar_words() - set(CHARACTERS))]
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


def unknown_words(tokenizer: PreTrainedTokenizerBase, caption: str) -> list[str]:
    """Return the words of a caption that the zoo's tokenizer spells, or cannot read: none of the grammar's.

    Another tokenizer has a vocabulary of ordinary words: nothing is returned.
    """
    if tuple(tokenizer.convert_ids_to_tokens(list(range(len(SPELLING))))) != SPELLING:
        return []
    spelling = set(SPELLING[2:])
    words = (word.strip(string.punctuation) for word in caption.lower().split())
    unknown = (word for word in words if len(word) > 1 and spelling.issuperset(tokenizer.tokenize(word)))
    return list(dict.fromkeys(unknown))
