//! The loops of all threads, for descriptors that are closed in another one than they are waited in.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, Weak};

use aevent_runtime::scheduler::Scheduler;

use crate::task::{Payload, SchedulerRef};

/// Every loop there is, for descriptors that are closed in another thread than they are waited in.
static SCHEDULERS: Mutex<Vec<Weak<Scheduler<Payload>>>> = Mutex::new(Vec::new());

/// A new loop's scheduler joins them.
pub(super) fn add(scheduler: &SchedulerRef) {
    if let Ok(mut schedulers) = SCHEDULERS.lock() {
        schedulers.retain(|scheduler| scheduler.strong_count() > 0);
        schedulers.push(Arc::downgrade(scheduler));
    }
}

/// In the child of a fork: the other threads' loops do not exist, and their descriptors are the
/// parent's.
pub(super) fn forget_others() {
    if let Ok(mut schedulers) = SCHEDULERS.lock() {
        schedulers.retain(|scheduler| {
            scheduler.upgrade().is_some_and(|scheduler| {
                scheduler.is_mine() || {
                    std::mem::forget(scheduler);
                    false
                }
            })
        });
    }
}

/// Before `fd` is closed, by whichever thread: everybody who waits for it is woken.
pub fn close_descriptor(fd: RawFd) {
    aevent_runtime::descriptor::renew(fd);
    let Ok(schedulers) = SCHEDULERS.lock() else {
        return;
    };
    // Collected first: the last reference to a scheduler may be the one dropped below.
    let living: Vec<SchedulerRef> = schedulers.iter().filter_map(Weak::upgrade).collect();
    drop(schedulers);
    for scheduler in living {
        if scheduler.is_mine() {
            scheduler.closing(fd);
        } else {
            scheduler.closing_elsewhere(fd);
        }
    }
}
