//! Futures make progress in a scheduler's looks, and nobody is switched to for them.

mod support;

use std::future::{Future, pending, poll_fn};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::thread;

use aevent_runtime::clock;
use aevent_runtime::descriptor;
use aevent_runtime::futures::Handle;
use aevent_runtime::offload::Offload;
use aevent_runtime::reactor::Interest;
use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::task::Task;
use aevent_runtime::wait_queue::WaitQueue;
use futures_lite::future::yield_now;
use support::{Name, Watchdog, is_readable, run_ready, wait_for_events};

fn scheduler() -> Arc<Scheduler<Name>> {
    Scheduler::new().unwrap()
}

fn poll<T>(handle: &mut Handle<T>) -> Poll<T> {
    Pin::new(handle).poll(&mut Context::from_waker(Waker::noop()))
}

fn output<T>(scheduler: &Scheduler<Name>, mut handle: Handle<T>) -> T {
    loop {
        if let Poll::Ready(output) = poll(&mut handle) {
            return output;
        }
        wait_for_events(scheduler);
    }
}

/// In a box, since `rustc` cannot yet see that a block with a type that contains a reference is `Send`.
fn until(
    scheduler: &Arc<Scheduler<Name>>,
    deadline: u64,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(scheduler.until(deadline))
}

/// Counts those that were dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn count() -> Arc<AtomicUsize> {
    Arc::new(AtomicUsize::new(0))
}

#[test]
fn a_look_polls_what_was_spawned() {
    let scheduler = scheduler();
    let mut handle = scheduler.spawn(async { 1 + 1 });
    assert!(!handle.is_finished());
    assert_eq!(scheduler.time_to_wait(), Some(0));
    assert!(scheduler.is_look_due());
    scheduler.look().unwrap();
    assert!(handle.is_finished());
    assert_eq!(poll(&mut handle), Poll::Ready(2));
    assert_eq!(
        (scheduler.time_to_wait(), scheduler.has_work()),
        (None, false)
    );
}

#[test]
fn what_was_not_woken_is_not_polled() {
    let scheduler = scheduler();
    let polls = count();
    let theirs = polls.clone();
    let _handle = scheduler.spawn(poll_fn(move |_| -> Poll<()> {
        theirs.fetch_add(1, Ordering::SeqCst);
        Poll::Pending
    }));
    for _ in 0..3 {
        scheduler.look().unwrap();
    }
    assert_eq!(polls.load(Ordering::SeqCst), 1);
    assert!(!scheduler.is_look_due());
}

#[test]
fn a_task_that_awaits_one_runs_when_it_is_done() {
    let scheduler = scheduler();
    let task = Task::new(scheduler.clone(), "waiter");
    let mut handle = scheduler.spawn(async { 7 });
    {
        let waker = task.waker_ref();
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut handle).poll(&mut cx).is_pending());
    }
    assert!(task.begin_park());
    scheduler.look().unwrap();
    assert_eq!(run_ready(&scheduler), ["waiter"]);
    assert_eq!(poll(&mut handle), Poll::Ready(7));
}

#[test]
fn another_thread_wakes_the_loop() {
    let _watchdog = Watchdog::start();
    let scheduler = scheduler();
    let queue = Arc::new(WaitQueue::new());
    for _ in 0..100 {
        let theirs = queue.clone();
        let (begun, begin) = channel();
        let handle = scheduler.spawn(async move {
            let mut waiter = theirs.listen();
            begun.send(()).unwrap();
            poll_fn(|cx| waiter.poll(cx)).await;
        });
        let notifier = queue.clone();
        let thread = thread::spawn(move || {
            begin.recv().unwrap();
            assert_eq!(notifier.notify(1), 1);
        });
        output(&scheduler, handle);
        thread.join().unwrap();
    }
}

#[test]
fn a_job_of_the_pool_is_awaited() {
    let _watchdog = Watchdog::start();
    let scheduler = scheduler();
    let handles: Vec<_> = (0..30)
        .map(|number| {
            scheduler.spawn(async move { Offload::global().run(move || number * 2).await.unwrap() })
        })
        .collect();
    let sum: i32 = handles
        .into_iter()
        .map(|handle| output(&scheduler, handle))
        .sum();
    assert_eq!(sum, 870);
}

#[test]
fn a_host_is_told() {
    let scheduler = scheduler();
    scheduler.set_host_has_the_thread(true);
    let mut handle = scheduler.spawn(async {});
    assert!(is_readable(scheduler.fd(), 0));
    scheduler.look().unwrap();
    assert_eq!(poll(&mut handle), Poll::Ready(()));
    // A deadline that a future sets reaches the host's timer.
    let deadline = clock::now() + 1_000_000;
    let handle = scheduler.spawn(scheduler.until(deadline));
    scheduler.look().unwrap();
    assert!(is_readable(scheduler.fd(), 10_000));
    output(&scheduler, handle);
}

#[test]
fn dropping_the_handle_cancels() {
    let scheduler = scheduler();
    let dropped = count();
    let guard = Dropped(dropped.clone());
    let until = until(&scheduler, u64::MAX / 2);
    let handle = scheduler.spawn(async move {
        let _guard = guard;
        until.await;
    });
    scheduler.look().unwrap();
    assert_eq!(scheduler.timers_len(), 1);
    drop(handle);
    assert!(scheduler.is_look_due());
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    scheduler.look().unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(scheduler.timers_len(), 0);
}

