"""What two gateways tell each other, so that either can go on where the other ended."""
