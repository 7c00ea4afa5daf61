//! What was learnt about a descriptor number is void when it has a new owner.

use std::thread;

use aevent_runtime::descriptor::{generation, renew};

// Numbers that no open descriptor of this process has.
const FIRST: i32 = 900_000;

#[test]
fn a_renewal_changes_the_generation_of_its_number_only() {
    let (fd, neighbour) = (FIRST, FIRST + 1);
    let (before, other) = (generation(fd), generation(neighbour));
    assert_eq!(generation(fd), before, "asking changes nothing");
    let renewed = renew(fd);
    assert_ne!(renewed, before);
    assert_eq!(generation(fd), renewed);
    assert_eq!(generation(neighbour), other);
}

#[test]
fn numbers_beyond_the_table_have_generations_too() {
    let before = generation(i32::MAX);
    assert_ne!(renew(i32::MAX), before);
}

#[test]
fn renewals_in_several_threads_all_count() {
    let fd = FIRST + 100;
    let before = generation(fd);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    renew(fd);
                }
            });
        }
    });
    assert_eq!(generation(fd).wrapping_sub(before), 4000);
}
