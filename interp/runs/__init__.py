"""Runs: what a settings file asks for, done unit by unit in a folder, so that nothing finished is lost."""
