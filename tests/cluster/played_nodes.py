"""Nodes without Ray: `PYTHON played_nodes.py HEAD PARENT WHAT` stands in for through_ray/ray_child.

Its nodes are threads of this process, its workers are real ones. $PLAYED (JSON) says what goes wrong.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import Future
from queue import SimpleQueue

from steelyard.cluster.through_ray.ray_child import asking, assignment, main, mapping, place

PLAYED = json.loads(os.environ.get("PLAYED", "{}"))


class Actor:
    """A thread that does one call after another; `dead` answers as Ray does for an actor that is gone."""

    def __init__(self, nodes, node, words):
        self.nodes, self.node, self.place, self.calls = nodes, node, place.Place(*words), SimpleQueue()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            name, words, future = self.calls.get()
            try:
                self.nodes.happens(self, name)
                answer = getattr(self.place, name)(*words)
                self.nodes.begun += name == "begin"
                future.set_result(answer)
            except Exception as error:
                future.set_exception(error)


class PlayedNodes:
    def __init__(self, head, tell):
        self.there = {("one", "10.0.0.1"): 1, ("two", "10.0.0.2"): 1}
        self.works = self.begun = 0
        self.gone = set()

    def happens(self, actor, name):
        """What $PLAYED wants at this call."""
        if name == "work" and os.path.exists(PLAYED.get("end_when", "")):
            os._exit(1)
        if (actor.node, "10.0.0.2") in self.gone:
            raise RuntimeError("the actor died: its node has gone")
        self.works += name == "work"
        while (
            name == "work"
            and self.begun < PLAYED.get("named", len(self.cores()))
            and not PLAYED.get("other_code")
        ):
            time.sleep(0.01)  # both nodes are to take part
        if name == "work" and self.works == PLAYED.get("kill_worker_at"):
            actor.place.child.kill()
        if name == "work" and actor.node == "two" and self.loses():
            self.gone = {("two", "10.0.0.2")}
            raise RuntimeError("the actor died: its node has gone")
        if name == "work" and actor.node == "two" and PLAYED.get("silent"):
            time.sleep(3600)

    def loses(self):
        return self.works >= PLAYED.get("lose_node_at", 1 << 30) or os.path.exists(
            PLAYED.get("lose_when", "")
        )

    def cores(self):
        if PLAYED.get("comes") and self.works < 2:
            return {("one", "10.0.0.1"): 1}
        if self.gone and os.path.exists(PLAYED.get("back_when", "")):
            self.gone, PLAYED["lose_when"] = set(), ""
        return {node: count for node, count in self.there.items() if node not in self.gone}

    def open(self, node, *words):
        return Actor(self, node, words)

    def ask(self, actor, name, words, then):
        future = Future()
        future.add_done_callback(then)
        actor.calls.put((name, words, future))

    def close(self, actor):
        if actor.place.child is not None:
            actor.place.child.kill()

    def share(self, body):
        return body


main.RayNodes = PlayedNodes
mapping.LOOK_S = asking.LOOK_S = 0.1
mapping.TICK_S = 0.2
mapping.NOBODY_S = 1.0
assignment.SLOW_S = 0.5
if PLAYED.get("other_code"):
    begin = place.Place.begin
    place.Place.begin = lambda self: {**begin(self), "code": {"rooms": {}, "engines": {"numpy": "0.1"}}}
if PLAYED.get("none"):
    PlayedNodes.cores = lambda self: {}
main.main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
