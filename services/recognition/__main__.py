"""`python -m services.recognition api | worker | all | migrate | parked`."""

from services.recognition.main import SERVICE
from shared.process import main

main(SERVICE)
