"""How messages travel: the port (`queue`), and one module per broker."""
