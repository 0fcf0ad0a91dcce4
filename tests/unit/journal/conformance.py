"""What every Journal must do, whatever store is below: subclass it with an `open_journal` fixture."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tank_agent.errors import OwnedElsewhere, PodNotFound, Problem, Retry, Stalled
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import ContainerStatus, Exit, NewEvent, PodStatus
from tank_agent.source.snapshot import Declared
from tank_agent.spec.model import content_hash
from tests.unit.journal.builders import DIRECTORY, FakeClock, Owners, declared, pod, snapshot


class JournalConformance:
    """The tests; `open_journal()` opens the same journal again after `close`."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def owners(self) -> Owners:
        return Owners()

    @pytest.fixture
    def journal(self, open_journal: Callable[[], Journal]) -> Journal:
        return open_journal()

    # The mirror.

    def test_a_file_becomes_a_desired_pod(self, journal: Journal, clock: FakeClock) -> None:
        web = pod()
        assert journal.merge(snapshot(declared(web))).changed == ("web",)
        found = journal.get("web")
        assert found is not None
        assert (found.pod, found.owner, found.generation) == (web, f"dir:{DIRECTORY}/web.toml", 1)
        assert (found.hash, found.changed_at, found.error) == (content_hash(web), clock.now, None)
        assert dict(journal.desired()) == {"web": found}

    def test_the_same_content_changes_nothing(self, journal: Journal, clock: FakeClock) -> None:
        journal.merge(snapshot(declared(pod())))
        before = journal.get("web")
        clock.now += 60
        applied = journal.merge(snapshot(declared(pod())))
        assert (applied.changed, applied.removed, applied.updated) == ((), (), ())
        assert journal.get("web") is before

    def test_a_new_comment_moves_the_revision_and_not_the_generation(self, journal: Journal) -> None:
        web = declared(pod())
        journal.merge(snapshot(web))
        newer = Declared(pod=pod(), owner=web.owner, revision="other", file=web.file)
        applied = journal.merge(snapshot(newer))
        assert (applied.changed, applied.updated) == ((), ("web",))
        found = journal.get("web")
        assert found is not None
        assert (found.revision, found.generation) == ("other", 1)

    def test_an_edit_is_a_new_generation(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod())))
        assert journal.merge(snapshot(declared(pod(command="sleep 2")))).changed == ("web",)
        found = journal.get("web")
        assert found is not None and found.generation == 2
        assert [revision.generation for revision in journal.history("web")] == [1, 2]
        assert journal.history("web")[0].pod == pod()

    def test_a_removed_file_removes_its_pod(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod()), declared(pod("db"), "db.toml")))
        assert journal.merge(snapshot(declared(pod("db"), "db.toml"))).removed == ("web",)
        assert list(journal.desired()) == ["db"]
        assert len(journal.history("web")) == 1

    def test_a_renamed_file_moves_the_owner_and_restarts_nothing(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod(), "a.toml")))
        applied = journal.merge(snapshot(declared(pod(), "b.toml")))
        assert (applied.changed, applied.removed, applied.updated) == ((), (), ("web",))
        found = journal.get("web")
        assert found is not None
        assert (found.owner, found.file) == (f"dir:{DIRECTORY}/b.toml", f"{DIRECTORY}/b.toml")

    # Absent or unreadable is never empty.

    def test_an_unavailable_source_removes_nothing_and_says_so(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod())))
        gone = Problem(DIRECTORY, 0, "", "is not there")
        applied = journal.merge(snapshot(problems=(gone,), available=False))
        assert (applied.changed, applied.removed, applied.updated) == ((), (), ("web",))
        assert journal.problems() == (gone,)
        found = journal.get("web")
        assert found is not None and found.error == str(gone)
        journal.merge(snapshot(declared(pod())))
        assert journal.problems() == ()
        found = journal.get("web")
        assert found is not None and found.error is None

    def test_an_outage_does_not_hide_what_is_wrong_with_a_pod(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod())))
        bad = Problem(f"{DIRECTORY}/web.toml", 3, "restart", "is wrong", "web")
        journal.merge(snapshot(problems=(bad,), unreadable=(f"dir:{DIRECTORY}/web.toml",)))
        outage = Problem(DIRECTORY, 0, "", "is not there")
        journal.merge(snapshot(problems=(outage,), available=False))
        assert journal.problems() == (outage, bad)
        found = journal.get("web")
        assert found is not None and found.error == f"{bad}\n{outage}"

    def test_a_bad_edit_keeps_the_last_good_spec_and_shows_the_line(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod())))
        bad = Problem(f"{DIRECTORY}/web.toml", 3, "restart", 'is "alway"; did you mean "always"?', "web")
        applied = journal.merge(snapshot(problems=(bad,)))
        assert (applied.removed, applied.updated) == ((), ("web",))
        found = journal.get("web")
        assert found is not None
        assert (found.pod, found.generation) == (pod(), 1)
        assert found.error == f'{DIRECTORY}/web.toml:3: restart: is "alway"; did you mean "always"?'
        applied = journal.merge(snapshot(declared(pod())))
        assert (applied.changed, applied.updated) == ((), ("web",))
        found = journal.get("web")
        assert found is not None and found.error is None

    def test_a_file_that_makes_no_sense_keeps_all_its_pods(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod("a"), "x.toml"), declared(pod("b"), "x.toml", line=9)))
        bad = Problem(f"{DIRECTORY}/x.toml", 7, "", "is not TOML")
        applied = journal.merge(snapshot(problems=(bad,), unreadable=(f"dir:{DIRECTORY}/x.toml",)))
        assert (applied.changed, applied.removed) == ((), ())
        assert [found.error for found in journal.desired().values()] == [str(bad), str(bad)]

    def test_a_new_bad_file_is_listed_although_it_has_no_pod(self, journal: Journal) -> None:
        bad = Problem(f"{DIRECTORY}/new.toml", 2, "x", "is unknown", "new")
        journal.merge(snapshot(problems=(bad,)))
        assert (journal.problems(), journal.get("new")) == ((bad,), None)

    def test_problems_are_in_file_order_over_all_sources(self, journal: Journal) -> None:
        later = Problem("/b.toml", 1, "", "x")
        first = Problem("/a.toml", 9, "", "x")
        journal.merge(snapshot(problems=(later,)))
        journal.merge(snapshot(problems=(first,), source="git"))
        assert journal.problems() == (first, later)

    # One name, several owners.

    def test_the_first_of_two_new_files_wins(self, journal: Journal) -> None:
        a, b = declared(pod(), "a.toml"), declared(pod(command="other"), "b.toml", line=4)
        journal.merge(snapshot(b, a))
        found = journal.get("web")
        assert found is not None and found.owner == a.owner
        (problem,) = journal.problems()
        assert (problem.file, problem.line, problem.pod) == (b.file, 4, "web")
        assert a.file in problem.message
        assert found.error == str(problem)

    def test_the_owner_that_runs_keeps_its_name(self, journal: Journal) -> None:
        a, b = declared(pod(command="other"), "a.toml"), declared(pod(), "b.toml")
        journal.merge(snapshot(b))
        applied = journal.merge(snapshot(a, b))
        assert (applied.changed, applied.removed) == ((), ())
        found = journal.get("web")
        assert found is not None and found.owner == b.owner
        assert [problem.file for problem in journal.problems()] == [a.file]

    def test_the_other_file_takes_over_in_the_same_merge(self, journal: Journal) -> None:
        a, b = declared(pod(), "a.toml"), declared(pod(command="other"), "b.toml")
        journal.merge(snapshot(a, b))
        applied = journal.merge(snapshot(b))
        assert (applied.changed, applied.removed) == (("web",), ())
        found = journal.get("web")
        assert found is not None
        assert (found.owner, found.generation, found.error) == (b.owner, 2, None)
        assert journal.problems() == ()

    def test_an_unreadable_owner_keeps_its_name(self, journal: Journal) -> None:
        a, b = declared(pod(), "a.toml"), declared(pod(command="other"), "b.toml")
        journal.merge(snapshot(a))
        writing = Problem(a.file, 0, "", "is being written")
        applied = journal.merge(snapshot(b, problems=(writing,), unreadable=(a.owner,)))
        assert (applied.changed, applied.removed) == ((), ())
        found = journal.get("web")
        assert found is not None and found.owner == a.owner
        assert {problem.file for problem in journal.problems()} == {a.file, b.file}

    def test_another_source_does_not_get_a_name_in_use(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod())))
        of_git = declared(pod(command="other"), "hosts/web.toml", "git")
        applied = journal.merge(snapshot(of_git, source="git"))
        assert (applied.changed, applied.updated) == ((), ("web",))
        found = journal.get("web")
        assert found is not None and found.owner == f"dir:{DIRECTORY}/web.toml"
        assert found.error is not None and "hosts/web.toml:1" in found.error

    def test_another_source_takes_over_in_the_same_merge(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod())))
        of_git = declared(pod(command="other"), "hosts/web.toml", "git")
        journal.merge(snapshot(of_git, source="git"))
        applied = journal.merge(snapshot())
        assert (applied.changed, applied.removed) == (("web",), ())
        found = journal.get("web")
        assert found is not None
        assert (found.owner, found.error, journal.problems()) == (of_git.owner, None, ())

    # tank apply and tank delete.

    def test_apply_creates_and_replaces(self, journal: Journal) -> None:
        first = journal.put(pod(), "r1")
        assert (first.owner, first.generation, first.revision, first.file) == ("api", 1, "r1", "")
        assert journal.put(pod(), "r1") is first
        assert journal.put(pod(command="other"), "r2").generation == 2
        assert journal.merge(snapshot()).removed == ()

    def test_apply_of_several_is_all_or_nothing(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod())))
        with pytest.raises(OwnedElsewhere):
            journal.put_all((pod("new"), pod()), "r")
        assert list(journal.desired()) == ["web"]
        assert [one.name for one in journal.put_all((pod("b"), pod("a")), "r")] == ["b", "a"]

    def test_apply_over_a_file_names_the_file(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod())))
        with pytest.raises(OwnedElsewhere, match=f"edit {DIRECTORY}/web.toml"):
            journal.put(pod(command="other"), "r")

    def test_delete_of_an_applied_pod(self, journal: Journal) -> None:
        journal.put(pod(), "r")
        assert journal.delete("web") is True
        assert journal.delete("web") is False
        assert journal.get("web") is None

    def test_delete_is_refused_while_the_file_is_there(self, journal: Journal, owners: Owners) -> None:
        web = declared(pod())
        journal.merge(snapshot(web))
        with pytest.raises(OwnedElsewhere, match=f"{DIRECTORY}/web.toml"):
            journal.delete("web")
        owners.gone.add(web.owner)
        journal.merge(snapshot(available=False))
        assert journal.delete("web") is True
        assert journal.get("web") is None

    def test_delete_is_refused_for_git(self, journal: Journal, owners: Owners) -> None:
        of_git = declared(pod(), "hosts/web.toml", "git")
        journal.merge(snapshot(of_git, source="git"))
        with pytest.raises(OwnedElsewhere, match=r"hosts/web\.toml"):
            journal.delete("web")
        # No repository is followed any more: nobody could remove it there.
        owners.gone.add(of_git.owner)
        journal.merge(snapshot(declared(pod())))
        assert journal.delete("web") is True
        found = journal.get("web")
        assert found is not None and found.owner == f"dir:{DIRECTORY}/web.toml"

    def test_a_file_gets_the_name_that_delete_frees(self, journal: Journal) -> None:
        journal.put(pod(), "r")
        journal.merge(snapshot(declared(pod(command="other"))))
        (problem,) = journal.problems()
        assert "tank delete web" in problem.message
        assert journal.delete("web") is True
        found = journal.get("web")
        assert found is not None and found.owner == f"dir:{DIRECTORY}/web.toml"

    def test_a_name_that_comes_back_counts_on(
        self, journal: Journal, open_journal: Callable[[], Journal]
    ) -> None:
        journal.put(pod(), "r")
        journal.put(pod(command="other"), "r")
        journal.delete("web")
        journal.close()
        again = open_journal()
        assert again.put(pod(), "r").generation == 3

    # Seeds.

    def test_a_seed_is_written_once(self, journal: Journal, open_journal: Callable[[], Journal]) -> None:
        seed = declared(pod(), "/etc/tank/seed.d/web.toml", "seed")
        assert journal.merge(snapshot(seed, source="seed")).changed == ("web",)
        changed = declared(pod(command="other"), "/etc/tank/seed.d/web.toml", "seed")
        assert journal.merge(snapshot(changed, source="seed")).changed == ()
        assert journal.merge(snapshot(source="seed")).removed == ()
        assert journal.problems() == ()
        assert journal.delete("web") is True
        journal.close()
        again = open_journal()
        assert again.merge(snapshot(seed, source="seed")).changed == ()
        assert again.get("web") is None

    def test_a_seed_never_overwrites_what_was_applied(self, journal: Journal) -> None:
        seed = declared(pod(), "/etc/tank/seed.d/web.toml", "seed")
        journal.merge(snapshot(seed, source="seed"))
        applied = journal.put(pod(command="other"), "r")
        assert (applied.owner, applied.generation) == ("api", 2)
        assert journal.merge(snapshot(seed, source="seed")).changed == ()
        found = journal.get("web")
        assert found is not None and found.pod == pod(command="other")

    def test_a_deleted_pod_is_not_seeded_later(self, journal: Journal) -> None:
        journal.put(pod(), "r")
        journal.delete("web")
        seed = declared(pod(), "/etc/tank/seed.d/web.toml", "seed")
        assert journal.merge(snapshot(seed, source="seed")).changed == ()

    def test_a_seed_whose_name_is_taken_says_nothing(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod())))
        seed = declared(pod(command="other"), "/etc/tank/seed.d/web.toml", "seed")
        wrong = Problem("/etc/tank/agent.toml", 3, "pods[0].x", "unknown key", "web")
        assert journal.merge(snapshot(seed, source="seed")).changed == ()
        assert journal.merge(snapshot(source="seed", problems=(wrong,))).changed == ()
        found = journal.get("web")
        assert (found is not None and found.error, journal.problems()) == (None, ())
        # It is free again: the seed counts, and so does what is wrong in it.
        journal.merge(snapshot())
        assert journal.merge(snapshot(source="seed", problems=(wrong,))).changed == ()
        assert journal.problems() == (wrong,)
        assert journal.merge(snapshot(seed, source="seed")).changed == ("web",)

    def test_a_file_does_not_get_the_name_of_a_seed(self, journal: Journal) -> None:
        seed = declared(pod(), "/etc/tank/seed.d/web.toml", "seed")
        journal.merge(snapshot(seed, source="seed"))
        journal.merge(snapshot(declared(pod(command="other"))))
        found = journal.get("web")
        assert found is not None and found.owner == "seed"
        assert [problem.file for problem in journal.problems()] == [f"{DIRECTORY}/web.toml"]

    # Pods that do not follow their file for a while.

    def test_a_pinned_pod_waits_until_its_file_changes(
        self, journal: Journal, open_journal: Callable[[], Journal]
    ) -> None:
        journal.merge(snapshot(declared(pod(command="one"))))
        journal.merge(snapshot(declared(pod(command="two"))))
        assert journal.roll_back("web", journal.history("web")[0]).changed == ("web",)
        found = journal.get("web")
        assert found is not None and found.hold is not None
        assert (found.pod, found.generation, found.hold.kind, found.hold.generation) == (
            pod(command="one"),
            3,
            "pinned",
            1,
        )
        assert journal.history("web")[-1].restored == 1
        journal.close()
        again = open_journal()
        assert again.get("web") == found
        # A new comment, or a new commit, says nothing new.
        web = declared(pod(command="two"), "other.toml")
        assert again.merge(snapshot(web)).changed == ()
        moved = again.get("web")
        assert moved is not None and (moved.owner, moved.hold) == (web.owner, found.hold)
        preview = again.preview(snapshot(declared(pod(command="three"))))
        assert preview.applied.changed == ("web",)
        assert again.merge(snapshot(declared(pod(command="three")))).changed == ("web",)
        free = again.get("web")
        assert free is not None and (free.pod, free.hold) == (pod(command="three"), None)
        assert [event.type for event in again.events()] == ["rolled-back", "resumed"]

    def test_resume_brings_a_pinned_pod_to_its_file(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod(command="one")), declared(pod("db"), "db.toml")))
        journal.merge(snapshot(declared(pod(command="two")), declared(pod("db"), "db.toml")))
        journal.roll_back("web", journal.history("web")[0])
        assert journal.resume("web").changed == ("web",)
        found = journal.get("web")
        assert found is not None and (found.pod, found.hold, found.generation) == (
            pod(command="two"),
            None,
            4,
        )
        assert journal.resume("web").changed == ()
        with pytest.raises(Stalled, match="already"):
            journal.roll_back("web", journal.history("web")[-1])

    def test_a_suspended_pod_stays_whatever_its_file_says(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod())))
        assert journal.suspend("web").updated == ("web",)
        assert journal.suspend("web").updated == ()
        before = journal.get("web")
        assert journal.merge(snapshot(declared(pod(command="other")))).changed == ()
        assert journal.merge(snapshot()).removed == ()
        assert journal.get("web") == before
        assert journal.resume("web").removed == ("web",)
        with pytest.raises(PodNotFound):
            journal.resume("web")

    def test_a_pod_of_nobody_goes_back_and_is_not_held(self, journal: Journal) -> None:
        journal.put(pod(command="one"), "r1")
        journal.put(pod(command="two"), "r2")
        assert journal.roll_back("web", journal.history("web")[0]).changed == ("web",)
        found = journal.get("web")
        assert found is not None and (found.pod, found.hold, found.owner) == (pod(command="one"), None, "api")
        with pytest.raises(Stalled, match="follows no file"):
            journal.suspend("web")

    # Preview.

    def test_a_preview_tells_and_does_nothing(self, journal: Journal) -> None:
        journal.merge(snapshot(declared(pod()), declared(pod("db"), "db.toml")))
        before = dict(journal.desired())
        preview = journal.preview(snapshot(declared(pod(command="other"))))
        assert (preview.applied.changed, preview.applied.removed) == (("web",), ("db",))
        assert preview.state.desired["web"].generation == 2
        assert dict(journal.desired()) == before

    # Status and events.

    def test_a_status_survives(self, journal: Journal, open_journal: Callable[[], Journal]) -> None:
        assert journal.status("web") == PodStatus()
        exit_ = Exit(at=1.5, code=None, signal=9, oom=True, reason="out of memory")
        container = ContainerStatus(hash="h", restarts=3, failures=2, retry_at=7.25, exit=exit_)
        status = PodStatus(containers={"app": container}, error="no such image")
        journal.record("web", status)
        journal.close()
        again = open_journal()
        assert again.status("web") == status
        again.record("web", None)
        assert dict(again.statuses()) == {}
        again.record("web", None)

    def test_a_mapping_that_was_read_never_changes(self, journal: Journal) -> None:
        pods, statuses = journal.desired(), journal.statuses()
        journal.put(pod(), "r")
        journal.record("web", PodStatus(error="running"))
        assert (dict(pods), dict(statuses)) == ({}, {})
        with pytest.raises(TypeError):
            journal.desired()["x"] = journal.desired()["web"]  # type: ignore[index]

    def test_events_are_numbered_and_dated(
        self, journal: Journal, open_journal: Callable[[], Journal]
    ) -> None:
        journal.record("web", None, [NewEvent(pod="web", type="started", message="x", container="app")])
        journal.record(
            "web", None, [NewEvent(pod="web", type="exited", message="y", cause="z", revision="r")] * 2
        )
        journal.close()
        again = open_journal()
        again.record("db", None, [NewEvent(pod="db", type="started", message="x")])
        events = again.events()
        assert [event.seq for event in events] == [1, 2, 3, 4]
        assert events[0].at == "2026-11-18T11:06:40Z"
        assert (events[1].type, events[1].cause, events[1].revision) == ("exited", "z", "r")
        assert [event.seq for event in again.events(after=1, limit=2)] == [2, 3]
        assert again.events(after=4) == []

    def test_old_events_and_revisions_go(self, journal: Journal) -> None:
        for number in range(40):
            journal.record("web", None, [NewEvent(pod="web", type="t", message=str(number))])
            journal.put(pod(command=f"sleep {number}"), "r")
        events = journal.events()
        assert 10 <= len(events) <= 12
        # A revision has an event of its own.
        assert events[-1].seq == 80
        assert [event.seq for event in events] == list(range(events[0].seq, 81))
        assert [revision.generation for revision in journal.history("web")] == [38, 39, 40]

    def test_waiting_for_events_ends_with_one(self, journal: Journal) -> None:
        assert journal.wait_for_events(0, 0.01) is False
        waiting = threading.Event()
        answers: list[bool] = []

        def wait() -> None:
            waiting.set()
            answers.append(journal.wait_for_events(0, 30))

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(10)
        journal.record("web", None, [NewEvent(pod="web", type="t", message="m")])
        thread.join(60)
        assert answers == [True]
        assert journal.wait_for_events(0, 0) is True
        assert journal.wait_for_events(1, 0) is False

    def test_closing_ends_a_wait_and_refuses_the_rest(self, journal: Journal) -> None:
        answers: list[bool] = []
        started = threading.Event()

        def wait() -> None:
            started.set()
            try:
                answers.append(journal.wait_for_events(0, 30))
            except Retry:
                # Closed before the wait had begun: refused like any later call.
                answers.append(False)

        thread = threading.Thread(target=wait)
        thread.start()
        assert started.wait(10)
        journal.close()
        thread.join(60)
        assert not thread.is_alive()
        assert answers == [False]
        for call in (journal.desired, journal.problems, lambda: journal.merge(snapshot()), journal.events):
            with pytest.raises(Retry):
                call()
        journal.close()

    def test_facts_of_other_rooms_survive(
        self, journal: Journal, open_journal: Callable[[], Journal]
    ) -> None:
        assert journal.recall("k") == b""
        journal.remember("k", b"\0value")
        journal.close()
        again = open_journal()
        assert again.recall("k") == b"\0value"
        again.remember("k", b"")
        assert again.recall("k") == b""

    def test_a_fact_that_is_kept_once_is_the_same_for_all(self, open_journal: Callable[[], Journal]) -> None:
        journal = open_journal()
        made = iter(range(100))
        start = threading.Barrier(8)
        found: list[bytes] = []

        def keep() -> None:
            start.wait(10)
            found.append(journal.keep_once("key", lambda: b"%d" % next(made)))

        threads = [threading.Thread(target=keep) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(found) == 8 and len(set(found)) == 1
        journal.close()
        again = open_journal()
        assert again.keep_once("key", lambda: b"another") == found[0]
        again.close()

    def test_a_snapshot_that_is_out_of_date_is_not_merged(self, open_journal: Callable[[], Journal]) -> None:
        journal = open_journal()
        assert journal.merge(snapshot(declared(pod())), still=lambda: False).changed == ()
        assert journal.get("web") is None
        assert journal.merge(snapshot(declared(pod())), still=lambda: True).changed == ("web",)
        journal.close()

    # Many threads.

    def test_writers_in_many_threads_lose_nothing(self, journal: Journal) -> None:
        failures: list[BaseException] = []

        def write(thread: int) -> None:
            try:
                for number in range(20):
                    journal.record(
                        f"p{thread}", PodStatus(error=str(number)), [NewEvent(pod="p", type="t", message="m")]
                    )
                    journal.put(pod(f"p{thread}", f"sleep {number}"), "r")
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert {name: status.error for name, status in journal.statuses().items()} == {
            f"p{number}": "19" for number in range(8)
        }
        assert {found.generation for found in journal.desired().values()} == {20}
        assert journal.events()[-1].seq == 2 * 160

    def test_a_restart_shows_the_same(self, journal: Journal, open_journal: Callable[[], Journal]) -> None:
        bad = Problem(f"{DIRECTORY}/web.toml", 3, "restart", "is wrong", "web")
        journal.merge(snapshot(declared(pod()), declared(pod("db"), "db.toml")))
        journal.merge(snapshot(declared(pod("db"), "db.toml"), problems=(bad,)))
        journal.put(pod("api"), "r")
        before = dict(journal.desired())
        journal.close()
        again = open_journal()
        assert dict(again.desired()) == before
        # The other sources say nothing about the directory's bad file: its error stays until that is read.
        again.merge(snapshot(source="git"))
        assert dict(again.desired()) == before
