"""What libraries are built of: checkpoints, tasks, descriptors, the way in from other threads.

Names and semantics trio's, where trio has the same; on every backend, in async tasks of either
kind.
"""

from __future__ import annotations

from ._backend import HostTask as HostTask
from ._backend import cancel_shielded_checkpoint as cancel_shielded_checkpoint
from ._backend import checkpoint as checkpoint
from ._backend import checkpoint_if_cancelled as checkpoint_if_cancelled
from ._core import Task as Task
from ._descriptors import notify_closing as notify_closing
from ._descriptors import sync_wait_readable as sync_wait_readable
from ._descriptors import sync_wait_writable as sync_wait_writable
from ._descriptors import wait_readable as wait_readable
from ._descriptors import wait_writable as wait_writable
from ._entry import Token as Token
from ._entry import current_token as current_token
from ._entry import spawn_system_task as spawn_system_task
from ._parker import Parker as Parker
from ._tasks import RunStatistics as RunStatistics
from ._tasks import current_root_task as current_root_task
from ._tasks import current_statistics as current_statistics
from ._tasks import current_task as current_task
from ._tasks import task_name as task_name
from ._tree import LoopNode as LoopNode
from ._tree import ScopeNode as ScopeNode
from ._tree import TaskNode as TaskNode
from ._tree import task_tree as task_tree
