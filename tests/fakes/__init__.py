"""Builders and stand-ins that several test files need."""
