"""The actors: what runs between the log and the streams."""
