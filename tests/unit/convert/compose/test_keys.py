"""Every key of compose's specification is in the tables, and docs/import.md has their rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tank_agent.convert.compose.keys import SERVICE, TABLES
from tank_agent.convert.compose.service import ComposeKey, Table

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "import.md").read_text()
# The directory is no package: its name is that of a library.
_found = importlib.util.spec_from_file_location("import_pages", ROOT / "packaging" / "import_pages.py")
assert _found is not None and _found.loader is not None
import_pages = importlib.util.module_from_spec(_found)
_found.loader.exec_module(import_pages)

# Keys of a service in schema/compose-spec.json of github.com/compose-spec/compose-spec, November 2026.
SPECIFIED = """
    annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs
    container_name cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares
    cpus cpuset credential_spec depends_on deploy develop device_cgroup_rules devices dns dns_opt
    dns_search domainname entrypoint env_file environment expose extends external_links extra_hosts gpus
    group_add healthcheck hostname image init ipc isolation label_file labels links logging mac_address
    mem_limit mem_reservation mem_swappiness memswap_limit models network_mode networks oom_kill_disable
    oom_score_adj pid pids_limit platform ports post_start pre_stop privileged profiles provider
    pull_policy pull_refresh_after read_only restart runtime scale secrets security_opt shm_size
    stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits use_api_socket user
    userns_mode uts volumes volumes_from working_dir
"""


def all_keys(table: Table) -> list[ComposeKey]:
    return [one for key in table.values() for one in (key, *all_keys(key.below))]


def test_no_key_of_the_specification_is_unknown() -> None:
    assert set(SPECIFIED.split()) - set(SERVICE) == set()


@pytest.mark.parametrize("name", sorted(TABLES))
def test_each_key_says_what_becomes_of_it(name: str) -> None:
    for key in all_keys(TABLES[name]):
        assert key.becomes or key.below


def test_the_page_has_the_rows_of_the_tables() -> None:
    assert import_pages.page(PAGE) == PAGE, ".venv/bin/python packaging/import_pages.py writes them"
    for name, table in TABLES.items():
        assert f"<!-- compose keys: {name} -->" in PAGE
        assert "\n".join(import_pages.rows(table)) in PAGE
