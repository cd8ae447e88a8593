"""`python -m services.registration`: `api`, `worker`, `all`, `migrate`, and what operators need (`--help`)."""

from services.registration.main import SERVICE
from shared.process import main

main(SERVICE)
