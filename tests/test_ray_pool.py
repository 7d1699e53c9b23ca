"""How the workers of a Ray cluster get their work (dfdc/ray_pool.py), without a cluster: deaths, nodes that join."""

import time
from unittest import mock

import pytest

from dfdc.workers import Failed, WorkersError

pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")

from ray.exceptions import RayTaskError

from dfdc import ray_pool
from dfdc.ray_nodes import ClusterError, NoAnswerError, NodeInfo


class FakeActor:
    """Stands in for an actor: its calls do nothing until the test ends them."""

    def __init__(self):
        self.start = self.work = self.answer = self
        self.given = []

    def remote(self, *item):
        self.given.append((item, ray_pool.Future()))
        return self

    def future(self):
        return self.given[-1][1]


class Pool(ray_pool.Pool):
    """A pool of fake actors, and the outcomes so far."""

    def __init__(self, monkeypatch, names, threads=1, workers=1):
        self.actors, self.killed, self.found = [], [], []
        monkeypatch.setattr(ray_pool.ray, "kill", self.killed.append)
        jobs = ray_pool.deque(ray_pool._Job(name, 0) for name in names)
        super().__init__(self.new_actor, jobs, threads, None, [NodeInfo("n", "node n", threads, 0)])
        for _ in range(workers):
            self._add_member()
        for actor in self.actors.copy():
            self.begin(actor)

    def new_actor(self, refused):
        self.actors.append(FakeActor())
        self.refused = refused
        return self.actors[-1]

    def begin(self, actor, node="n", fault=""):
        self.end(actor, (), ray_pool.Started(node, fault))

    def end(self, actor, item, outcome):
        """End what `actor` does with `item`, and let the pool go on."""
        future = next(future for given, future in actor.given if given == item and not future.done())
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        for member, job, done in self._next_events():
            if member in self._members:
                self.found += self._greet(member, done) or () if job is None else self._take(member, job, done)
        self._hand_out()

    def die(self, actor, item):
        self.end(actor, (item,), ray_pool.ray.exceptions.ActorDiedError())
        self.begin(self.actors[-1])

    def given(self, actor):
        return [item[0] for item, future in actor.given if item and not future.done()]


@pytest.fixture(autouse=True)
def one_node(monkeypatch):
    monkeypatch.setattr(ray_pool, "list_nodes", lambda: [NodeInfo("n", "node n", 1, 0)])
    monkeypatch.setattr(ray_pool, "find_faults", lambda shared, nodes, seconds: ((node, None) for node in nodes))


def test_one_job_runs_and_one_waits(monkeypatch):
    pool = Pool(monkeypatch, "abcdef")
    (actor,) = pool.actors
    assert pool.given(actor) == ["a", "b"]
    pool.end(actor, ("a",), 1)
    assert pool.found == [("a", 1)]
    assert pool.given(actor) == ["b", "c"]


def test_neither_of_two_is_blamed_before_it_ran_alone(monkeypatch):
    """A worker may end "a", begin "b" and die of it before the outcome of "a" has left it."""
    pool = Pool(monkeypatch, "abcde")
    assert pool.given(pool.actors[-1]) == ["a", "b"]
    pool.die(pool.actors[-1], "a")
    assert pool.given(pool.actors[-1]) == ["a"]
    pool.end(pool.actors[-1], ("a",), 7)
    assert pool.found == [("a", 7)]
    assert pool.given(pool.actors[-1]) == ["b"]
    for _ in range(2):
        pool.die(pool.actors[-1], "b")
        assert pool.given(pool.actors[-1]) == ["b"]
    assert len(pool.found) == 1
    pool.die(pool.actors[-1], "b")
    assert pool.found[1:] == [("b", Failed("its worker process died 3 times (the last one on node n)"))]
    assert pool.given(pool.actors[-1]) == ["c", "d"]
    assert len(pool.killed) == 4  # in case that only the connection broke


