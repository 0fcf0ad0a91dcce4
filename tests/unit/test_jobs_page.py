"""docs/jobs.md: its example is valid, and its tables have the words that the agent uses."""

from __future__ import annotations

import re
from pathlib import Path

from tank_agent.api.reports import JobReport, JobRunReport
from tank_agent.reconcile.core.jobs import LATE, SET_BACK
from tank_agent.runtime.run import KEPT_RUNS
from tank_agent.spec.parse import parse_pod_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/jobs.md").read_text()


def test_its_example_is_a_job() -> None:
    ((file, text),) = re.findall(r"```toml\n# (\S+\.toml)\n(.*?)```", PAGE, flags=re.DOTALL)
    parsed = parse_pod_file(text, file)
    assert parsed.problems == ()
    (found,) = parsed.pods
    assert found.pod.name == "backup"
    assert found.pod.schedule is not None


def test_every_event_of_jobs_has_its_row() -> None:
    rooms = ("reconcile/jobs.py", "journal/transitions.py")
    texts = [(ROOT / "tank_agent" / room).read_text() for room in rooms]
    known = {word for text in texts for word in re.findall(r'"((?:job|run)-[a-z]+)"', text)}
    # Two are put together of a word and a reason.
    known |= {"job-skipped", "job-missed"}
    _, _, table = PAGE.partition("| event |")
    rows = table.partition("\n\n")[0].splitlines()[2:]
    assert {row.split("`")[1] for row in rows} == known


def test_its_numbers_are_those_of_the_code() -> None:
    assert f"at most {LATE // 60:g} minutes ago" in PAGE
    assert f"less than {SET_BACK // 3600:g} hours" in PAGE
    assert f"The last {KEPT_RUNS} runs are kept" in PAGE


def test_its_json_has_the_fields_of_a_report() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    shown = set(re.findall(r'"(\w+)":', block))
    assert set(JobReport.__struct_fields__) <= shown
    assert set(JobRunReport.__struct_fields__) - {"generation"} <= shown
