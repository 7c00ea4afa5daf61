//! How the cost of a timer grows with the number of timers that are set.

use std::hint::black_box;

use aevent_runtime::timers::Timers;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Deadlines are below 2⁴⁰ (eighteen minutes), spread evenly.
fn filled(count: usize) -> (Timers<usize>, Numbers) {
    let mut numbers = Numbers(88172645463325252);
    let mut timers = Timers::new();
    for value in 1..count {
        timers.insert(numbers.next() >> 24, value);
    }
    (timers, numbers)
}

fn timers(criterion: &mut Criterion) {
    for count in [1, 1_000, 1_000_000] {
        // A timeout that did not come to pass, later than all others: the common case.
        let (mut timers, _) = filled(count);
        let mut latest = 1 << 40;
        criterion.bench_with_input(
            BenchmarkId::new("insert_last_then_remove", count),
            &count,
            |bencher, _| {
                bencher.iter(|| {
                    latest += 1;
                    let key = timers.insert(black_box(latest), 0);
                    timers.remove(key)
                })
            },
        );
        let (mut timers, mut numbers) = filled(count);
        criterion.bench_with_input(
            BenchmarkId::new("insert_anywhere_then_remove", count),
            &count,
            |bencher, _| {
                bencher.iter(|| {
                    let key = timers.insert(black_box(numbers.next() >> 24), 0);
                    timers.remove(key)
                })
            },
        );
        let (mut timers, mut numbers) = filled(count);
        criterion.bench_with_input(
            BenchmarkId::new("insert_anywhere_then_pop_earliest", count),
            &count,
            |bencher, _| {
                // Time moves on by what was popped, so that the heap does not fill up with
                // deadlines that lie behind.
                let mut now = 0;
                bencher.iter(|| {
                    let deadline = now + (numbers.next() >> 24);
                    timers.insert(black_box(deadline), 0);
                    now = timers.next_deadline().expect("one was just inserted");
                    timers.pop_expired(now)
                })
            },
        );
    }
}

criterion_group!(benches, timers);
criterion_main!(benches);
