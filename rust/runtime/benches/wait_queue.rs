//! What a lock costs without contention, and what handing it over costs as the queue grows.

use std::collections::VecDeque;
use std::hint::black_box;
use std::task::{Context, Waker};

use aevent_runtime::wait_queue::{Lock, WaitQueue};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn uncontended(criterion: &mut Criterion) {
    let lock = Lock::new();
    criterion.bench_function("lock_and_unlock", |bencher| {
        bencher.iter(|| {
            black_box(lock.try_lock());
            black_box(lock.unlock())
        })
    });
    let queue = WaitQueue::new();
    criterion.bench_function("notify_nobody", |bencher| bencher.iter(|| queue.notify(1)));
}

fn contended(criterion: &mut Criterion) {
    let mut cx = Context::from_waker(Waker::noop());
    for waiting in [1, 1_000] {
        let lock = Lock::new();
        lock.try_lock();
        let mut line = VecDeque::new();
        for _ in 1..waiting {
            let mut acquire = lock.lock();
            assert!(acquire.poll(&mut cx).is_pending());
            line.push_back(acquire);
        }
        criterion.bench_with_input(
            BenchmarkId::new("join_and_hand_over", waiting),
            &waiting,
            |bencher, _| {
                bencher.iter(|| {
                    let mut last = lock.lock();
                    let _ = last.poll(&mut cx);
                    line.push_back(last);
                    lock.unlock();
                    let mut first = line.pop_front().expect("one has just joined");
                    assert!(first.poll(&mut cx).is_ready());
                })
            },
        );
    }
}

criterion_group!(benches, uncontended, contended);
criterion_main!(benches);
