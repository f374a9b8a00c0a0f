"""Functions in torch's threads, and in Python's where torch lends none."""

import threading

import pytest

from batchednodes.numerics import threads


@pytest.fixture(params=["torch", "python"])
def lender(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(threads, "team", lambda: None)


@pytest.mark.usefixtures("lender")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_part_is_done_once(count):
    done = []
    threads.run(done.append, count)
    assert sorted(done) == list(range(count))


@pytest.mark.usefixtures("lender")
def test_parts_run_at_once():
    together = threading.Barrier(3, timeout=60)  # breaks, and raises, unless three threads come
    threads.run(lambda _: together.wait() and None, 3)


@pytest.mark.usefixtures("lender")
@pytest.mark.parametrize("wrong", [0, 2])
def test_an_error_of_any_part_is_raised(wrong):
    def fail(k):
        if k == wrong:
            raise KeyError(k)

    with pytest.raises(KeyError, match=str(wrong)):
        threads.run(fail, 3)
