"""The oracle of other methods as a fixture."""

from collections.abc import Callable

import pytest

from tests.losses.cases import SOURCES, Case, read_methods, source_path


@pytest.fixture(params=SOURCES)
def one_process_cases(request: pytest.FixtureRequest) -> Callable[[str], list[Case]]:
    """``cases(method)``: the cases of one process, at least one; each test runs with the extract and with the whole file."""
    methods = read_methods(source_path(request, request.param))

    def cases(method: str) -> list[Case]:
        found = [case for name, case in methods[method].items() if not name.startswith(("world2_", "schedule_"))]
        assert found, method
        return found

    return cases
