//! Letters from any thread are all collected, in order, and the bell is rung once for a batch.
// It makes system calls that miri does not know.
#![cfg(not(miri))]

mod support;

use std::os::fd::RawFd;
use std::thread;

use aevent_runtime::inbox::Inbox;
use support::{Watchdog, is_readable};

/// How often the bell was rung since this was asked last.
fn rung(bell: RawFd) -> u64 {
    let mut count = [0u8; 8];
    // SAFETY: eight bytes for the counter.
    let result = unsafe { libc::read(bell, count.as_mut_ptr().cast(), count.len()) };
    if result < 0 {
        return 0;
    }
    u64::from_ne_bytes(count)
}

fn collect<T>(inbox: &Inbox<T>) -> Vec<T> {
    inbox.answer();
    std::iter::from_fn(|| inbox.collect()).collect()
}

#[test]
fn a_batch_rings_once() {
    let inbox = Inbox::new().unwrap();
    assert!(!inbox.is_rung());
    for letter in 1..=3 {
        inbox.send(letter);
    }
    inbox.ring();
    assert!(inbox.is_rung());
    assert_eq!(rung(inbox.bell()), 1);
    assert_eq!(collect(&inbox), [1, 2, 3]);
    assert!(!inbox.is_rung());
}

#[test]
fn who_sends_after_the_answer_rings_again() {
    let inbox = Inbox::new().unwrap();
    inbox.send("before");
    inbox.answer();
    inbox.send("after");
    assert_eq!(rung(inbox.bell()), 2);
    // Collected with the first batch, and announced once more: a look too many, none too few.
    assert_eq!(inbox.collect(), Some("before"));
    assert_eq!(inbox.collect(), Some("after"));
    assert!(inbox.is_rung());
    assert_eq!(collect(&inbox), [""; 0]);
}

#[test]
fn the_bell_is_readable_until_it_is_read() {
    let inbox = Inbox::<()>::new().unwrap();
    assert!(!is_readable(inbox.bell(), 0));
    inbox.ring();
    assert!(is_readable(inbox.bell(), 0));
}

#[test]
fn of_letters_from_many_threads_none_is_lost() {
    let _watchdog = Watchdog::start();
    const LETTERS: usize = 10_000;
    let inbox = Inbox::new().unwrap();
    let mut next = [0; 3];
    thread::scope(|scope| {
        for sender in 0..next.len() {
            let inbox = &inbox;
            scope.spawn(move || (0..LETTERS).for_each(|number| inbox.send((sender, number))));
        }
        while next.iter().sum::<usize>() < LETTERS * next.len() {
            // As the owner does: waits for the bell, and only looks when it was rung.
            assert!(is_readable(inbox.bell(), -1));
            rung(inbox.bell());
            if inbox.is_rung() {
                for (sender, number) in collect(&inbox) {
                    assert_eq!(next[sender], number, "in the sender's order");
                    next[sender] += 1;
                }
            }
        }
    });
}

#[test]
fn letters_are_dropped_with_their_inbox() {
    let letter = std::sync::Arc::new(());
    let inbox = Inbox::new().unwrap();
    inbox.send(letter.clone());
    drop(inbox);
    assert_eq!(std::sync::Arc::strong_count(&letter), 1);
}
