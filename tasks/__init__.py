"""seqio registrations, one module a family. Importing a module registers its tasks; none of them knows the model."""