def test_what_was_done_before_the_death_counts(monkeypatch):
    """So only one job was left, and the death counts."""
    pool = Pool(monkeypatch, "abcd")
    (actor,) = pool.actors
    next(future for item, future in actor.given if item == ("a",)).set_result(7)  # its event is in the queue
    pool.die(actor, "b")
    assert pool.found == [("a", 7)]
    for _ in range(2):
        assert pool.given(pool.actors[-1]) == ["b"]
        pool.die(pool.actors[-1], "b")
    assert pool.found[1:] == [("b", Failed("its worker process died 3 times (the last one on node n)"))]


def test_a_job_that_was_its_workers_only_one_is_alone_afterwards(monkeypatch):
    pool = Pool(monkeypatch, "a")
    pool._waiting.extend(ray_pool._Job(name, 0) for name in "bcd")  # none of them waited for the first worker
    pool.die(pool.actors[0], "a")
    assert pool.given(pool.actors[-1]) == ["a"]
    for _ in range(2):
        pool.die(pool.actors[-1], "a")
    assert [item for item, _ in pool.found] == ["a"]


def test_an_idle_worker_gets_a_job_after_a_death_only_if_it_answers(monkeypatch):
    """The four are of one node that dies, which only the one with a job tells: its job must not pass through all."""
    pool = Pool(monkeypatch, "abcd", workers=4)
    for actor, item in zip(pool.actors[:3], "abc", strict=True):
        pool.end(actor, (item,), 7)
    holder = pool.actors[3]
    pool.end(holder, ("d",), ray_pool.ray.exceptions.ActorDiedError())
    assert [pool.given(actor) for actor in pool.actors] == [[], [], [], [], []]
    for actor in pool.actors[:2]:
        pool.end(actor, (), ray_pool.ray.exceptions.ActorDiedError())
    assert len(pool.actors) == 7  # each was replaced
    assert pool.killed == [holder, *pool.actors[:2]]
    pool.begin(pool.actors[2])  # this one answers
    assert pool.given(pool.actors[2]) == ["d"]
    pool.end(pool.actors[2], ("d",), 8)
    assert pool.found == [("a", 7), ("b", 7), ("c", 7), ("d", 8)]


def test_an_idle_worker_that_does_not_answer_is_replaced_after_a_minute(monkeypatch):
    pool = Pool(monkeypatch, "ab", workers=2)
    idle, holder = pool.actors
    pool.end(idle, ("a",), 7)
    pool.end(holder, ("b",), ray_pool.ray.exceptions.ActorDiedError())
    now = time.monotonic()
    assert list(pool._end_late(now + 50)) == []
    assert pool.killed == [holder]
    assert list(pool._end_late(now + 61)) == []
    assert pool.killed == [holder, idle]
    pool.begin(pool.actors[3])
    assert pool.given(pool.actors[3]) == ["b"]


def test_a_late_job_is_no_reason_to_ask_idle_workers(monkeypatch):
    pool = Pool(monkeypatch, "ab", workers=2)
    pool.end(pool.actors[0], ("a",), 7)
    assert len(list(pool._end_late(time.monotonic() + 601))) == 1
    assert [member.ready for member in pool._members] == [True, False]  # the second is being started


def test_those_that_a_dead_worker_had_run_alone_afterwards(monkeypatch):
    """A worker for two jobs at a time had three, and one of them killed it: none is blamed yet."""
    pool = Pool(monkeypatch, "abcdefg", threads=2)
    (first,) = pool.actors
    assert pool.given(first) == ["a", "b", "c"]
    pool.die(first, "a")
    assert pool.given(pool.actors[-1]) == ["a"]
    for _ in range(3):
        pool.die(pool.actors[-1], "a")
    assert [item for item, _ in pool.found] == ["a"]
    assert pool.given(pool.actors[-1]) == ["b"]
    pool.end(pool.actors[-1], ("b",), 5)
    assert pool.found[-1] == ("b", 5)
    assert pool.given(pool.actors[-1]) == ["c"]
    pool.end(pool.actors[-1], ("c",), 6)
    assert pool.given(pool.actors[-1]) == ["d", "e", "f"]


