"""T2I-CompBench's models, small: BLIP and OWLv2 of random weights, and a parser of spaCy that goes by lists."""

from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    BlipProcessor,
    CLIPTokenizer,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
)

from tests.factories.tiny_pipelines import clip_tokenizer

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", "?", "a", "green", "bench", "blue", "bowl"]
DECODER, ENCODER = len(BERT), len(BERT) + 1
"""Places of BLIP's own two tokens, behind BERT's words as in the released models."""
_SIDE = 32


def save_tiny_blip(folder: Path, *, answer: dict[str, float] | None = None) -> str:
    """Write a BLIP that answers questions; `answer`: biases of words that it then always answers by."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **small,
            "vocab_size": len(BERT) + 2,
            "encoder_hidden_size": 16,
            "max_position_embeddings": 48,
            "bos_token_id": DECODER,
            "sep_token_id": BERT.index("[SEP]"),
            "initializer_range": 0.5,
        },
        vision_config={**small, "image_size": _SIDE, "patch_size": 16, "initializer_range": 0.5},
        projection_dim=16,
    )
    model = BlipForQuestionAnswering(config)
    if answer is not None:
        head = model.text_decoder.cls.predictions
        with torch.no_grad():  # nothing of image and question is left, so the logits are the biases
            for value in head.transform.parameters():
                value.zero_()
            for word, bias in answer.items():
                head.bias[BERT.index(word)] = bias
    model.save_pretrained(folder)
    size = {"height": _SIDE, "width": _SIDE}
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(BERT)})
    BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return str(folder)


def save_tiny_owl(folder: Path) -> str:
    """Write an OWLv2 that is sure of every box, each of them half as wide and high as the image."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {word: number + 1 for word, number in clip_tokenizer().get_vocab().items()}
    tokenizer = CLIPTokenizer(vocab={"!": 0, **words}, merges=[], model_max_length=77, pad_token="!")  # 0: no query
    config = Owlv2Config(
        text_config={
            **small,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**small, "image_size": _SIDE, "patch_size": 16},
        projection_dim=16,
    )
    model = Owlv2ForObjectDetection(config)
    with torch.no_grad():
        model.class_head.logit_shift.weight.zero_()
        model.class_head.logit_shift.bias.fill_(4.0)
        for value in model.box_head.dense2.parameters():
            value.zero_()  # every box is half as wide and high as the image, and lies where its patch is
    model.save_pretrained(folder)
    size = {"height": _SIDE, "width": _SIDE}
    Owlv2Processor(Owlv2ImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return str(folder)


_PARTS = {
    **dict.fromkeys(("a", "an", "the"), "DET"),
    **dict.fromkeys(("and",), "CCONJ"),
    **dict.fromkeys(("on", "of", "to", "next", "near", "side"), "ADP"),
    **dict.fromkeys(("green", "blue", "red", "soft", "brown"), "ADJ"),
    **dict.fromkeys(("is", "was", "sat", "chases"), "VERB"),
    **dict.fromkeys((".", ",", "?"), "PUNCT"),
}


def save_list_parser(folder: Path) -> str:
    """Write a pipeline of spaCy whose parts of speech are those of a list, and whose every other word is a noun."""
    import spacy
    from spacy.language import Language
    from spacy.tokens import Doc

    if not Language.has_factory("parts_by_list"):

        @Language.component("parts_by_list")
        def parts_by_list(doc: Doc) -> Doc:
            pos = [_PARTS.get(token.lower_, "NOUN") for token in doc]
            nouns = [place for place, part in enumerate(pos) if part == "NOUN"]
            root = nouns[0] if nouns else 0
            heads, deps = [], []
            for place, part in enumerate(pos):
                behind = next((noun for noun in nouns if noun > place), root)
                close = part in ("DET", "ADJ")
                heads.append(behind if close else root)
                deps.append({"DET": "det", "ADJ": "amod"}[part] if close else "pobj" if part == "NOUN" else "dep")
            deps[root] = "ROOT"
            words, spaces = [token.text for token in doc], [bool(token.whitespace_) for token in doc]
            return Doc(doc.vocab, words=words, spaces=spaces, pos=pos, heads=heads, deps=deps)

    pipeline = spacy.blank("en", meta={"name": "by_list", "version": "1.0.0"})
    pipeline.add_pipe("parts_by_list")
    pipeline.to_disk(folder)
    return str(folder)
