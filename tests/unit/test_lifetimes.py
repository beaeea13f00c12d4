"""How long tokens live: what replies say of it in any words, and what is assumed of the rest."""

from dataclasses import replace
from typing import Any

import pytest

from worker.core import lifetimes
from worker.core.grant import ENDLESS_MS
from worker.core.lifetimes import FALLBACK_LIFETIME_MS, MAX_LIFETIME_MS, SOON_MS, Life
from worker.core.outcomes import NoLifetime
from worker.core.providers import DAY_MS, MINUTE_MS, Client

NOW = 1_700_000_000_000  # 2023-11-14T22:13:20Z
HALF_HOUR_MS = 30 * MINUTE_MS
THEN_S = (NOW + HALF_HOUR_MS) // 1000
INSTANTS = ("expires_at", "expires", "expires_on", "expiry", "expiry_date")


@pytest.mark.parametrize("name", ["expires_in", "expiresIn", *INSTANTS, "expiresAt", "expiryDate"])
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(THEN_S, id="unix-seconds"),
        pytest.param(THEN_S + 0.0, id="unix-seconds-with-a-fraction"),
        pytest.param(str(THEN_S), id="unix-seconds-as-text"),
        pytest.param(NOW + HALF_HOUR_MS, id="milliseconds"),
        pytest.param(f" {NOW + HALF_HOUR_MS} ", id="milliseconds-as-text"),
        pytest.param("2023-11-14T22:43:20Z", id="rfc-3339"),
        pytest.param("2023-11-14t23:43:20.000000001+01:00", id="rfc-3339-with-all-it-allows"),
        pytest.param("2023-11-14 22:43:20Z", id="rfc-3339-with-a-space"),
        pytest.param("Tue, 14 Nov 2023 22:43:20 GMT", id="http-date"),
    ],
)
def test_a_moment_is_read_under_any_word_and_counted_from_sending(name: str, moment: object) -> None:
    assert lifetimes.access_lifetime({name: moment}, NOW) == HALF_HOUR_MS


@pytest.mark.parametrize("name", ["expires_in", *INSTANTS])
def test_a_small_number_is_a_span_under_any_word(name: str) -> None:
    assert lifetimes.access_lifetime({name: 3600}, NOW) == 60 * MINUTE_MS


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"expires_in": 0}, id="zero"),
        pytest.param({"expires_in": "-1"}, id="negative"),
        pytest.param({"expires_in": THEN_S - 1801}, id="a-unix-time-gone-by"),
        pytest.param({"expires_at": "2023-11-14T22:13:19Z"}, id="a-moment-gone-by"),
    ],
)
def test_an_end_that_has_come_is_a_life_of_zero(document: dict[str, Any]) -> None:
    assert lifetimes.access_lifetime(document, NOW) == 0


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({}, id="silence"),
        pytest.param({"expires_in": None, "expires_at": ""}, id="null-and-blank"),
        pytest.param({"expires_at": 0}, id="a-moment-never-filled-in"),
        pytest.param({"expiry": "0001-01-01T00:00:00Z"}, id="go-s-moment-never-filled-in"),
        pytest.param({"expires_at": "2023-11-14T22:43:20"}, id="a-time-without-a-zone"),
        pytest.param({"expires_in": "never"}, id="a-word"),
        pytest.param({"expires_in": "9" * 10_000}, id="ten-thousand-digits"),
        pytest.param({"expires_in": 10**400}, id="beyond-any-double"),
        pytest.param({"expires_in": float("-inf")}, id="minus-infinity"),
        pytest.param({"expires_in": float("nan")}, id="not-a-number"),
        pytest.param({"expires_in": 10**11}, id="between-seconds-and-milliseconds"),
        pytest.param({"expires_in": {"seconds": 5}}, id="an-object"),
        pytest.param({"expires_in": False}, id="false"),
    ],
)
def test_silence_and_nonsense_say_nothing_of_a_life(document: dict[str, Any]) -> None:
    assert lifetimes.access_lifetime(document, NOW) is NoLifetime.UNKNOWN


