"""The language models that write captions: one of transformers, and one behind an endpoint."""

import pytest
import torch

from lightgen_core.captioning.config import LLMConfig
from lightgen_core.captioning.hf_captioner import HFCaptioner, SeededSampling
from lightgen_core.captioning.openai_captioner import OpenAICaptioner
from lightgen_core.captioning.parse import Answer
from lightgen_core.endpoint import Endpoint, EndpointError
from tests.factories.tiny_language_model import save_tiny_language_model
from tests.support.local_endpoint import Reply, serving, without_waits

CASES = [
    f"write a {word} image " + "of a old cat " * (n % 4) for n, word in enumerate(("red", "old", "on", "a", "in", "at"))
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_language_model(tmp_path_factory.mktemp("lm") / "plain")


def writer_of(folder, **changes):
    torch.set_num_threads(1)
    settings = {"model": str(folder), "dtype": "float32", "max_new_tokens": 12, "batch_size": 4} | changes
    return HFCaptioner.load(LLMConfig(**settings))


def test_an_answer_does_not_depend_on_the_batch_around_it(model):
    alone = [writer_of(model).write([text], [seed])[0] for seed, text in enumerate(CASES)]
    assert writer_of(model).write(CASES, range(6)) == alone
    assert writer_of(model, batch_size=6).write(CASES[::-1], range(6)[::-1]) == alone[::-1]
    assert len({answer.text for answer in alone}) == 6


def test_the_seed_alone_makes_answers_to_one_instruction_differ(model):
    again = writer_of(model).write(["write a red image"] * 8, [1, 2, 3, 4, 1, 2, 3, 4])
    assert again[:4] == again[4:] and len({answer.text for answer in again[:4]}) == 4


def test_temperature_zero_takes_the_likeliest_token(model):
    writer = writer_of(model, temperature=0)
    answers = writer.write(CASES, range(6))
    assert answers == writer_of(model, temperature=1, top_p=1e-9).write(CASES, range(6))
    tokens = writer.tokenizer(CASES[0] + "\n", return_tensors="pt")
    likeliest = writer.model(**tokens).logits[0, -1].argmax()
    assert answers[0].text.split()[0] == writer.tokenizer.decode(likeliest)


def test_tokens_are_drawn_as_often_as_their_probability_says():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    numbers = torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1, None]

    def shares(temperature, top_p):
        draw = SeededSampling(numbers, prompt_length=3, temperature=temperature, top_p=top_p)
        drawn = draw(torch.zeros(4000, 3, dtype=torch.long), logits.expand(4000, 4)).argmax(dim=-1)
        return torch.bincount(drawn, minlength=4) / 4000

    torch.testing.assert_close(shares(1.0, 1.0), logits.exp(), atol=5e-4, rtol=0)
    torch.testing.assert_close(shares(1.0, 0.7), torch.tensor([0.625, 0.375, 0, 0]), atol=5e-4, rtol=0)
    torch.testing.assert_close(shares(0.5, 1.0), (2 * logits).softmax(0), atol=5e-4, rtol=0)


def test_a_chat_template_is_used_where_there_is_one(tmp_path):
    writer = writer_of(save_tiny_language_model(tmp_path / "chat", chat=True))
    assert writer._prompt("write a cat") == "<user> write a cat <model>"
    assert "<user>" not in writer.write(["write a cat"], [0])[0].text


def test_habits_of_the_model_are_not_part_of_a_caption(model, tmp_path):
    plain = writer_of(model).write(CASES, range(6))
    folder = save_tiny_language_model(tmp_path / "habits")
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 5.0, "top_k": 1, "repetition_penalty": 9.0, "eos_token_id": 1}'
    )
    assert writer_of(folder).write(CASES, range(6)) == plain


def test_an_answer_knows_whether_it_was_cut(model):
    answers = writer_of(model, max_new_tokens=60).write(CASES, range(6))
    short = writer_of(model, max_new_tokens=2).write(CASES, range(6))
    assert not all(answer.truncated for answer in answers)
    assert all(answer.truncated == (len(answer.text.split()) == 60) for answer in answers)
    assert [answer.text.split() for answer in short] == [answer.text.split()[:2] for answer in answers]


def test_weights_that_can_run_code_are_not_loaded(tmp_path):
    folder = save_tiny_language_model(tmp_path / "bin")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        writer_of(folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = save_tiny_language_model(tmp_path / "code")
    config = (folder / "config.json").read_text().replace('"llama"', '"strange"')
    config = config.replace("{", '{"auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"},', 1)
    (folder / "config.json").write_text(config)
    (folder / "c.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        writer_of(folder)


def chat(asked, concurrency=3, **changes):
    settings = LLMConfig(backend="endpoint", model="qwen", **changes)
    return OpenAICaptioner(Endpoint(asked.url, "sk-1", max_retries=3), settings, concurrency)


def completion(text, finish_reason="stop"):
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}]}


@pytest.fixture(autouse=True)
def quick_loopback(monkeypatch):
    without_waits(monkeypatch)


