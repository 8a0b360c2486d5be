"""A sample of the changed stores; all of it runs by hand (``python tests/robustness/stores.py``)."""

from __future__ import annotations

from robustness import stores


def test_changed_stores_are_named_or_read_right(capsys):
    assert stores.main(["--cases", "150", "--seed", "1"]) == 0, capsys.readouterr().out


def test_the_script_notices_a_checksum_that_does_not_depend_on_order(monkeypatch):
    from hooks import shards

    class Sum:
        """The sum of all bytes."""

        def __init__(self, data=b""):
            self.total = 0
            self.update(data)

        def update(self, data):
            self.total += sum(bytes(data))

        def hexdigest(self):
            return f"{self.total:x}"

    monkeypatch.setattr(shards.xxhash, "xxh3_64", Sum)
    monkeypatch.setattr(shards.xxhash, "xxh3_64_hexdigest", lambda data: Sum(data).hexdigest())
    assert stores.main(["--cases", "40"]) == 1
