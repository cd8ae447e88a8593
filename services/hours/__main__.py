"""`python -m services.hours`: `api`, `worker`, `all`, `migrate`, and what operators need (`--help`)."""

from services.hours.main import SERVICE
from shared.process import main

main(SERVICE)
