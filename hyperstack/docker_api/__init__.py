"""The Docker Engine API onto the engine. Knows no backend."""
