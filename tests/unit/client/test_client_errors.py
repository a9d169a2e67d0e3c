"""What the client raises."""

from __future__ import annotations

import pytest

from imagekin import errors
from imagekin.client import Client, UnreadableAnswer, problems
from kit.fake_server import Answer, FakeServer, problem


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "collection_not_found", errors.CollectionNotFound),
        (404, "not_found", errors.NotFound),
        (409, "source_expired", errors.SourceExpired),
        (413, "too_large", errors.TooLarge),
        (401, "unauthorized", errors.Unauthorized),
        (500, "internal_error", errors.ImagekinError),
    ],
)
def test_errors_are_the_services_own(
    server: FakeServer, client: Client, status: int, code: str, kind: type[errors.ImagekinError]
) -> None:
    server.faults += [problem(status, code, "Because.")]
    with pytest.raises(kind, match="Because") as caught:
        client.collection("c")
    assert type(caught.value) is kind
    assert caught.value.code == code


def test_an_unknown_code_keeps_its_status(server: FakeServer, client: Client) -> None:
    server.faults += [problem(418, "teapot", "Short and stout.")]
    with pytest.raises(errors.ImagekinError, match="Short and stout") as caught:
        client.collection("c")
    assert (caught.value.code, caught.value.http_status, caught.value.retryable) == ("teapot", 418, False)


def test_an_error_without_a_problem_says_its_status(server: FakeServer, client: Client) -> None:
    server.faults += [Answer(403, b"<html>no</html>", {"Content-Type": "text/html"})]
    with pytest.raises(errors.ImagekinError, match="403 Forbidden") as caught:
        client.collection("c")
    assert caught.value.http_status == 403


def test_an_answer_of_another_server_is_told(server: FakeServer, client: Client) -> None:
    server.faults += [Answer(200, b"<html>hello</html>")]
    with pytest.raises(UnreadableAnswer, match="/v1/collections/c"):
        client.collection("c")


def test_codes_of_request_errors_are_unique() -> None:
    family = list(problems._family(errors.ImagekinError, without=(errors.JobError, errors.ItemError)))
    # LeaseLost and NotReady are the service's own business, but they have codes of their own, too.
    assert len({kind.code for kind in family}) == len(family)


def test_bad_arguments_never_leave_the_machine(server: FakeServer, client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match="n_clusters") as caught:
        client.cluster("c", 0)
    assert caught.value.errors[0]["pointer"] == "/n_clusters"
    with pytest.raises(errors.InvalidRequest, match="one query"):
        client.search(collection="c")
    with pytest.raises(errors.InvalidRequest, match="one query"):
        client.search(b"x", image_id="i", collection="c")
    assert server.requests == []
