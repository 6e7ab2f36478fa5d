"""Automations of a Prefect server, one YAML file each, for `prefect automation create --from-file`."""
