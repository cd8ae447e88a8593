"""What goes wrong with records and rows: there too often, missing, of somebody else, unreadable, or with one bit changed."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import asynccontextmanager
from datetime import date
from functools import partial
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from pydantic_core import to_json

from deploy.local.environment import SERVICES
from shared import kafka
from shared.envelope import Stream
from shared.errors import EventTooLargeError
from shared.eventstore.store import open_store
from shared.eventstore.values import Answer, AppendRequest, NewEvent
from shared.metrics import Metrics
from shared.postgres import open_pool
from tests.faults.launcher import flipped
from tests.faults.nemesis.fault import BOTH, Fault, Scene
from tests.faults.nemesis.operators import operate
from tests.faults.nemesis.processes import REACHED_WITHIN_S, Victim, applied, counted, shown, worker_with
from tests.faults.system import until

FOUND_WITHIN_S = 5.0
"""How soon a hole in a topic is noticed (reliability.md 2.5, F30)."""
MENDED_WITHIN_S = 30.0
SEGMENT = 300
