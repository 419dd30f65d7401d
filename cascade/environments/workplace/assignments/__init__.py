"""Assignments in the generated office: what is asked, and the calls that do it."""