def test_of_several_words_the_first_that_can_be_read_counts_and_the_span_is_first() -> None:
    both = {"expires_at": THEN_S, "expires_in": 60}
    assert lifetimes.access_lifetime(both, NOW) == MINUTE_MS
    assert lifetimes.access_lifetime({**both, "expires_in": "soon"}, NOW) == HALF_HOUR_MS


def test_ten_years_are_believed_at_most() -> None:
    assert lifetimes.access_lifetime({"expires_in": 2**31 - 1}, NOW) == MAX_LIFETIME_MS
    assert lifetimes.access_lifetime({"expires_at": 4_000_000_000}, NOW) == MAX_LIFETIME_MS


@pytest.mark.parametrize(
    "name", ["refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in"]
)
def test_a_refresh_token_s_life_is_read_in_its_own_words(name: str) -> None:
    assert lifetimes.refresh_lifetime({name: 86_400, "expires_in": 60}, NOW) == DAY_MS
    assert lifetimes.refresh_lifetime({name: 0}, NOW) is None  # Keycloak's word for no end
    assert lifetimes.refresh_lifetime({name: "soon"}, NOW) is None


def test_a_refresh_token_s_end_is_read_as_a_moment_too() -> None:
    assert lifetimes.refresh_lifetime({"refresh_token_expires_at": THEN_S}, NOW) == HALF_HOUR_MS


def test_a_stated_life_is_taken_and_remembered(oauth2: Client) -> None:
    assert lifetimes.after_refresh(MINUTE_MS, 7, oauth2) == Life(MINUTE_MS, MINUTE_MS)
    assert lifetimes.after_refresh(NoLifetime.NEVER, 7, oauth2) == Life(ENDLESS_MS, ENDLESS_MS)


def test_a_life_of_zero_is_soon_and_leaves_what_was_known(oauth2: Client) -> None:
    assert lifetimes.after_refresh(0, DAY_MS, oauth2) == Life(SOON_MS, DAY_MS)
    assert lifetimes.after_refresh(0, None, oauth2) == Life(SOON_MS, None)


def test_after_silence_the_last_stated_life_counts_before_any_setting(buddy: Client) -> None:
    told = replace(buddy, access_lifetime_ms=MINUTE_MS)
    assert lifetimes.after_refresh(NoLifetime.UNKNOWN, DAY_MS, told) == Life(DAY_MS, DAY_MS)


def test_after_silence_never_is_remembered_where_it_was_stated(oauth2: Client) -> None:
    life = lifetimes.after_refresh(NoLifetime.UNKNOWN, ENDLESS_MS, oauth2)
    assert life.end(NOW) is None
    assert life.stated_ms == ENDLESS_MS


def test_after_silence_the_client_s_setting_counts_before_the_provider_s_page(
    buddy: Client, pagerduty: Client, pagerduty_classic: Client
) -> None:
    def assumed(client: Client) -> Life:
        return lifetimes.after_refresh(NoLifetime.UNKNOWN, None, client)

    assert assumed(replace(buddy, access_lifetime_ms=MINUTE_MS)) == Life(MINUTE_MS, None)
    assert assumed(replace(pagerduty, access_lifetime_ms=NoLifetime.NEVER)) == Life(ENDLESS_MS, None)
    assert assumed(buddy) == Life(ENDLESS_MS, None)
    assert assumed(pagerduty) == Life(DAY_MS, None)
    assert assumed(pagerduty_classic) == Life(10 * DAY_MS, None)


def test_after_silence_that_nobody_explains_an_hour_is_assumed_and_not_remembered(oauth2: Client) -> None:
    assert lifetimes.after_refresh(NoLifetime.UNKNOWN, None, oauth2) == Life(FALLBACK_LIFETIME_MS, None)
