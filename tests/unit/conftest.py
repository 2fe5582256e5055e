"""Settings of the property tests: the same examples each time, no files, no limit on a slow machine's time per example."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit", max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")
