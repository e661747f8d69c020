"""Seqio registrations, one file a family. Importing a module registers its tasks."""
