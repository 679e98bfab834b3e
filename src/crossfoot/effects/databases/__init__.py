"""The user's transaction, one module per driver, behind one small port (`session`)."""
