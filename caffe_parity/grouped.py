"""How `parity run` shares tests among xdist's processes: those of a group go to one of them."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadGroupScheduling
from xdist.workermanage import WorkerController


class Grouped(LoadGroupScheduling):  # type: ignore[misc]
    """xdist's own `--dist loadgroup`, where a process may end.

    There, the test that has ended one process is given to the next one as well, work goes to a
    process that has not yet said what it has collected, and one with a single test waits forever.
    """

    def __init__(self, config: Any, log: Any) -> None:
        """What is large comes first, not the largest groups."""
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def remove_node(self, node: WorkerController) -> str | None:
        """Takes back what a process has not done; returns the test that has ended it, if one has.

        Raises:
            KeyError: the process had not been given anything.
        """
        units = self.assigned_work.pop(node)
        left: list[str] = [
            test for unit in units.values() for test, done in unit.items() if not done
        ]
        if not left:
            return None
        for unit in units.values():
            if left[0] in unit:
                unit[left[0]] = True
        again = {scope: unit for scope, unit in units.items() if not all(unit.values())}
        self.workqueue.update(again)
        for each in self.assigned_work:
            self._reschedule(each)
        return left[0]

    def _reschedule(self, node: WorkerController) -> None:
        if node.shutting_down or node not in self.registered_collections:
            return
        while self.workqueue and self._pending_of(self.assigned_work[node]) <= 2:
            self._assign_work_unit(node)
        if not self.workqueue:  # it ends when it has run what it was given
            node.shutdown()
