"""Tests of how far an account of a run can be believed."""
