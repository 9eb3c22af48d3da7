"""What an operator sees: outcomes on the SDK's own spans and in metrics, and nothing secret in either."""

import json
from pathlib import Path
from typing import Any

import pytest

from payre_mcp.connection import open_ledger
from tests.fakes import finish, fund, start_python

SCRIPT = """
import json, sys
import anyio
from mcp import Client
from mcp.server.mcpserver.exceptions import ToolError
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from payre_mcp import PaidMCPServer

spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))
server = PaidMCPServer("shop", payre=sys.argv[1], log_level="CRITICAL")

@server.tool(price="0.005")
async def forecast(city: str) -> str:
    if city == "nowhere":
        raise ToolError("no such place")
    return f"{city}: sunny"

async def main():
    async with Client(server) as client:
        for city, key, name in (
            ("Oslo", sys.argv[2], "one"), ("Oslo", sys.argv[2], "one"), ("nowhere", sys.argv[2], None),
            ("Oslo", None, None), ("Oslo", "pyr_ck_test_wrong", None),
        ):
            marks = {"dev.payre/key": key, "dev.payre/idempotency-key": name}
            await client.call_tool("forecast", {"city": city}, meta={k: v for k, v in marks.items() if v})

anyio.run(main)
served = [each for each in spans.get_finished_spans() if each.name == "tools/call forecast" and each.kind.name == "SERVER"]
points = {}
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            if metric.name.startswith("payre."):
                points[metric.name] = [
                    [dict(point.attributes), getattr(point, "value", None) or point.count] for point in metric.data.data_points
                ]
raw = [each.to_json() for each in spans.get_finished_spans()]
print(json.dumps({"spans": [dict(each.attributes) for each in served], "metrics": points, "raw": raw}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an OpenTelemetry SDK in the server's process was told about five calls."""
    path: Path = tmp_path_factory.mktemp("otel") / "payre.db"
    connection = open_ledger(f"sqlite:///{path}")
    key = fund(connection.ledger, 1_000_000).key.text
    connection.close()
    said = finish(start_python(SCRIPT, f"sqlite:///{path}", key))
    assert key not in said
    return json.loads(said)


def test_every_span_says_how_its_call_ended(told: dict[str, Any]) -> None:
    ended = [(span["payre.outcome"], span.get("payre.error"), span["payre.target"]) for span in told["spans"]]
    assert ended == [
        ("charged", None, "forecast"),
        ("replayed", None, "forecast"),
        ("released", None, "forecast"),
        ("refused", "payment_required", "forecast"),
        ("refused", "invalid_api_key", "forecast"),
    ]


def test_the_span_of_a_charge_names_it_and_its_amounts(told: dict[str, Any]) -> None:
    charged = told["spans"][0]
    assert (charged["payre.held_micros"], charged["payre.charged_micros"]) == (5_000, 5_000)
    assert charged["payre.charge_id"].startswith("chg_")


def test_metrics_count_calls_by_outcome_money_and_the_time_of_the_ledger(told: dict[str, Any]) -> None:
    where = {"payre.server": "shop", "payre.kind": "tool", "payre.name": "forecast"}
    assert sorted((point["payre.outcome"], point.get("payre.error"), many) for point, many in told["metrics"]["payre.calls"]) == [
        ("charged", None, 1),
        ("refused", "invalid_api_key", 1),
        ("refused", "payment_required", 1),
        ("released", None, 1),
        ("replayed", None, 1),
    ]
    assert told["metrics"]["payre.charged"] == [[where, 5_000]]
    took = {point["payre.operation"]: many for point, many in told["metrics"]["payre.ledger.duration"]}
    assert took == {"authorize": 2, "capture": 1}


def test_no_argument_and_no_answer_stands_in_a_span(told: dict[str, Any]) -> None:
    everything = "".join(told["raw"])
    assert "pyr_ck_" not in everything
    assert "Oslo" not in everything
    assert "sunny" not in everything
