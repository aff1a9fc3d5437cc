from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks
from serving import make_server, running

from deltamem.serve.app import create_app

_CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
schema = schemathesis.openapi.from_dict(create_app(make_server()).openapi())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(make_server(max_tokens=4)) as address:
        yield address


@schema.parametrize()
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_api_is_as_it_says(case: schemathesis.Case, url: str) -> None:
    case.call_and_validate(base_url=url, checks=_CHECKS, timeout=120)