def test_a_late_one_fails_at_once_and_costs_no_other(monkeypatch):
    pool = Pool(monkeypatch, "abcd")
    (actor,) = pool.actors
    pool.found += pool._end_late(time.monotonic() + 601)
    assert pool.found == [("a", Failed("it exceeded the time limit of 600 s"))]
    assert pool.killed == [actor]
    pool.begin(pool.actors[-1])
    assert pool.given(pool.actors[-1]) == ["b", "c"]
    assert [job.began is None for job in pool._members[0].jobs] == [False, True]  # the clock of "c" stands still


def test_the_last_jobs_wait_for_the_next_free_worker(monkeypatch):
    pool = Pool(monkeypatch, "abc", workers=2)
    assert [pool.given(actor) for actor in pool.actors] == [["a"], ["b"]]


def test_a_worker_that_dies_at_its_start_is_tried_three_times(monkeypatch, capsys):
    pool = Pool(monkeypatch, "abc", workers=1)
    pool._add_member()
    for _ in range(3):
        pool.end(pool.actors[-1], (), ray_pool.ray.exceptions.ActorDiedError())
    assert len(pool.actors) == 4
    assert [len(pool.given(actor)) for actor in pool.actors] == [2, 0, 0, 0]  # the other one goes on
    said = (
        "Ray: a worker could not be started 3 times (The actor died unexpectedly before finishing this task.); 1 left\n"
    )
    assert capsys.readouterr().err == said
    pool = Pool(monkeypatch, "abc", workers=0)
    pool._add_member()
    for _ in range(2):
        pool.end(pool.actors[-1], (), ray_pool.ray.exceptions.ActorDiedError())
    fault = RayTaskError("__init__", "Traceback\n  ImportError: why\n", ImportError("why"))
    with pytest.raises(WorkersError, match=r"^no worker can be started on the Ray cluster \(ImportError: why\)$"):
        pool.end(pool.actors[-1], (), ray_pool.ray.exceptions.ActorDiedError(fault))


def test_a_task_that_cant_be_initialized_ends_the_run(monkeypatch):
    pool = Pool(monkeypatch, "abc", workers=0)
    pool._add_member()
    with pytest.raises(WorkersError, match=r"^a worker can't be initialized on node n: ValueError: why$"):
        pool.begin(pool.actors[0], fault="ValueError: why")


def test_a_full_disk_ends_the_run_and_an_outcome_that_cant_be_sent_one_video(monkeypatch):
    pool = Pool(monkeypatch, "abc")
    (actor,) = pool.actors
    pool.end(actor, ("a",), RayTaskError("work", "Traceback\n  TypeError: can't be pickled\n\n", TypeError()))
    assert pool.found == [("a", Failed("TypeError: can't be pickled"))]
    full = next(future for item, future in actor.given if item == ("b",))
    full.set_result(OSError(28, "No space left on device"))
    ((member, job, done),) = pool._next_events()
    with pytest.raises(OSError, match="No space"):
        next(pool._take(member, job, done))


def test_a_node_that_has_gone_is_named_once(monkeypatch, capsys):
    alive = {"n", "m"}
    monkeypatch.setattr(ray_pool, "living", lambda: alive)
    pool = Pool(monkeypatch, "abcdef", workers=2)
    pool._checked["m"] = NodeInfo("m", "node m", 1, 0)
    now = ray_pool.time.monotonic()
    alive.discard("m")
    pool._tell_of_lost_nodes(now)  # no worker has died, so nobody asks
    assert capsys.readouterr().err == ""
    alive.add("m")
    pool.die(pool.actors[0], "a")
    pool._tell_of_lost_nodes(now)
    assert capsys.readouterr().err == ""  # Ray has not noticed yet
    alive.discard("m")
    for _ in range(2):
        pool._tell_of_lost_nodes(now)
    alive.discard("n")
    pool._tell_of_lost_nodes(now)
    gone = (
        "Ray: node m has gone; its videos run elsewhere\nRay: node n has gone; waiting for another one, Ctrl-C stops\n"
    )
    assert capsys.readouterr().err == gone


