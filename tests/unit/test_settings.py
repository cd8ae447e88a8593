"""A process says in one line each what it lacks, and never shows a secret."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.settings import SECRET_FILES, Secured, Settings, SettingsError, read_settings

WHOLE = {
    "POSTGRES_DSN": "postgresql://hours:hush-hush@localhost/hours",
    "KAFKA_SERVERS": "localhost:9092",
    "HTTP_HOST": "127.0.0.1",
    "HTTP_PORT": "8102",
    "WORKER_PORT": "8112",
    "KEY_FILE": "/keys/hours.key",
    "TOKEN_KEYS_FILE": "/keys/issuer.json",
    "TOKEN_ISSUER": "issuer",
}


def test_settings_are_read_under_the_services_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(f"HOURS_{name}", value)
    monkeypatch.setenv("HOURS_SIBLINGS", '{"registration": "http://127.0.0.1:8101"}')
    settings = read_settings("hours")
    assert settings.http_port == 8102
    assert settings.clock == "system"
    assert settings.siblings == {"registration": "http://127.0.0.1:8101"}
    assert "hush" not in repr(settings)
    assert settings.postgres_dsn.get_secret_value() == WHOLE["POSTGRES_DSN"]


def test_each_missing_or_wrong_setting_has_one_line_and_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(f"HOURS_{name}", value)
    monkeypatch.delenv("HOURS_POSTGRES_DSN")
    monkeypatch.setenv("HOURS_HTTP_PORT", "hunter2")
    with pytest.raises(SettingsError) as caught:
        read_settings("hours")
    missing, wrong = str(caught.value).splitlines()
    assert missing.startswith("HOURS_POSTGRES_DSN is missing: ")
    assert wrong.startswith("HOURS_HTTP_PORT is wrong ")
    assert "hunter2" not in str(caught.value)


SECURED = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_USER": "hours",
    "KAFKA_PASSWORD_FILE": "/keys/kafka.password",
    "KAFKA_CA_FILE": "/keys/ca.pem",
}


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Everything that a service needs is said."""
    for name, value in WHOLE.items():
        monkeypatch.setenv(f"HOURS_{name}", value)
    return monkeypatch


def say(monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    for name, value in more.items():
        monkeypatch.setenv(f"HOURS_{name}", value)


def test_a_kafka_that_asks_nobody_is_its_addresses_alone(whole: pytest.MonkeyPatch) -> None:
    assert read_settings("hours").kafka == "localhost:9092"


def test_a_kafka_that_asks_who_one_is_is_named_with_the_files_of_how_to_get_in(whole: pytest.MonkeyPatch) -> None:
    say(whole, **SECURED)
    assert read_settings("hours").kafka == Secured(
        servers="localhost:9092", protocol="SASL_SSL", user="hours", password_file=Path("/keys/kafka.password"),
        ca_file=Path("/keys/ca.pem"), certificate_file=None, certificate_key_file=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, ["KAFKA_USER is missing with SASL_SSL", "KAFKA_PASSWORD_FILE is missing with SASL_SSL"]),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_CERTIFICATE_FILE": "/c"}, ["KAFKA_CERTIFICATE_KEY_FILE is missing", "go together"]),
        ({"KAFKA_USER": "hours"}, ["KAFKA_USER has no effect with PLAINTEXT"]),
        (SECURED | {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, ["KAFKA_USER", "KAFKA_PASSWORD_FILE", "KAFKA_CA_FILE has no effect"]),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}, ["KAFKA_SECURITY_PROTOCOL is wrong"]),
        (SECURED | {"KAFKA_CERTIFICATE_FILE": "/c"}, ["KAFKA_CERTIFICATE_FILE and ..._KEY_FILE go together"]),
    ],
)
def test_settings_of_kafka_that_do_not_go_together_are_named(whole: pytest.MonkeyPatch, said: Mapping[str, str], told: list[str]) -> None:
    say(whole, **said)
    with pytest.raises(SettingsError) as caught:
        read_settings("hours")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(told)
    assert all(words in line for words, line in zip(told, lines, strict=True))


@pytest.mark.parametrize("field", SECRET_FILES)
def test_a_secret_that_everybody_on_the_machine_may_read_or_write_keeps_a_process_from_starting(
    whole: pytest.MonkeyPatch, tmp_path: Path, field: str
) -> None:
    file = tmp_path / "secret"
    file.write_text("hush-hush")
    pair = {"KAFKA_CERTIFICATE_FILE": "/c"} if "certificate" in field else {}
    say(whole, **SECURED, **pair)
    say(whole, **{field.upper(): str(file)})
    for mode in (0o644, 0o602):
        file.chmod(mode)
        with pytest.raises(
            SettingsError, match=f"^HOURS_{field.upper()} is wrong: secret is open to everybody on this machine: chmod 600$"
        ):
            read_settings("hours")
    for mode in (0o600, 0o640):  # A group is how a secret store gives a file to a container.
        file.chmod(mode)
        read_settings("hours")


def test_every_setting_that_names_a_file_is_known_as_a_secret_or_as_none() -> None:
    public = {"erasures_file", "reads_file", "token_keys_file", "kafka_ca_file", "kafka_certificate_file"}
    assert {name for name in Settings.model_fields if name.endswith("_file")} == public | set(SECRET_FILES)


def test_the_databases_address_names_the_file_with_its_password_beside_what_it_says_else(whole: pytest.MonkeyPatch) -> None:
    assert read_settings("hours").dsn == WHOLE["POSTGRES_DSN"]
    say(whole, POSTGRES_DSN="postgresql://hours@db/hours?sslmode=verify-full", POSTGRES_PASSWORD_FILE="/keys/a&b")
    assert read_settings("hours").dsn == "postgresql://hours@db/hours?sslmode=verify-full&password_file=%2Fkeys%2Fa%26b"
