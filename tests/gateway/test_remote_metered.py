"""Metered prices through a hub: tests of `test_metered.py` run here again, with a seller who reaches the ledger by HTTP."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from payre_mcp.clock import ManualClock
from payre_mcp.connection import Connection
from tests.fakes import Funded
from tests.gateway import test_metered
from tests.gateway.test_metered import Shop
from tests.hubs import running_hub

SHARED = [
    "a_call_above_its_ceiling_is_charged_the_ceiling",
    "a_call_repeated_with_its_key_is_charged_and_counted_once",
    "a_call_that_could_cost_more_than_any_ledger_holds_is_refused",
    "a_call_that_must_report_and_did_not_keeps_its_hold_until_it_is_voided",
    "a_call_that_reports_after_all_is_charged",
    "a_capture_after_the_hold_expired_is_priced_at_the_place_of_its_hold",
    "a_hold_of_nothing_is_held_captured_and_receipted",
    "a_new_window_begins_at_the_first_step",
    "a_paid_call_is_told_again_though_its_price_has_risen_above_the_callers_limit",
    "a_price_that_was_never_published_is_refused",
    "a_price_without_variants_takes_none",
    "a_receipt_states_quantities_in_whole_base_units",
    "a_refund_gives_back_what_a_metered_call_cost_and_no_place",
    "a_revoked_key_is_refused_before_its_call_is_priced",
    "a_running_call_is_charged_by_the_price_it_was_held_with",
    "a_target_of_a_server_counts_by_itself",
    "a_variant_is_charged_by_its_own_price_and_stands_on_the_receipt",
    "a_variant_that_the_price_does_not_have_is_refused_before_anything_is_held",
    "a_voided_call_frees_its_place",
    "calls_at_once_are_each_priced_at_their_own_place",
    "other_policies_settle_a_call_that_did_not_report",
    "the_free_quota_of_a_day_is_free_and_then_the_price_applies",
    "the_limit_is_held_against_the_step_that_the_caller_stands_on",
    "two_consumers_count_by_themselves",
    "what_is_known_before_the_run_bounds_the_hold",
]

for _name in SHARED:
    globals()[f"test_{_name}"] = getattr(test_metered, f"test_{_name}")


@pytest.fixture
def ledger_url(ledger_path: Path) -> str:
    return f"sqlite:///{ledger_path}"


@pytest.fixture
async def shop(connection: Connection, consumer: Funded, clock: ManualClock) -> AsyncIterator[Shop]:
    """The ledger as it stands behind a hub, and a seller who reaches it through the hub alone."""
    with running_hub(connection, clock) as hub:
        gateway = hub.gateway(clock=clock)
        yield Shop(replace(connection, gateway=gateway), consumer)  # pyright: ignore[reportArgumentType]
        await gateway.aclose()