def test_a_cluster_without_room_is_told_once_and_waited_for(monkeypatch, capsys):
    monkeypatch.setattr(ray_pool, "_TICK", 0.01)
    monkeypatch.setattr(ray_pool, "_PATIENCE", 0.0)
    pool = Pool(monkeypatch, "a", workers=0)
    looks, look = [], pool._next_events

    def next_events():
        looks.append(capsys.readouterr().err)
        if len(looks) == 4:
            pool.actors[0].given[0][1].set_result(ray_pool.Started("n", ""))
        if len(looks) == 6:
            pool.actors[0].given[1][1].set_result(7)
        return look()

    monkeypatch.setattr(pool, "_next_events", next_events)
    assert list(pool.run(1)) == [("a", 7)]
    said = "Ray: no worker has a place; waiting for a node with free cores or GPUs, Ctrl-C stops\n"
    assert looks == ["", said, "", "", "", ""]
    pool.stop()
    assert pool.killed == pool.actors
    pool.stop()
    assert len(pool.killed) == 1


def test_time_limits_and_nodes_are_not_looked_at_in_each_pass(monkeypatch):
    monkeypatch.setattr(ray_pool, "_TICK", 60.0)
    pool, looks = Pool(monkeypatch, "a"), []
    monkeypatch.setattr(pool, "_end_late", lambda now: looks.append(now) or ())
    pool.actors[0].given[1][1].set_result(7)
    assert list(pool.run(0)) == [("a", 7)]
    assert not looks


def test_a_run_looks_for_nodes_that_have_gone(monkeypatch, capsys):
    monkeypatch.setattr(ray_pool, "_TICK", 0.01)
    monkeypatch.setattr(ray_pool, "living", set)
    pool = Pool(monkeypatch, "a")
    pool._last_death = time.monotonic()
    looks, look = [], pool._next_events

    def next_events():
        looks.append(capsys.readouterr().err)
        if len(looks) == 4:
            pool.actors[0].given[1][1].set_result(7)
        return look()

    monkeypatch.setattr(pool, "_next_events", next_events)
    assert list(pool.run(0)) == [("a", 7)]
    assert "".join(looks) == "Ray: node n has gone; waiting for another one, Ctrl-C stops\n"


def test_the_largest_come_first():
    task = mock.Mock(size=len)
    assert [job.item for job in ray_pool.jobs_of(task, ["b", "ccc", "aa"])] == ["ccc", "aa", "b"]


@pytest.fixture
def joined(monkeypatch, one_node):
    """Two nodes that have joined, `bad` and `fine`; returns the ids of the nodes that are alive."""
    alive = ["n", "bad", "fine"]

    def find_faults(shared, nodes, seconds):
        assert nodes  # else there is nothing to ask
        assert seconds == 60.0  # less than at the start, since nothing is handed out meanwhile
        faults = {"bad": ClusterError("node bad does not see /data"), "slow": NoAnswerError("node slow is slow")}
        return ((node, faults.get(node.id)) for node in nodes)

    monkeypatch.setattr(ray_pool, "list_nodes", lambda: [NodeInfo(name, f"node {name}", 1, 0) for name in alive])
    monkeypatch.setattr(ray_pool, "find_faults", find_faults)
    return alive


