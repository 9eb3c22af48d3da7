"""Whatever is sent to the API, right or wrong by its own document: no 5xx, answers as documented, money that adds up."""

import copy
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import schemathesis
import schemathesis.checks
import schemathesis.specs.openapi.checks
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup

from payre_mcp.keys import Mode, Role, new_key
from tests.hub.served import Served, serving_hub

_CHECKS: Any = schemathesis.specs.openapi.checks
CHECKS: list[Any] = [
    cast("Any", schemathesis.checks).not_a_server_error,
    _CHECKS.status_code_conformance,
    _CHECKS.content_type_conformance,
    _CHECKS.response_schema_conformance,
    _CHECKS.response_headers_conformance,
]
FEW, MANY = 40, 5_600
"""Examples of each way to make requests, right and wrong."""


def send(served: Served, client: httpx2.Client, method: str, path: str, body: Any) -> Any:
    answer = client.request(method, path, json=body, headers={"Idempotency-Key": f"seed-{random.random()}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def facts(served: Served) -> dict[str, list[Any]]:
    """What is true of this ledger, by the name of the field that it fits."""
    with served.client() as client, served.client(served.consumer_key) as consumer:
        prices = [
            {"name": "forecast", "spec": "0.001"},
            {"name": "radar", "spec": {"dimensions": [TOKENS], "max_price_usd": 0.01}},
        ]
        versions = send(served, client, "PUT", "/v1/servers/weather/prices", {"prices": prices})["prices"]
        key, digest = served.consumer_key, "0" * 64
        holds: list[Any] = []
        for price in versions:
            call = {
                "api_key": key,
                "server": "weather",
                "name": price["name"],
                "price_version": price["version"],
                "args_sha256": digest,
            }
            holds += [send(served, client, "POST", "/v1/holds", call) for _ in range(20)]
        charge = {"api_key": key, "tool": "forecast", "amount": "0.001"}
        charges = [send(served, client, "POST", "/v1/charges", charge) for _ in range(10)]
        top_up = send(served, consumer, "POST", "/v1/checkout", {"amount": 5})
    return {
        "api_key": [key, new_key(Role.CONSUMER, Mode.TEST).text], "token": [hold["token"] for hold in holds],
        "receipt": [charge["receipt"] for charge in charges], "server": ["weather", "default"], "name": ["forecast", "radar"],
        "tool": ["forecast", "radar"], "price_version": [price["version"] for price in versions], "args_sha256": [digest],
        "of": [charge["charge_id"] for charge in charges], "since": [hold["expires_at"] for hold in holds],
        "hold": [hold["hold"] for hold in holds], "charge": [charge["charge_id"] for charge in charges],
        "top_up": [top_up["top_up_id"]], "cursor": [charge["charge_id"] for charge in charges] + [top_up["top_up_id"]],
    }  # fmt: skip


TOKENS = {
    "direction": "usage",
    "unit": "tokens",
    "scale": 1,
    "tiers": [{"up_to": 50, "price_usd": 0.0001}, {"price_usd": 0.00005}],
}


def hinted(document: dict[str, Any], known: dict[str, list[Any]]) -> dict[str, Any]:
    """The document with what is true offered beside all that is possible, and the bodies of a batch as those of its acts."""
    document = copy.deepcopy(document)
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        for name, field in schema.get("properties", {}).items():
            if name in known:
                schema["properties"][name] = {"anyOf": [{"enum": known[name]}, field]}
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation["parameters"]:
                if parameter["name"] in known:
                    parameter["schema"] = {"anyOf": [{"enum": known[parameter["name"]]}, parameter["schema"]]}
    acts = ("HoldRequest", "CaptureRequest", "HoldAct", "ResumeRequest", "ChargeRequest", "RefundRequest", "KeyCheckRequest")
    schemas["BatchedRequest"]["properties"]["body"] = {"anyOf": [{"$ref": f"#/components/schemas/{act}"} for act in acts]}
    return document


@pytest.mark.parametrize(
    "examples",
    [
        pytest.param(FEW, marks=pytest.mark.timeout(300)),
        pytest.param(MANY, marks=[pytest.mark.fault, pytest.mark.timeout(3600)]),
    ],
)
def test_no_request_breaks_the_hub_or_its_books(tmp_path: Path, examples: int) -> None:
    sent: Counter[int] = Counter()
    generous = {"PAYRE_RATE_LIMIT": "1000000", "PAYRE_DEVELOPER_RATE_LIMIT": "1000000"}
    with serving_hub(tmp_path, **generous) as served:
        with served.client() as client:
            document = hinted(client.get("/v1/openapi.json").json(), facts(served))
        schema: Any = schemathesis.openapi.from_dict(document)
        schema.config.generation.with_security_parameters = False  # `ask` shows the keys
        keys = {"developer": [served.secret_key], "consumer": [served.consumer_key]}
        keys["either"] = [*keys["developer"], *keys["consumer"]]

        def ask(case: Any, pick: random.Random) -> None:
            if (case.method, case.path) == ("DELETE", "/v1/keys/{key}"):
                return  # the keys that ask are among those that it would end
            key = pick.choice(keys[case.operation.tags[0]])
            case.headers = {**(case.headers or {}), "Authorization": f"Bearer {key}"}
            answer = case.call(base_url=served.url, timeout=20)
            sent[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            cases = schema.as_strategy(generation_mode=mode)
            quickly = settings(
                max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
            )  # fmt: skip
            quickly(given(case=cases, pick=st.randoms(use_true_random=True))(ask))()
        check_the_checks(served, document)
        served.stop()
    sys.stdout.write(f"{sum(sent.values())} requests: {dict(sent)}\n")
    assert sent[200] > examples // 20
    report = served.audit()
    assert report.violations == []


def check_the_checks(served: Served, document: dict[str, Any]) -> None:
    """The control: an answer that is not as its document says is noticed."""
    document["components"]["schemas"]["BalanceAnswer"]["properties"]["mode"] = {"type": "integer"}
    schema: Any = schemathesis.openapi.from_dict(document)
    case = schema["/v1/balance"]["GET"].Case(headers={"X-Payre-Key": served.consumer_key})
    with pytest.raises(FailureGroup):
        case.validate_response(case.call(base_url=served.url), checks=CHECKS)
