"""A process says in one line each what it lacks."""

import pytest

from shared.settings import SettingsError, read_settings

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
