"""Servers, schedules, limits and failures of long runs."""
