"""Scorers of pairs: each alone, and several by their weighted sum."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizerFast

from lightgen_core.captioning.parse import Answer
from lightgen_core.encoders.clip import Clip
from lightgen_core.encoders.clip_model import ClipModel
from lightgen_core.encoders.model_ref import ModelNotFound
from lightgen_core.evaluation.geneval_prompts import DISPLAY_NAMES
from lightgen_core.evaluation.scorer_config import ScorerConfig
from lightgen_core.evaluation.scorers import ScorerError, load_scorers
from lightgen_core.scene.config import World
from lightgen_core.teachers.scene import SceneTeacher
from tests.factories.tiny_geneval import SURE_OF as SURE_OF_CLASS
from tests.factories.tiny_geneval import save_tiny_detector

SURE_OF = DISPLAY_NAMES[SURE_OF_CLASS]
CAPTIONS = ["a red circle", "a blue square"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return list(SceneTeacher(World()).generate(CAPTIONS, [1, 2]))


def scorers(*configs: dict, vlm=None):
    return load_scorers([ScorerConfig(**config) for config in configs], "zoo:clip", CPU, vlm)


def test_a_sum_is_weighted_and_names_are_told_apart(images):
    several = scorers(
        {"kind": "detector", "weight": 2}, {"kind": "clip", "margin": 0.1}, {"kind": "clip", "weight": 0.5}
    )
    each = several(images, CAPTIONS[::-1])
    assert list(each) == ["detector", "clip", "clip-2"] and several.margins == {"clip": 0.1}
    assert each["detector"].tolist() == [0, 0]
    assert several(images, CAPTIONS)["detector"].tolist() == [1, 1]
    assert each["clip"] == pytest.approx(Clip.load("zoo:clip").scores(images, CAPTIONS[::-1]))
    assert several.total(each) == pytest.approx(1.5 * each["clip"])


def test_a_head_scores_the_embedding_of_the_image(images, tmp_path):
    vectors = Clip.load("zoo:clip").embed_image_list(images)
    weight = np.random.default_rng(0).normal(size=(1, vectors.shape[1])).astype(np.float32)
    save_file({"0.weight": weight, "0.bias": np.array([3.0], np.float32)}, tmp_path / "head.safetensors")
    head = {"name": "aesthetic", "weights": str(tmp_path / "head.safetensors")}
    each = scorers({"kind": "head", "head": head})(images, CAPTIONS)
    assert each["aesthetic"] == pytest.approx(vectors @ weight[0] + 3, abs=1e-5)


class FixedAnswers:
    """A vision-language model that gives the same answers to whatever it is asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = texts, []

    def write(self, images, texts, seeds):
        self.asked += texts
        return [Answer(text) for text in self.texts]


def test_a_judges_answers_are_scaled_to_one(images):
    model = FixedAnswers("2.5", "<think>9</think> I say 10.")
    judge = {"kind": "judge", "judge": {"model": "m", "highest": 10}}
    each = scorers(judge, vlm=lambda config: model)(images, CAPTIONS)
    assert each["judge"].tolist() == [0.25, 1.0]
    assert all(caption in asked for caption, asked in zip(CAPTIONS, model.asked, strict=True))


def test_a_judge_without_a_number_is_an_error_with_its_answer(images):
    judge = {"kind": "judge", "judge": {"model": "m"}}
    with pytest.raises(ScorerError, match=r"1 of 2 answers of m hold no number from 0 to 10; the first: 'Sorry'"):
        scorers(judge, vlm=lambda config: FixedAnswers("7", "Sorry"))(images, CAPTIONS)


class FixedTokens:
    """A vision-language model that begins with "yes" at the given probabilities, and with an error for None."""

    def __init__(self, *yes: float | None) -> None:
        self.yes, self.asked = yes, []

    def first_tokens(self, images, texts):
        self.asked += texts
        return [
            Answer("", error="refused") if p is None else [(" Yes", np.log(p / 2)), ("yes", np.log(p / 2)), ("No", -1)]
            for p in self.yes
        ]


