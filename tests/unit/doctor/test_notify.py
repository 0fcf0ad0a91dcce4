"""`tank doctor` looks at the files of [notify], and at what the agent says of its receivers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.doctor import notify
from tank_agent.settings.notify import NotifySettings


def test_files_that_are_open_or_absent_are_told(tmp_path: Path) -> None:
    file = tmp_path / "urls"
    file.write_text("ntfy://h/t\n")
    file.chmod(0o644)
    settings = NotifySettings(
        urls_file=str(file), webhook="https://h/x", webhook_token_file=str(tmp_path / "no")
    )
    found = [check.found for check in notify.of_files(settings, None) if "apprise" not in check.found]
    assert found == [
        f"urls_file: {file} is open to others: chmod 600 {file}",
        f"webhook_token_file: {tmp_path / 'no'} can't be read: No such file or directory",
    ]


def test_a_missing_apprise_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "ENVIRONMENT", {"PATH": "/nonexistent"})
    [check] = notify.of_files(NotifySettings(urls_file=str(tmp_path / "no")), None)[1:]
    assert check.found.startswith("apprise is not installed") and check.fix == "apt install apprise"


@pytest.mark.parametrize(("webhook", "mode", "told"), [
    ("https://h/secret", 0o644, True), ("https://h/secret", 0o600, False), ("https://h/", 0o644, False),
])  # fmt: skip
def test_an_open_agent_file_with_a_secret_in_it_is_told(
    tmp_path: Path, webhook: str, mode: int, told: bool
) -> None:
    file = tmp_path / "agent.toml"
    file.touch()
    file.chmod(mode)
    found = notify.of_files(NotifySettings(webhook=webhook), file)
    assert bool(found) is told and all("secret" not in check.found.replace("a secret", "") for check in found)


def test_what_the_agent_says_is_told() -> None:
    [check] = notify.of_agent([("webhook", 0, ""), ("ntfy (line 1)", 0, "")], [])
    assert (check.result, check.found) == ("ok", "go to webhook, ntfy (line 1)")
    found = notify.of_agent([("webhook", 3, "HTTP 500")], ["f: has no URL in it"])
    assert [check.found for check in found] == [
        "f: has no URL in it",
        "webhook can't be told, 3 wait: HTTP 500",
    ]
