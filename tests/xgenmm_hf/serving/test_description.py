"""The server's own description of its API: nothing dangles, errors and key are in it."""

import json

from serving import run_server


def references(value):
    if isinstance(value, dict):
        yield from (found for key, item in value.items() if key != "$ref" for found in references(item))
        if "$ref" in value:
            yield value["$ref"]
    elif isinstance(value, list):
        yield from (found for item in value for found in references(item))


def test_every_reference_of_the_description_exists(server):
    status, document = server.request("GET", "/openapi.json")
    assert status == 200
    found = set(references(document))
    assert {"#/components/schemas/ChatRequest", "#/components/schemas/ErrorAnswer"} <= found
    for reference in found:
        place = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place["type"] in ("object", "string")
    assert "$defs" not in json.dumps(document)


def test_errors_types_and_key_are_described(loaded):
    with run_server(loaded, api_key="secret") as running:
        assert running.request("GET", "/openapi.json")[0] == 401
        status, document = running.request("GET", "/openapi.json", authorization="Bearer secret")
        assert status == 200
        chat = document["paths"]["/v1/chat/completions"]["post"]
        assert {"200", "400", "401", "404", "408", "413", "415", "429", "500", "503"} <= set(chat["responses"])
        assert chat["security"] == [{"HTTPBearer": []}]
        assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert list(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