def test_vqascore_is_the_probability_of_yes(images):
    model, vqa = FixedTokens(0.25, 0.875), {"kind": "vqascore", "vqa": {"model": "m"}, "weight": 2}
    several = scorers(vqa, vlm=lambda config: model)
    each = several(images, CAPTIONS)
    assert each["vqascore"] == pytest.approx([0.25, 0.875]) and several.total(each) == pytest.approx([0.5, 1.75])
    assert model.asked[0] == 'Does this figure show "a red circle"? Please answer yes or no.'
    with pytest.raises(ScorerError, match="1 of 2 requests to m failed: refused"):
        scorers(vqa, vlm=lambda config: FixedTokens(0.5, None))(images, CAPTIONS)


def test_models_of_judges_here_are_weights_of_the_stage():
    here = {"model": "some/folder", "backend": "transformers"}
    assert ScorerConfig(kind="vqascore", vqa=here).models("zoo:clip") == ("some/folder",)
    assert ScorerConfig(kind="judge", judge=here).models("zoo:clip") == ("some/folder",)
    assert ScorerConfig(kind="judge", judge={"model": "served"}).models("zoo:clip") == ()


def test_geneval_scores_by_its_rules_and_refuses_other_captions(images, tmp_path):
    """The detector is sure of a computer mouse in every image, of which there are more than one."""
    geneval = {"kind": "geneval", "model": save_tiny_detector(tmp_path)}
    score = scorers(geneval)
    found = [score(images[:1], [caption])["geneval"][0] for caption in (f"a photo of a {SURE_OF}", "a photo of a dog")]
    assert found == [1, 0]
    assert ScorerConfig(**geneval).models("zoo:clip") == (geneval["model"], "zoo:clip")
    with pytest.raises(ScorerError, match="1 of 2 captions are not of GenEval's form, the first: 'a red circle'"):
        score(images, ["a photo of a dog", "a red circle"])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIPModel of transformers with random weights, and its processor, as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("pickscore")
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(str({word: row for row, word in enumerate(vocabulary)}).replace("'", '"'))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 16}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    vision = sizes | {"image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text | sizes, vision_config=vision, projection_dim=8)).eval()
    model.save_pretrained(folder)
    tokenizer = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(pixels, tokenizer).save_pretrained(folder)
    return folder


def test_pickscore_is_the_models_own_logit(clip_folder, images):
    """The diagonal of `logits_per_image`, as PickScore's example computes it; images of other sizes come along."""
    larger = np.kron(images[0], np.ones((2, 3, 1), np.uint8))
    given, captions = [*images, larger], [*CAPTIONS, "a red circle"]
    scores = scorers({"kind": "pickscore", "model": str(clip_folder)})(given, captions)["pickscore"]
    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    inputs = processor(
        images=given, text=captions, padding=True, return_tensors="pt", input_data_format="channels_last"
    )
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.diagonal()
    assert scores == pytest.approx(expected.numpy(), rel=1e-4)
    assert ClipModel.load(str(clip_folder)).scores([], []).tolist() == []


def test_a_folder_without_such_a_model_is_named(tmp_path):
    with pytest.raises(ModelNotFound, match=r"holds no CLIPModel in safetensors"):
        scorers({"kind": "pickscore", "model": str(tmp_path)})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "pickscore"}, "a scorer of kind pickscore needs model"),
        ({"kind": "judge"}, "a scorer of kind judge needs judge"),
        ({"kind": "head"}, "a scorer of kind head needs head"),
        ({"kind": "detector", "model": "zoo:clip"}, "a scorer of kind detector takes no model"),
        ({"kind": "clip", "weight": 0}, "greater than 0"),
    ],
)
def test_a_scorer_says_what_it_needs(config, message):
    with pytest.raises(ValidationError, match=message):
        ScorerConfig(**config)
