"""The domain's values: events, ids, channels, tasks, the rules for publishers. Imports nothing of ours."""
