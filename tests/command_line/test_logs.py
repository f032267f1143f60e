"""What goes to the terminal and to the log file."""

from __future__ import annotations

import logging

from diffuse_framework.command_line.shared.logs import start_logs


def test_a_warning_that_is_repeated_is_said_once(tmp_path, capsys):
    log = tmp_path / "run.log"
    start_logs(0, log)
    logger = logging.getLogger("diffuse_framework.some.part")
    for _ in range(3):
        logger.warning("The sensor of %s is unknown", "panel 1")
        logger.info("another image")
    logger.warning("The sensor of %s is unknown", "panel 2")
    for text in (log.read_text(), capsys.readouterr().out):
        assert text.count("panel 1") == 1
        assert text.count("panel 2") == 1
        assert text.count("another image") == 3
    # The next run of the same process says it again.
    start_logs(0, log)
    logger.warning("The sensor of %s is unknown", "panel 1")
    assert log.read_text().count("panel 1") == 1