#[test]
fn a_handle_may_be_dropped_by_another_thread() {
    let _watchdog = Watchdog::start();
    let scheduler = scheduler();
    let dropped = count();
    let guard = Dropped(dropped.clone());
    let handle = scheduler.spawn(async move {
        let _guard = guard;
        pending::<()>().await;
    });
    scheduler.look().unwrap();
    let thread = thread::spawn(move || drop(handle));
    wait_for_events(&scheduler);
    thread.join().unwrap();
    scheduler.look().unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn one_that_is_detached_goes_on() {
    let scheduler = scheduler();
    let dropped = count();
    let guard = Dropped(dropped.clone());
    scheduler
        .spawn(async move {
            yield_now().await;
            drop(guard);
        })
        .detach();
    scheduler.look().unwrap();
    scheduler.look().unwrap();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn the_scheduler_takes_its_futures_with_it() {
    let scheduler = scheduler();
    let dropped = count();
    for polled in [true, false] {
        let guard = Dropped(dropped.clone());
        let waits = until(&scheduler, u64::MAX / 2);
        scheduler
            .spawn(async move {
                let _guard = guard;
                waits.await;
            })
            .detach();
        if polled {
            scheduler.look().unwrap();
        }
    }
    assert_eq!(Arc::strong_count(&scheduler), 1);
    drop(scheduler);
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
}

#[test]
fn a_waker_may_outlive_the_scheduler() {
    let scheduler = scheduler();
    let (give, take) = channel();
    scheduler
        .spawn(poll_fn(move |cx| -> Poll<()> {
            give.send(cx.waker().clone()).unwrap();
            Poll::Pending
        }))
        .detach();
    scheduler.look().unwrap();
    drop(scheduler);
    take.recv().unwrap().wake();
}

#[test]
fn a_panic_reaches_whoever_awaits_it() {
    let scheduler = scheduler();
    let mut panics = scheduler.spawn(async { panic!("as planned") });
    let mut other = scheduler.spawn(async { "well" });
    scheduler.look().unwrap();
    let payload = catch_unwind(AssertUnwindSafe(|| poll(&mut panics))).unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"as planned"));
    assert_eq!(poll(&mut other), Poll::Ready("well"));
}

#[test]
fn one_that_is_always_ready_ends_no_look() {
    let scheduler = scheduler();
    let busy: Vec<_> = (0..3)
        .map(|_| {
            scheduler.spawn(async {
                loop {
                    yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..3 {
        scheduler.look().unwrap();
        // And it comes to it again, also if nobody else is ready.
        assert!(scheduler.has_work());
        assert_eq!(scheduler.time_to_wait(), Some(0));
    }
    drop(busy);
    while scheduler.has_work() {
        scheduler.look().unwrap();
    }
}

#[test]
fn futures_spawn_futures() {
    let scheduler = scheduler();
    let weak = Arc::downgrade(&scheduler);
    let handle = scheduler.spawn(async move {
        let inner = weak.upgrade().unwrap().spawn(async { 3 });
        inner.await + 1
    });
    assert_eq!(output(&scheduler, handle), 4);
}

#[test]
fn a_future_waits_for_a_descriptor() {
    let _watchdog = Watchdog::start();
    let scheduler = scheduler();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut handle = scheduler.spawn(scheduler.ready(ours.as_raw_fd(), Interest::READ));
    scheduler.look().unwrap();
    assert!(!handle.is_finished());
    theirs.write_all(b"x").unwrap();
    // The look that sees it also polls the future.
    scheduler.look().unwrap();
    assert!(matches!(poll(&mut handle), Poll::Ready(Ok(()))));
    let registered = support::registered(scheduler.fd());
    assert!(!registered.contains(&ours.as_raw_fd()));
}

#[test]
fn a_descriptor_that_is_closed_ends_the_wait() {
    let scheduler = scheduler();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let fd = ours.as_raw_fd();
    let mut handle = scheduler.spawn(scheduler.ready(fd, Interest::READ));
    scheduler.look().unwrap();
    descriptor::renew(fd);
    scheduler.closing(fd);
    drop(ours);
    scheduler.look().unwrap();
    let Poll::Ready(Err(error)) = poll(&mut handle) else {
        panic!("it goes on waiting");
    };
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    // One that cannot be waited for says so.
    let regular = std::fs::File::open("/proc/self/exe").unwrap();
    let handle = scheduler.spawn(scheduler.ready(regular.as_raw_fd(), Interest::READ));
    let error = output(&scheduler, handle).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn whoever_polled_last_is_woken() {
    let scheduler = scheduler();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut ready = pin!(scheduler.ready(ours.as_raw_fd(), Interest::READ));
    let mut until = pin!(scheduler.until(clock::now() + 1_000_000));
    for name in ["former", "latter"] {
        let task = Task::new(scheduler.clone(), name);
        let waker = task.waker();
        let mut cx = Context::from_waker(&waker);
        assert!(ready.as_mut().poll(&mut cx).is_pending());
        assert!(until.as_mut().poll(&mut cx).is_pending());
        assert!(task.begin_park());
    }
    assert_eq!(scheduler.timers_len(), 1);
    theirs.write_all(b"x").unwrap();
    while scheduler.timers_len() > 0 {
        wait_for_events(&scheduler);
    }
    assert_eq!(run_ready(&scheduler), ["latter"]);
}

#[test]
fn deadlines_come_in_order() {
    let _watchdog = Watchdog::start();
    let scheduler = scheduler();
    let now = clock::now();
    let (tell, told) = channel();
    let handles: Vec<_> = [3, 1, 2, 0]
        .map(|number| {
            let until = until(&scheduler, now + number * 1_000_000);
            let tell = tell.clone();
            scheduler.spawn(async move {
                until.await;
                tell.send(number).unwrap();
            })
        })
        .into();
    for handle in handles {
        output(&scheduler, handle);
    }
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
}
