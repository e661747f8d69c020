"""Evaluation writes one record an example; tables, reports and pages read records, never models."""
