"""`python -m services.recognition`: `api`, `worker`, `all`, `migrate`, and what operators need (`--help`)."""

from services.recognition.main import SERVICE
from shared.process import main

main(SERVICE)
