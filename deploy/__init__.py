"""What surrounds the services: the local stack, the sample programme, containers, monitoring."""
