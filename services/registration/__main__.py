"""`python -m services.registration api | worker | all | migrate | parked`."""

from services.registration.main import SERVICE
from shared.process import main

main(SERVICE)
