"""Servers, schedules, limits and failures: what keeps runs going for days."""
