"""The timetable of ness.OS and the runner that reads it. APScheduler decides when, nothing else."""
