//! Timers fire by deadline, equal ones by insertion, and a removed one never.

use std::collections::BTreeMap;
use std::rc::Rc;

use aevent_runtime::clock::NEVER;
use aevent_runtime::timers::{TimerKey, Timers};

/// A deterministic source of numbers (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[test]
fn equal_deadlines_fire_in_insertion_order() {
    let mut timers = Timers::new();
    for value in 0..1000 {
        timers.insert(7, value);
    }
    let fired: Vec<i32> = std::iter::from_fn(|| timers.pop_expired(7)).collect();
    assert_eq!(fired, (0..1000).collect::<Vec<_>>());
}

#[test]
fn a_timer_does_not_fire_before_its_deadline() {
    let mut timers = Timers::new();
    timers.insert(10, "ten");
    timers.insert(NEVER, "never");
    assert_eq!(timers.next_deadline(), Some(10));
    assert_eq!(timers.pop_expired(9), None);
    assert_eq!(timers.pop_expired(10), Some("ten"));
    assert_eq!(timers.pop_expired(NEVER - 1), None);
    assert_eq!(timers.len(), 1);
}

#[test]
fn a_key_outlives_its_timer_harmlessly() {
    let mut timers = Timers::new();
    let removed = timers.insert(1, "removed");
    assert_eq!(timers.remove(removed), Some("removed"));
    let fired = timers.insert(2, "fired");
    assert_ne!(removed, fired);
    assert_eq!(timers.pop_expired(2), Some("fired"));
    let cleared = timers.insert(3, "cleared");
    timers.clear();
    assert!(timers.is_empty());
    assert_eq!(timers.next_deadline(), None);
    let live = timers.insert(4, "live");
    for stale in [removed, fired, cleared] {
        assert_eq!(timers.remove(stale), None);
    }
    assert_eq!(timers.remove(live), Some("live"));
    assert_eq!(timers.remove(live), None);
}

#[test]
fn values_are_dropped_once_and_at_once() {
    let value = Rc::new(());
    let mut timers = Timers::new();
    let key = timers.insert(1, Rc::clone(&value));
    timers.insert(2, Rc::clone(&value));
    timers.insert(3, Rc::clone(&value));
    assert_eq!(Rc::strong_count(&value), 4);
    timers.remove(key);
    assert_eq!(Rc::strong_count(&value), 3);
    timers.pop_expired(2);
    assert_eq!(Rc::strong_count(&value), 2);
    timers.clear();
    assert_eq!(Rc::strong_count(&value), 1);
}

/// Whatever is done in whatever order, the heap agrees with an ordered map.
#[test]
fn random_operations_agree_with_an_ordered_map() {
    for seed in 1..=40 {
        let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15u64.wrapping_mul(seed));
        let mut timers = Timers::new();
        let mut model: BTreeMap<(u64, u64), TimerKey> = BTreeMap::new();
        let mut keys: Vec<(TimerKey, (u64, u64))> = Vec::new();
        let mut now = 0;
        // Few distinct deadlines in some rounds, so that ties are common.
        let spread = if seed % 2 == 0 { 8 } else { 10_000 };
        for sequence in 0..if cfg!(miri) { 200 } else { 4000 } {
            match numbers.below(10) {
                0..=4 => {
                    let place = (now + numbers.below(spread), sequence);
                    let key = timers.insert(place.0, place);
                    model.insert(place, key);
                    keys.push((key, place));
                }
                5..=7 if !keys.is_empty() => {
                    let chosen = numbers.below(keys.len() as u64) as usize;
                    let (key, place) = keys.swap_remove(chosen);
                    let expected = model.remove(&place).map(|_| place);
                    assert_eq!(timers.remove(key), expected);
                }
                _ => {
                    now += numbers.below(spread / 4 + 1);
                    while let Some(place) = timers.pop_expired(now) {
                        let (first, _) = model.pop_first().expect("the model holds it too");
                        assert_eq!(place, first);
                        assert!(place.0 <= now);
                    }
                }
            }
            assert_eq!(timers.len(), model.len());
            let earliest = model.first_key_value().map(|(place, _)| place.0);
            assert_eq!(timers.next_deadline(), earliest);
        }
        let rest: Vec<_> = std::iter::from_fn(|| timers.pop_expired(NEVER)).collect();
        assert_eq!(rest, model.into_keys().collect::<Vec<_>>());
    }
}

#[test]
#[cfg_attr(miri, ignore = "a million of anything takes miri minutes")]
fn a_million_timers_are_fine() {
    let mut numbers = Numbers(88172645463325252);
    let mut timers = Timers::new();
    let keys: Vec<_> = (0..1_000_000u64)
        .map(|_| {
            let deadline = numbers.next();
            timers.insert(deadline, deadline)
        })
        .collect();
    for key in keys.iter().step_by(2) {
        assert!(timers.remove(*key).is_some());
    }
    assert_eq!(timers.len(), 500_000);
    let mut last = 0;
    while let Some(deadline) = timers.pop_expired(NEVER) {
        assert!(last <= deadline);
        last = deadline;
    }
    assert!(timers.is_empty());
}
