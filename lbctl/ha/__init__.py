"""Two gateways as one: what they tell each other, so that either can go on where the other
ended; and what keeps a dead one silent."""
