"""Once: the effect, its operation key, its entries and the messages it sends, in one transaction of the user's database."""
