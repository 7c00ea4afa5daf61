"""Ordinary synchronous Python inside a trio or asyncio program, or on a loop of its own.

Layers, each using only those to its left:

    _core (Rust) <- _exceptions <- _backend (contract) <- adapters (_backends) and primitives
    (_sync, _scopes, _task_groups, _bridge, _run) <- _monkey <- this file

The public names are re-exported here and nowhere else.
"""

from __future__ import annotations

from . import from_thread as from_thread
from . import integrations as _integrations
from . import lowlevel as lowlevel
from . import to_thread as to_thread
from ._bridge import await_ as await_
from ._bridge import native as native
from ._bridge import patched as patched
from ._channels import MemoryChannelStatistics as MemoryChannelStatistics
from ._channels import MemoryReceiveChannel as MemoryReceiveChannel
from ._channels import MemorySendChannel as MemorySendChannel
from ._channels import open_memory_channel as open_memory_channel
from ._descriptors import notify_closing as notify_closing
from ._descriptors import wait_readable as wait_readable
from ._descriptors import wait_writable as wait_writable
from ._doctor import Diagnosis as Diagnosis
from ._doctor import doctor as doctor
from ._exceptions import AeventError as AeventError
from ._exceptions import AeventWarning as AeventWarning
from ._exceptions import BrokenResourceError as BrokenResourceError
from ._exceptions import BusyResourceError as BusyResourceError
from ._exceptions import Cancelled as Cancelled
from ._exceptions import ClosedResourceError as ClosedResourceError
from ._exceptions import EndOfStream as EndOfStream
from ._exceptions import RunFinishedError as RunFinishedError
from ._exceptions import WouldBlock as WouldBlock
from ._limiter import CapacityLimiter as CapacityLimiter
from ._limiter import CapacityLimiterStatistics as CapacityLimiterStatistics
from ._offload import offload as offload
from ._offload import offloaded as offloaded
from ._portals import bestow_portal as bestow_portal
from ._portals import ensure_portal as ensure_portal
from ._portals import has_portal as has_portal
from ._portals import per_task as per_task
from ._portals import with_portal_run as with_portal_run
from ._portals import with_portal_run_sync as with_portal_run_sync
from ._portals import with_portal_run_tree as with_portal_run_tree
from ._processes import Process as Process
from ._processes import ReceivePipe as ReceivePipe
from ._processes import SendPipe as SendPipe
from ._processes import open_process as open_process
from ._processes import run_process as run_process
from ._run import run as run
from ._run import runner as runner
from ._scopes import CancelScope as CancelScope
from ._scopes import current_effective_deadline as current_effective_deadline
from ._scopes import fail_after as fail_after
from ._scopes import fail_at as fail_at
from ._scopes import move_on_after as move_on_after
from ._scopes import move_on_at as move_on_at
from ._setup import patch_ as patch_
from ._setup import setup as setup
from ._signal_receiver import SignalReceiver as SignalReceiver
from ._signal_receiver import open_signal_receiver as open_signal_receiver
from ._sync import BoundedSemaphore as BoundedSemaphore
from ._sync import Condition as Condition
from ._sync import Event as Event
from ._sync import Lock as Lock
from ._sync import RLock as RLock
from ._sync import Semaphore as Semaphore
from ._sync import SimpleQueue as SimpleQueue
from ._sync_views import async_context as async_context
from ._sync_views import async_iter as async_iter
from ._sync_views import autoawait as autoawait
from ._sync_views import decorate_as_sync as decorate_as_sync
from ._task_groups import TaskGroup as TaskGroup
from ._task_status import TASK_STATUS_IGNORED as TASK_STATUS_IGNORED
from ._task_status import TaskStatus as TaskStatus
from ._time import checkpoint as checkpoint
from ._time import current_time as current_time
from ._time import sleep as sleep
from ._time import sleep_forever as sleep_forever
from ._time import sleep_until as sleep_until
from ._tree import format_tree as format_tree
from ._tree import print_tree as print_tree
from ._watchdog import Blocking as Blocking
from ._watchdog import on_blocking as on_blocking

# Not a patch: anyio gets to know the name of one more backend.
_integrations.register_backend()

__version__ = "0.1.0"
