"""The settings of deploy/kafka, which every broker of the tests that asks who one is runs with as they stand."""

from pathlib import Path

from deploy.local.kafka import HOST
from deploy.local.places import CHECKOUT
from shared.privacy.keyfile import write_secret
from tests.integration.secured.authority import Authority

_PROPERTIES = CHECKOUT / "deploy" / "kafka" / "secured.properties"


def shipped_properties(authority: Authority, folder: Path) -> str:
    """What secured.properties says, for a broker on this machine whose certificate `authority` signs; its files lie in `folder`."""
    certificate, key = authority.issue("broker", HOST)
    both = folder / "broker.pem"
    write_secret(both, key.read_text() + certificate.read_text())
    properties = _PROPERTIES.read_text(encoding="utf-8")
    for name, path in (("broker.pem", both), ("ca.pem", authority.ca_file)):
        assert f"/etc/kafka/secrets/{name}" in properties
        properties = properties.replace(f"/etc/kafka/secrets/{name}", str(path))
    return properties
