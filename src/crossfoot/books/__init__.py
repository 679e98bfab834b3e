"""What happened: entries (facts), fates folded from them, and the balance of both (pure); the store that keeps them."""