def test_requests_carry_recipe_and_seed_and_answers_keep_order():
    def answer(body):
        return Reply(completion(f"said {body['messages'][0]['content']}"), delay=0.03 * (body["seed"] == 0))

    with serving(answer) as asked:
        written = chat(asked, temperature=0.5, request={"top_k": 5, "top_p": None}).write(
            ["a", "b", "c"], [0, 1, 2**40 + 7]
        )
    assert written == [Answer("said a"), Answer("said b"), Answer("said c")]
    body = next(body for body in asked.bodies if body["seed"] == 7)
    assert body == {
        "model": "qwen",
        "messages": [{"role": "user", "content": "c"}],
        "temperature": 0.5,
        "max_tokens": 160,
        "seed": 7,
        "top_k": 5,
    }
    assert asked.paths[0] == "/v1/chat/completions"


def test_a_flaky_server_costs_time_and_no_caption():
    trouble = [Reply(status=429, headers={"Retry-After": "0.1"}), Reply(status=500), Reply(b"{")]
    turns = iter(trouble)
    with serving(lambda body: next(turns, Reply(completion("a cat")))) as asked:
        assert chat(asked, concurrency=1).write(["x"] * 4, range(4)) == [Answer("a cat")] * 4


@pytest.mark.parametrize(
    ("reply", "missing"),
    [
        (Reply({"error": "policy"}, 400), "refused with status 400"),
        (Reply(completion(None, "content_filter")), "no text; finish_reason 'content_filter'"),
        (Reply(completion("", "stop")), "no text; finish_reason 'stop'"),
        (Reply({"choices": []}), "no chat completion: {'choices': []}"),
        (Reply({"choices": "odd"}), "no chat completion"),
        (Reply({"choices": [{"message": {"content": None, "refusal": "I cannot"}}]}), "refused: 'I cannot'"),
        (
            Reply({"choices": [{"message": {"content": [{"type": "image"}]}, "finish_reason": "stop"}]}),
            "no text; finish",
        ),
        (Reply({"choices": [{"message": {"content": [1]}}]}), "no chat completion"),
        (Reply({"choices": [{"message": None, "finish_reason": 3}]}), "no chat completion"),
    ],
)
def test_an_instruction_without_an_answer_says_why(reply, missing):
    with serving(lambda body: reply if body["seed"] == 1 else Reply(completion("a cat"))) as asked:
        answers = chat(asked).write(["x", "y"], [0, 1])
    assert answers[0] == Answer("a cat")
    assert missing in answers[1].error


@pytest.mark.parametrize("finish_reason", ["length", "content_filter", "MAX_TOKENS", "model_length", "SAFETY", "error"])
def test_the_token_limit_is_seen(finish_reason):
    with serving([Reply(completion("a cat on a", finish_reason))]) as asked:
        assert chat(asked).write(["x"], [0]) == [Answer("a cat on a", truncated=True)]


@pytest.mark.parametrize("finish_reason", ["stop", "eos", "end_turn", None])
def test_a_text_in_parts_is_one_text(finish_reason):
    parts = [{"type": "text", "text": "a cat "}, {"type": "thinking"}, {"type": "text", "text": "on a mat"}]
    with serving([Reply(completion(parts, finish_reason))]) as asked:
        assert chat(asked).write(["x"], [0]) == [Answer("a cat on a mat")]


def test_answers_before_a_failure_are_not_asked_for_again(tmp_path):
    def answer(body):
        fails = body["seed"] == 3 and len(asked.bodies) == 4
        return Reply(status=401) if fails else Reply(completion(f"caption {body['seed']}"))

    with serving(answer) as asked, Endpoint(asked.url, max_retries=0) as endpoint:
        config = LLMConfig(backend="endpoint", model="m")
        with pytest.raises(EndpointError):
            OpenAICaptioner(endpoint, config, 1, tmp_path).write(list("abcde"), range(5))
        found = OpenAICaptioner(endpoint, config, 1, tmp_path).write(list("abcde"), range(5))
    assert [each.text for each in found] == [f"caption {seed}" for seed in range(5)]
    seeds = [body["seed"] for body in asked.bodies]
    assert (seeds[:4], sorted(seeds)) == ([0, 1, 2, 3], [0, 1, 2, 3, 3, 4])
    assert list(tmp_path.iterdir()) == []


def test_after_a_refused_key_the_remaining_requests_are_not_sent():
    with serving([Reply(status=401, delay=0.2)]) as asked, pytest.raises(EndpointError):
        chat(asked, concurrency=2).write(["x"] * 50, range(50))
    assert len(asked.bodies) < 50


def test_a_server_that_refuses_everything_stops_the_run():
    refused = Reply({"error": "max_tokens is unknown"}, 400)
    with (
        serving([refused]) as asked,
        pytest.raises(EndpointError, match=r"all 8 requests failed.*max_tokens is unknown"),
    ):
        chat(asked).write(["x"] * 8, range(8))
