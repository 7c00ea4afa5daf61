//! The offload pool: everything at once up to its limit, in order beyond, and robust.

use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use aevent_runtime::offload::Offload;
use futures_lite::future::{block_on, poll_once};

const LONG: Duration = Duration::from_secs(60);

/// Waits for what another thread is about to do; there is nothing to be woken by.
fn eventually(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "it never came true");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn thirty_jobs_run_at_once() {
    // They meet at a barrier: if one of them had to wait for another to end, none would.
    let barrier = Arc::new(Barrier::new(30));
    let jobs: Vec<_> = (0..30)
        .map(|_| {
            let barrier = Arc::clone(&barrier);
            Offload::global().run(move || barrier.wait().is_leader())
        })
        .collect();
    let led = jobs.into_iter().map(|job| block_on(job).unwrap());
    assert_eq!(led.filter(|&leader| leader).count(), 1);
}

#[test]
fn the_limit_is_kept_and_the_rest_runs_in_order() {
    let offload = Offload::new(1, LONG);
    let (release, blocked) = mpsc::channel::<()>();
    let (report, reports) = mpsc::channel();
    offload.submit(Box::new(move || blocked.recv().unwrap()));
    for number in 0..100 {
        let report = report.clone();
        offload.submit(Box::new(move || report.send(number).unwrap()));
    }
    assert_eq!(offload.threads(), 1);
    eventually(|| offload.queued() == 100);
    release.send(()).unwrap();
    drop(report);
    assert_eq!(
        reports.iter().collect::<Vec<_>>(),
        (0..100).collect::<Vec<_>>()
    );
}

#[test]
fn idle_threads_are_used_again_and_then_end() {
    let offload = Offload::new(8, Duration::from_millis(50));
    for round in 0..20 {
        assert_eq!(block_on(offload.run(move || round)).unwrap(), round);
    }
    // The result is there a moment before its thread is idle again, so more than one is possible.
    assert!(offload.threads() <= 8);
    eventually(|| offload.threads() == 0);
    assert_eq!(block_on(offload.run(|| 1)).unwrap(), 1);
}

#[test]
fn a_panic_is_returned_and_kills_nobody() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let offload = Offload::new(1, LONG);
    let payload = block_on(offload.run(|| panic::panic_any("oh"))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"oh"));
    for _ in 0..10 {
        offload.submit(Box::new(|| panic!("nobody listens")));
    }
    assert_eq!(block_on(offload.run(|| 7)).unwrap(), 7);
    assert_eq!(offload.threads(), 1);
    panic::set_hook(hook);
}

#[test]
fn an_abandoned_job_runs_on_and_its_result_is_dropped() {
    struct Result(Arc<AtomicBool>);
    impl Drop for Result {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let offload = Offload::new(4, LONG);
    let (release, blocked) = mpsc::channel::<()>();
    let dropped = Arc::new(AtomicBool::new(false));
    let result = Result(Arc::clone(&dropped));
    let mut job = offload.run(move || {
        blocked.recv().unwrap();
        result
    });
    assert!(block_on(poll_once(&mut job)).is_none());
    drop(job);
    assert!(!dropped.load(Ordering::SeqCst));
    release.send(()).unwrap();
    eventually(|| dropped.load(Ordering::SeqCst));
}

#[test]
fn a_pool_that_is_dropped_still_does_what_was_queued() {
    let done = Arc::new(AtomicUsize::new(0));
    let offload = Offload::new(2, LONG);
    for _ in 0..50 {
        let done = Arc::clone(&done);
        offload.submit(Box::new(move || {
            done.fetch_add(1, Ordering::SeqCst);
        }));
    }
    drop(offload);
    eventually(|| done.load(Ordering::SeqCst) == 50);
}

#[test]
fn signals_are_blocked_there_and_not_here() {
    fn is_blocked(signal: libc::c_int) -> bool {
        // SAFETY: the set is a valid place, filled in before it is read.
        unsafe {
            let mut mask: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut mask);
            libc::sigismember(&mask, signal) == 1
        }
    }
    let offload = Offload::new(1, LONG);
    let there = block_on(offload.run(|| {
        [
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGCHLD,
            libc::SIGUSR1,
            libc::SIGSEGV,
        ]
        .map(is_blocked)
    }));
    assert_eq!(there.unwrap(), [true, true, true, true, false]);
    assert!(!is_blocked(libc::SIGINT) && !is_blocked(libc::SIGCHLD));
}

#[test]
#[cfg_attr(miri, ignore = "miri cannot fork")]
fn a_forked_child_begins_anew() {
    let offload = Offload::new(2, LONG);
    let (release, blocked) = mpsc::channel::<()>();
    offload.submit(Box::new(move || blocked.recv().unwrap_or(())));
    // SAFETY: the child only does what a child of a threaded process gets away with on the systems
    // we test on (it allocates and starts a thread), and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        offload.after_fork_child();
        let fresh = offload.threads() == 0;
        let works = block_on(offload.run(|| 5)).is_ok_and(|five| five == 5);
        // SAFETY: ends the process without running anything of ours.
        unsafe { libc::_exit(if fresh && works { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `child` is ours and `status` a valid place.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(offload.threads(), 1, "the parent notices nothing");
    release.send(()).unwrap();
}
