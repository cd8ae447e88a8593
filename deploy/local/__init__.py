"""A real Kafka and a real PostgreSQL without Docker, and the services on top of them; also what the tests run against."""
