"""Names that the service under fire and its audit share; importing them starts nothing."""

CAUSES = ("a", "b", "c")
LIVE = "case.live"
