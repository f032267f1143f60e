"""What dxtbx takes for one scan."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from dxtbx.model import experiment_list


@contextmanager
def one_scan_a_template() -> Iterator[None]:
    """Keep images of different names apart while dxtbx makes experiments of files.

    dxtbx (3.12 and 3.30) appends an image to a scan if its number goes on, whatever its folder and name are, and then
    finds it by the template of the scan: ``B/x_0004.cbf`` after ``A/x_0003.cbf`` was read as ``A/x_0004.cbf``.
    """
    merge = experiment_list._merge_scans

    def by_template(records: Iterable[Any], *args: Any, **named: Any) -> list[Any]:
        merged = []
        for _, group in itertools.groupby(records, key=lambda record: record.template):
            merged += merge(list(group), *args, **named)
        return merged

    experiment_list._merge_scans = by_template
    try:
        yield
    finally:
        experiment_list._merge_scans = merge
