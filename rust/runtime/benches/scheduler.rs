//! What it costs to park, unpark and pick a task, with others in the queue.

use std::hint::black_box;
use std::sync::Arc;

use aevent_runtime::scheduler::Scheduler;
use aevent_runtime::task::Task;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// Each task, when it runs, parks and unparks itself.
fn cycle(criterion: &mut Criterion) {
    for tasks in [1, 10_000] {
        let scheduler = Scheduler::new().expect("epoll is available");
        let all: Vec<Arc<Task<()>>> = (0..tasks)
            .map(|_| Task::new(scheduler.clone(), ()))
            .collect();
        for task in &all {
            task.begin_park();
            task.unpark();
        }
        criterion.bench_with_input(
            BenchmarkId::new("park_unpark_next", tasks),
            &tasks,
            |bencher, _| {
                bencher.iter(|| {
                    let task = scheduler.next().expect("all of them are ready");
                    task.begin_run();
                    task.begin_park();
                    task.unpark_owned();
                })
            },
        );
    }
}

fn slice(criterion: &mut Criterion) {
    let scheduler = Scheduler::<()>::new().expect("epoll is available");
    criterion.bench_function("is_look_due", |bencher| {
        bencher.iter(|| {
            if black_box(scheduler.is_look_due()) {
                scheduler.begin_slice();
            }
        })
    });
    criterion.bench_function("look", |bencher| bencher.iter(|| scheduler.look()));
}

fn timeout(criterion: &mut Criterion) {
    let scheduler = Scheduler::new().expect("epoll is available");
    let task = Task::new(scheduler.clone(), ());
    let deadline = aevent_runtime::clock::now() + 60_000_000_000;
    criterion.bench_function("timeout_that_does_not_fire", |bencher| {
        bencher.iter(|| {
            let key = scheduler.unpark_at(black_box(deadline), task.clone());
            scheduler.forget_deadline(key);
        })
    });
}

criterion_group!(benches, cycle, slice, timeout);
criterion_main!(benches);
