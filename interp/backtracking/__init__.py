"""Backtracking: does a model know that a written token is wrong, and is a revision foreseen?"""