def test_a_node_that_joins_and_cant_take_part_gets_no_work_and_the_others_go_on(monkeypatch, joined, capsys):
    pool = Pool(monkeypatch, "abcd", workers=1)
    for _ in range(2):  # the second one had been started before the first was refused
        pool._add_member()
    for actor in pool.actors[1:]:
        pool.begin(actor, "bad", fault="FileNotFoundError: /data")
        assert pool.killed[-1] is actor
        assert pool.refused == ("bad",)
    assert capsys.readouterr().err == "Ray: node bad does not see /data; it gets no work in this run\n"
    assert len(pool.actors) == 5  # each was replaced
    pool._end_without_nodes()
    pool.begin(pool.actors[3], "fine")
    assert [pool.given(actor) for actor in pool.actors] == [["a", "b"], [], [], ["c"], []]


def test_a_node_that_cant_even_start_a_worker_is_refused_too(monkeypatch, joined, capsys):
    """For example, this project's code is missing there. The tries of the worker are for other faults."""
    pool = Pool(monkeypatch, "abcd", workers=1)
    pool._add_member()
    pool.end(pool.actors[1], (), ray_pool.ray.exceptions.ActorDiedError())
    assert capsys.readouterr().err == "Ray: node bad does not see /data; it gets no work in this run\n"
    assert pool.refused == ("bad",)
    assert [member.failed_starts for member in pool._members] == [0, 0]
    pool.end(pool.actors[2], (), ray_pool.ray.exceptions.ActorDiedError())
    assert [member.failed_starts for member in pool._members] == [0, 1]
    monkeypatch.setattr(ray_pool, "list_nodes", mock.Mock(side_effect=ClusterError("no node")))
    pool.end(pool.actors[3], (), ray_pool.ray.exceptions.ActorDiedError())
    assert [member.failed_starts for member in pool._members] == [0, 2]


def test_a_refused_node_ends_the_run_if_no_other_is_left(monkeypatch, joined):
    pool = Pool(monkeypatch, "abcd", workers=1)
    pool._end_without_nodes()
    pool._add_member()
    pool.begin(pool.actors[1], "bad")
    joined.remove("n")
    pool._end_without_nodes()  # a worker has a place
    pool.end(pool.actors[0], ("a",), ray_pool.ray.exceptions.ActorDiedError())
    pool._end_without_nodes()  # a node is left that was not checked yet
    joined.remove("fine")
    with pytest.raises(ClusterError, match="node bad does not see /data"):
        pool._end_without_nodes()


def test_a_node_is_refused_for_silence_only_once_a_worker_has_started_there(monkeypatch, joined, capsys):
    """Before that, it may still be starting its first process."""
    joined.remove("bad")
    joined.append("slow")
    pool = Pool(monkeypatch, "abcd", workers=1)
    pool._add_member()
    pool.end(pool.actors[1], (), ray_pool.ray.exceptions.ActorDiedError())
    asked, find_faults = [], ray_pool.find_faults
    monkeypatch.setattr(ray_pool, "find_faults", lambda *question: asked.append(question) or iter(()))
    pool.end(pool.actors[2], (), ray_pool.ray.exceptions.ActorDiedError())
    assert not asked  # the node was silent before
    assert pool.refused == ()
    monkeypatch.setattr(ray_pool, "find_faults", find_faults)
    pool.begin(pool.actors[3], "slow")
    assert pool.refused == ("slow",)
    assert capsys.readouterr().err == "Ray: node slow is slow; it gets no work in this run\n"


def test_a_run_waits_if_no_node_at_all_is_left(monkeypatch, joined):
    pool = Pool(monkeypatch, "abcd", workers=1)
    pool._add_member()
    pool.begin(pool.actors[1], "bad")
    pool.end(pool.actors[0], ("a",), ray_pool.ray.exceptions.ActorDiedError())
    monkeypatch.setattr(ray_pool, "list_nodes", mock.Mock(side_effect=ClusterError("no node")))
    pool._end_without_nodes()
    pool.begin(pool.actors[-1], "fine")  # it has gone already
    assert pool.given(pool.actors[-1]) == ["a"]
