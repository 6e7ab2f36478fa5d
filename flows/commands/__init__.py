"""Commands of `lightgen`."""
