"""What things are: events, ids, channels, tasks, and what a publisher may say. Imports nothing of ours."""
