//! Every interleaving of an inbox's owner and its senders, up to three preemptions.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p aevent-runtime --release --test loom_inbox`.
#![cfg(loom)]

use std::sync::Arc;

use aevent_runtime::inbox::Inbox;
use loom::sync::atomic::Ordering;
use loom::thread;

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(check);
}

/// Stands for a wait on the epoll descriptor: whether the bell was rung since this was asked last.
fn take_edge(inbox: &Inbox<u32>) -> bool {
    inbox.rings.swap(0, Ordering::AcqRel) > 0
}

/// What a look of the scheduler's does with the inbox.
fn look(inbox: &Inbox<u32>, collected: &mut Vec<u32>) {
    if inbox.is_rung() {
        inbox.answer();
        collected.extend(std::iter::from_fn(|| inbox.collect()));
    }
}

/// The owner looks `looks` times while the letters come in, and then waits unless it is rung.
fn nobody_is_left_unnoticed(senders: u32, looks: usize) {
    let inbox = Arc::new(Inbox::new().unwrap());
    let sending: Vec<_> = (0..senders)
        .map(|letter| {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.send(letter))
        })
        .collect();
    let mut collected = Vec::new();
    for _ in 0..looks {
        take_edge(&inbox);
        look(&inbox, &mut collected);
    }
    let waits = !inbox.is_rung();
    for sender in sending {
        sender.join().unwrap();
    }
    let wakes = take_edge(&inbox);
    if !waits || wakes {
        look(&inbox, &mut collected);
    }
    collected.sort_unstable();
    assert_eq!(collected, (0..senders).collect::<Vec<_>>());
}

#[test]
fn a_letter_is_never_left_unnoticed() {
    model(|| nobody_is_left_unnoticed(1, 2));
}

#[test]
fn of_two_senders_nobody_is_left_unnoticed() {
    model(|| nobody_is_left_unnoticed(2, 1));
}

#[test]
fn a_notification_without_a_letter_is_noticed() {
    model(|| {
        let inbox = Arc::new(Inbox::<u32>::new().unwrap());
        let ringing = Arc::clone(&inbox);
        let ringer = thread::spawn(move || ringing.ring());
        take_edge(&inbox);
        look(&inbox, &mut Vec::new());
        let waits = !inbox.is_rung();
        ringer.join().unwrap();
        // Whoever waits now was either rung for before, and has looked since, or is woken.
        assert!(!waits || take_edge(&inbox) || !inbox.is_rung());
    });
}
