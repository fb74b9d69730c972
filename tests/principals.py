"""Principals that nothing limits, for tests of something else."""

from filemill.domain.permissions import local_admin

TEST = local_admin("test")
PAGE = local_admin("page")
