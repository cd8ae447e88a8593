"""`python -m services.hours api | worker | all | migrate | parked`."""

from services.hours.main import SERVICE
from shared.process import main

main(SERVICE)
