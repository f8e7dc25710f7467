"""OpenAI's own client against the server, on the embedded model."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import data_url, run_server, user_message

from xgenmm_hf.inference.asking import ask
from xgenmm_hf.inference.prompts import build_messages


openai = pytest.importorskip("openai")

LIMIT = 24


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def create(client, *messages, **options):
    options = {"max_tokens": LIMIT, **options}
    return client.chat.completions.create(model="tiny", messages=list(messages), **options)


def content(client, *messages, **options) -> str:
    return create(client, *messages, **options).choices[0].message.content


def streamed(client, *messages, **options):
    chunks = list(create(client, *messages, stream=True, **options))
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks


@pytest.mark.parametrize("count", [0, 1, 3])
def test_answer_and_usage_are_those_of_ask(client, loaded, images, count):
    expected = ask(loaded, images[:count], "What is this?", max_new_tokens=LIMIT)
    response = create(client, user_message("What is this?", *map(data_url, images[:count])))
    assert response.choices[0].message.content == expected.text
    assert response.choices[0].finish_reason == ("stop" if expected.finished else "length")
    assert response.usage.prompt_tokens == expected.prompt_tokens
    assert response.usage.completion_tokens == expected.new_tokens
    assert response.usage.total_tokens == expected.prompt_tokens + expected.new_tokens


def test_a_chat_of_several_turns_with_a_system_turn(client, loaded, images):
    system = {"role": "system", "content": "Be brief."}
    first = user_message("Describe this image.", data_url(images[2]))
    answer = create(client, system, first).choices[0].message
    second = create(client, system, first, answer.model_dump(), user_message("And this?", data_url(images[1])))
    conversation = [
        *build_messages([images[2]], "Describe this image.", "Be brief."),
        {"role": "assistant", "content": answer.content},
        *build_messages([images[1]], "And this?"),
    ]
    inputs = loaded.processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    output = loaded.model.generate(**inputs, max_new_tokens=LIMIT, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    assert second.choices[0].message.content == loaded.processor.decode(new, skip_special_tokens=True).strip()
    assert second.usage.prompt_tokens == inputs["input_ids"].shape[1]


def test_a_streamed_answer_is_the_same(client, images):
    message = user_message("Describe this image.", data_url(images[0]))
    whole = create(client, message)
    text, chunks = streamed(client, message, stream_options={"include_usage": True})
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert streamed(client, message)[1][-1].usage is None


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(client, images):
    message = user_message("Describe this image.", data_url(images[0]))
    whole = content(client, message)
    stop = whole[len(whole) // 2 :][:3]
    expected = whole[: whole.index(stop)].rstrip()
    response = create(client, message, stop=[stop, "never said"])
    assert response.choices[0].message.content == expected
    assert response.choices[0].finish_reason == "stop"
    assert streamed(client, message, stop=stop)[0] == expected


def test_length_is_limited(client, images):
    response = create(client, user_message("Describe this image.", data_url(images[0])), max_tokens=2)
    assert response.choices[0].finish_reason == "length"
    assert response.usage.completion_tokens == 2
    newer = create(client, user_message("Describe this image.", data_url(images[0])), max_completion_tokens=3)
    assert newer.usage.completion_tokens == 3


def test_seeds_repeat_whoever_asks_at_the_same_time(client, images):
    message = user_message("Describe this image.", data_url(images[2]))

    def sample(seed: int) -> str:
        return content(client, message, temperature=1.5, top_p=0.95, seed=seed)

    alone = [sample(seed) for seed in range(4)]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(sample, [0, 1, 2, 3, 0, 1, 2, 3])) == [*alone, *alone]


def test_penalties_change_the_answer(client, images):
    options = {"max_tokens": 60, "temperature": 0}
    message = user_message("Describe this image.", data_url(images[0]))
    plain = content(client, message, **options)
    assert content(client, message, frequency_penalty=2, presence_penalty=2, **options) != plain


def test_32_clients_at_once_get_the_answers_they_get_alone(server, client, loaded, images):
    questions = [
        (image, text)
        for image in (None, *images)
        for text in ("Describe this image.", "What color is it?", "How many shapes are there?", "Hello!")
    ]
    messages = [user_message(text, *([data_url(image)] if image else [])) for image, text in questions] * 2
    alone = [ask(loaded, [image] if image else [], text, max_new_tokens=LIMIT) for image, text in questions] * 2
    before = server.service.metrics.registry.get_sample_value("xgenmm_batch_rows_bucket", {"le": "1.0"})
    start = threading.Barrier(len(messages))

    def one(number: int):
        start.wait(60)
        if number % 2:
            return streamed(client, messages[number])[0]
        return content(client, messages[number])

    with ThreadPoolExecutor(len(messages)) as pool:
        answers = list(pool.map(one, range(len(messages))))
    assert answers == [answer.text for answer in alone]
    registry = server.service.metrics.registry
    steps = registry.get_sample_value("xgenmm_batch_rows_count")
    # most tokens were computed for several at once
    assert registry.get_sample_value("xgenmm_batch_rows_bucket", {"le": "1.0"}) - before < steps / 2
    server.wait_until(lambda: registry.get_sample_value("xgenmm_running_requests") == 0)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        client.models.retrieve("another")
    with pytest.raises(openai.NotFoundError, match="no model 'another'"):
        client.chat.completions.create(model="another", messages=[user_message("Hello")])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 10**6}, "max_tokens is 1000000; this server gives 4096 at most"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"colour": "red"}}, "Unknown field colour"),
    ],
)
def test_what_is_not_offered_is_refused(client, options, reason):
    with pytest.raises(openai.BadRequestError, match=reason):
        create(client, user_message("Hello"), **options)


def test_the_api_is_described(server):
    status, description = server.request("GET", "/openapi.json")
    assert status == 200
    assert {"/health", "/v1/models", "/v1/chat/completions"} <= set(description["paths"])


def test_a_key_is_asked_for_where_there_is_one(loaded):
    with run_server(loaded, api_key="secret") as running:
        right, wrong = (openai.OpenAI(base_url=running.url, api_key=key, max_retries=0) for key in ("secret", "x"))
        assert [model.id for model in right.models.list()] == ["tiny"]
        with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer KEY"):
            create(wrong, user_message("Hello"))
        assert running.request("GET", "/health")[0] == 200
        for path in ("/metrics", "/openapi.json"):
            assert running.request("GET", path)[0] == 401
            assert running.request("GET", path, authorization="Bearer secret")[0] == 200
