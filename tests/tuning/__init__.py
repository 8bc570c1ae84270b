"""Tests of tuning records."""
