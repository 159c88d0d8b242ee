"""Fixtures of a hub on this machine."""

from tests.helpers.hub_fixtures import cache as cache
from tests.helpers.hub_fixtures import hub as hub
from tests.helpers.hub_fixtures import online as online
